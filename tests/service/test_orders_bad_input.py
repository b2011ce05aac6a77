"""No body, id, query or key makes the orders service fail, hang or answer wrongly."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from yarl import URL

from shared import metrics

pytestmark = pytest.mark.asyncio(loop_scope="module")

GOOD: dict[str, Any] = {"userId": "u1", "sku": "burger", "quantity": 2, "note": "x"}


def body(**changes: Any) -> bytes:
    return json.dumps(GOOD | changes).encode()


def raw(field: str, value: str) -> bytes:
    """A good order, except that one field has this text as its value."""
    return body(**{field: "@"}).replace(b'"@"', value.encode("utf-8", "surrogatepass"))


def failures() -> float:
    """The number of 5xx answers so far, counted by the service, also those that no client waited for."""
    return sum(
        sample.value
        for family in metrics.REQUESTS.collect()
        for sample in family.samples
        if sample.name.endswith("_count") and sample.labels["http_response_status_code"].startswith("5")
    )


@pytest.fixture(autouse=True, scope="module")
def nothing_failed() -> Iterator[None]:
    """Check that no test of this module caused a 5xx."""
    before = failures()
    yield
    assert failures() == before


NOT_JSON = {
    "empty": b"",
    "blank": b" \n",
    "truncated": body()[:-1],
    "truncated in a string": body()[:15],
    "trailing garbage": body() + b"x",
    "two objects": body() + body(),
    "BOM": b"\xef\xbb\xbf" + body(),
    "UTF-16": body().decode().encode("utf-16"),
    "UTF-16 without BOM": body().decode().encode("utf-16-le"),
    "UTF-32": body().decode().encode("utf-32"),
    "Latin-1": '{"userId":"\u00e4"}'.encode("latin-1"),
    "invalid UTF-8": raw("note", '"?"').replace(b"?", b"\xff\xfe"),
    "overlong UTF-8": raw("note", '"?"').replace(b"?", b"\xc0\xaf"),
    "UTF-8 of a surrogate": raw("note", '"\ud800"'),
    "single quotes": b"{'userId':'u1'}",
    "a comment": b"/* */" + body(),
    "trailing comma": body()[:-1] + b",}",
    "no key": b"{1:2}",
    "form": b"userId=u1&sku=burger&quantity=2",
    "depth 30,000": b"[" * 30_000 + b"]" * 30_000,
    "depth 30,000 in a field": b'{"userId":' * 3_000 + b"1" + b"}" * 3_000,
    "open brackets": b"[" * 60_000,
    "NaN": raw("quantity", "NaN"),
    "Infinity": raw("quantity", "Infinity"),
    "-Infinity": raw("quantity", "-Infinity"),
    "1e999": raw("quantity", "1e999"),
    "hexadecimal": raw("quantity", "0x10"),
    "leading zero": raw("quantity", "02"),
    "plus": raw("quantity", "+2"),
    "lone surrogate": raw("note", r'"\ud800"'),
    "lone low surrogate": raw("userId", r'"\udc00x"'),
    "swapped surrogates": raw("sku", r'"\udc00\ud800"'),
    "raw newline in a string": raw("note", '"a\nb"'),
    "raw NUL in a string": raw("note", '"a\0b"'),
    "5,000 digits": raw("quantity", "1" * 5000),
    "binary": bytes(range(256)),
}

NOT_AN_ORDER = {
    "array": b"[]",
    "array of orders": b"[" + body() + b"]",
    "string": b'"x"',
    "number": b"1",
    "true": b"true",
    "quantity 1.0": raw("quantity", "1.0"),
    "quantity 1.5": raw("quantity", "1.5"),
    "quantity 1e2": raw("quantity", "1e2"),
    "quantity -0.0": raw("quantity", "-0.0"),
    "quantity true": raw("quantity", "true"),
    "quantity text": raw("quantity", '"1"'),
    "quantity list": raw("quantity", "[1]"),
    "quantity object": raw("quantity", "{}"),
    "2^64": raw("quantity", str(2**64)),
    "-2^63-1": raw("quantity", str(-(2**63) - 1)),
    "300 digits": raw("quantity", "1" * 300),
    "userId number": body(userId=1),
    "userId list": body(userId=["u1"]),
    "userId object": body(userId={"a": 1}),
    "userId false": body(userId=False),
    "sku true": body(sku=True),
    "sku zero": body(sku=0),
    "note number": body(note=5),
    "note list": body(note=[]),
    "NUL in the user": body(userId="u\0"),
    "NUL in the sku": body(sku="\0"),
    "NUL in the note": body(note="a\0b"),
}

MISSING = {
    "null": (b"null", "userId is required"),
    "nothing": (b"{}", "userId is required"),
    "no user": (body(userId=None), "userId is required"),
    "empty user": (body(userId=""), "userId is required"),
    "blank user": (body(userId=" \t\n\u3000"), "userId is required"),
    "user misspelled": (b'{"userid":"u1"}', "userId is required"),
    "no sku": (b'{"userId":"u1"}', "sku is required"),
    "null sku": (body(sku=None), "sku is required"),
    "empty sku": (body(sku=""), "sku is required"),
    "blank sku": (body(sku="\r\n"), "sku is required"),
    "no quantity": (b'{"userId":"u1","sku":"burger"}', "quantity must be > 0"),
    "null quantity": (body(quantity=None), "quantity must be > 0"),
    "zero": (body(quantity=0), "quantity must be > 0"),
    "minus zero": (raw("quantity", "-0"), "quantity must be > 0"),
    "minus one": (body(quantity=-1), "quantity must be > 0"),
    "-2^31": (body(quantity=-(2**31)), "quantity must be > 0"),
    "-2^63": (body(quantity=-(2**63)), "quantity must be > 0"),
}

TOO_MUCH = {
    "10,001": (body(quantity=10_001), "quantity"),
    "2^31-1": (body(quantity=2**31 - 1), "quantity"),
    "2^31": (body(quantity=2**31), "quantity"),
    "2^31+1": (body(quantity=2**31 + 1), "quantity"),
    "2^63-1": (body(quantity=2**63 - 1), "quantity"),
    "2^63": (body(quantity=2**63), "quantity"),
    "2^64-1": (body(quantity=2**64 - 1), "quantity"),
    "long user": (body(userId="u" * 129), "userId"),
    "long sku": (body(sku="s" * 129), "sku"),
    "long note": (body(note="n" * 2001), "note"),
    "long note of wide characters": (
        json.dumps(GOOD | {"note": "\U0001f35f" * 2001}, ensure_ascii=False).encode(),
        "note",
    ),
}

ACCEPTED = {
    "longest user": {"userId": "u" * 128},
    "longest user with blanks": {"userId": " " * 200 + "u" * 128},
    "longest sku": {"sku": "s" * 128},
    "longest note": {"note": "n" * 2000},
    "longest note of wide characters": {"note": "\U0001f35f" * 2000},
    "largest quantity": {"quantity": 10_000},
    "right-to-left mark": {"note": "\u202eetirw", "userId": "\u200fu1"},
    "CR and LF": {"note": "a\r\nSet-Cookie: x=1\r\n\r\n", "userId": "a\r\nb"},
    "SQL": {"userId": "'; drop table orders; --", "sku": "$1"},
    "script": {"note": "<script>alert(1)</script>", "sku": "<b>"},
    "homoglyph": {"sku": "b\u0443rger"},
    "pair": {"note": "\U0001f354"},
    "combining": {"userId": "e\u0301" * 64},
    "unit separator": {"note": "\x1f\x7f\x80"},
    "not a character": {"note": "\uffff\ufffe"},
    "backslashes": {"note": "\\u0000 \\x00 %00", "sku": "\\"},
    "braces": {"note": "{} {0} %s %(x)s ${jndi:ldap://x}"},
    "path": {"userId": "../../etc/passwd", "sku": "/"},
    "empty note": {"note": ""},
    "only a zero-width space": {"sku": "\u200b"},
}


async def assert_invalid(answer: Any, detail: str | None = None) -> str:
    problem = await answer.json(content_type="application/problem+json")
    assert (answer.status, problem["status"], problem["type"]) == (400, 400, "/problems/invalid"), problem
    assert detail in (None, problem["detail"])
    return str(problem["detail"])


@pytest.mark.parametrize("data", (NOT_JSON | NOT_AN_ORDER).values(), ids=(NOT_JSON | NOT_AN_ORDER))
async def test_a_body_that_is_no_json_order_is_invalid_json(orders_for_all: Any, data: bytes) -> None:
    await assert_invalid(await orders_for_all.post("/v1/orders", data=data), "invalid json")


@pytest.mark.parametrize(("data", "detail"), MISSING.values(), ids=MISSING)
async def test_a_missing_field_is_named(orders_for_all: Any, data: bytes, detail: str) -> None:
    await assert_invalid(await orders_for_all.post("/v1/orders", data=data), detail)


@pytest.mark.parametrize(("data", "field"), TOO_MUCH.values(), ids=TOO_MUCH)
async def test_a_too_long_or_too_large_field_is_named(orders_for_all: Any, data: bytes, field: str) -> None:
    assert (await assert_invalid(await orders_for_all.post("/v1/orders", data=data))).startswith(field)


@pytest.mark.parametrize("changes", ACCEPTED.values(), ids=ACCEPTED)
async def test_unusual_but_valid_values_are_kept_unchanged(orders_for_all: Any, changes: dict[str, Any]) -> None:
    answer = await orders_for_all.post("/v1/orders", data=body(**changes))
    assert answer.status == 202, await answer.text()
    shown = await (await orders_for_all.get(answer.headers["Location"])).json()
    wanted = {k: v.strip() if k in ("userId", "sku") else v for k, v in (GOOD | changes).items()}
    assert {name: shown[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    "data",
    [
        body(extra={"deep": [1, 2.5, None, True]}, id=7, status="CONFIRMED"),
        b'{"quantity":-1,' + body()[1:],  # the last of two counts
        b" \r\n\t" + body() + b"\n",
        raw("extra", "1e308"),
        raw("extra", str(2**64)),
    ],
    ids=["unknown fields", "duplicate keys", "white space", "huge float", "huge integer"],
)
async def test_unknown_or_doubled_fields_and_white_space_change_nothing(orders_for_all: Any, data: bytes) -> None:
    answer = await orders_for_all.post("/v1/orders", data=data)
    assert answer.status == 202, await answer.text()
    shown = await (await orders_for_all.get(answer.headers["Location"])).json()
    assert (shown["quantity"], shown["status"]) == (2, "PENDING")
    assert answer.headers["Location"] == f"/v1/orders/{shown['id']}"


@pytest.mark.parametrize(
    "data",
    [
        body(note="n" * 1_000_000),
        body(userId="u" * 1_000_000),
        b"[" * 100_000 + b"]" * 100_000,
        b"{" + b",".join(b'"%d":1' % n for n in range(1_000_000)) + b"}",
        b" " * 65_537,
    ],
    ids=["1 M note", "1 M user", "depth 100,000", "a million keys", "blanks"],
)
async def test_a_body_over_64_kib_is_413(orders_for_all: Any, data: bytes) -> None:
    answer = await orders_for_all.post("/v1/orders", data=io.BytesIO(data))
    problem = await answer.json(content_type="application/problem+json")
    assert (answer.status, problem["status"]) == (413, 413)


BAD_IDS = [
    "abc",
    "0",
    "-1",
    "+1",
    "1.0",
    "0x10",
    "1e3",
    "00000000000000000001",
    "\u0661",
    "\u0967\u0968",
    "%EF%BC%91",
    "1" * 20,
    "1" * 5000,
    "9223372036854775808",
    "9999999999999999999",
    "18446744073709551617",
    "%2e%2e",
    "%2F",
    "%00",
    "1%00",
    "1%0A",
    "%201",
    "1%20",
    "1,2",
    "1;2",
    "null",
    "NaN",
    "true",
    "[]",
    "'",
    "1'--",
    "%ff",
    "%ED%A0%80",
    "\u202e1",
    "1_000",
    "\U0001d7cf",
]


@pytest.mark.parametrize("order_id", BAD_IDS, ids=lambda id_: ascii(id_[:24]))
@pytest.mark.parametrize(
    ("method", "path"), [("get", "/v1/orders/{}"), ("post", "/v1/orders/{}/cancel")], ids=["get", "cancel"]
)
async def test_an_id_is_a_positive_64_bit_integer_in_ascii_digits(
    orders_for_all: Any, method: str, path: str, order_id: str
) -> None:
    url = URL(path.format(order_id), encoded=order_id.isascii())
    await assert_invalid(await getattr(orders_for_all, method)(url), "invalid id")


@pytest.mark.parametrize("order_id", ["9223372036854775807", "000000000000009999", "999999"])
async def test_an_id_at_the_limit_is_valid_but_unknown(orders_for_all: Any, order_id: str) -> None:
    for answer in (
        await orders_for_all.get(f"/v1/orders/{order_id}"),
        await orders_for_all.post(f"/v1/orders/{order_id}/cancel"),
    ):
        assert (answer.status, (await answer.json(content_type=None))["detail"]) == (404, "not found")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/orders//",
        "//v1/orders/1",
        "/v1/orders//cancel",
        "/v1/orders/1/2",
        "/v1/orders/{}",
    ],
)
async def test_an_unknown_path_is_a_problem(orders_for_all: Any, path: str) -> None:
    origin = f"http://127.0.0.1:{orders_for_all.port}"
    async with orders_for_all.session.get(URL(origin + path, encoded=True)) as answer:
        assert (answer.status, answer.content_type) == (404, "application/problem+json")


BAD_QUERIES = [
    *(
        f"limit={value}"
        for value in ("0", "-1", "101", "1.0", "abc", "", "+1", "%D9%A1", "9" * 30, "1%00", "1%0A", "null")
    ),
    *(
        f"cursor={value}"
        for value in ("0", "-1", "abc", "", "9223372036854775808", "1" * 5000, "1.5", "%D9%A1", "%00", "eyJpZCI6MX0=")
    ),
    *(
        f"status={value}"
        for value in ("", "pending", "PENDING%20", "OPEN", "%00", "PENDING,CONFIRMED", "%ff", "'%20or%20true--")
    ),
    "userId=%00",
    "sku=a%00b",
]


@pytest.mark.parametrize("query", BAD_QUERIES, ids=lambda q: q[:30])
async def test_an_invalid_query_is_refused(orders_for_all: Any, query: str) -> None:
    detail = await assert_invalid(await orders_for_all.get(URL(f"/v1/orders?{query}", encoded=True)))
    assert detail.startswith(query.split("=", maxsplit=1)[0])


@pytest.mark.parametrize(
    "query",
    [
        "userId=",
        "sku=%ff",
        "userId=%ED%A0%80",
        "userId=%F0%9F%8D%94",
        "userId=" + "u" * 5000,
        "limit=100",
        "limit=1&limit=abc",
        "x",
        "&&&",
        "=",
        "userId=a&userId=b",
        "cursor=9223372036854775807",
        "limit=007",
        "userId='%20or%20''='",
        "sku=%25",
    ],
    ids=lambda q: q[:30],
)
async def test_an_unusual_but_valid_query_is_answered(orders_for_all: Any, query: str) -> None:
    assert (await orders_for_all.get(URL(f"/v1/orders?{query}", encoded=True))).status == 200


@pytest.mark.parametrize(
    "wait",
    [
        "31",
        "-1",
        "abc",
        "",
        "1e1",
        "30.001",
        "inf",
        "nan",
        "%D9%A1",
        "999999",
        "1,5",
        "0x1",
        "1.",
        ".5",
        "5s",
        "%00",
        "true",
    ],
)
async def test_a_wait_is_a_number_of_seconds_up_to_30(orders_for_all: Any, wait: str) -> None:
    answer = await orders_for_all.get(URL(f"/v1/orders/1?wait={wait}", encoded=True))
    assert (await assert_invalid(answer)).startswith("wait must be")


@pytest.mark.parametrize(
    "key", ["", " ", "a" * 256, "\u00e4", "a\tb", "k\x80", "\U0001f354"], ids=lambda key: ascii(key[:10])
)
async def test_a_bad_idempotency_key_is_refused_and_nothing_is_placed(orders_for_all: Any, key: str) -> None:
    before = await (await orders_for_all.get("/v1/orders?limit=1")).json()
    answer = await orders_for_all.post("/v1/orders", data=body(), headers={"Idempotency-Key": key})
    assert (await assert_invalid(answer)).startswith("Idempotency-Key")
    assert await (await orders_for_all.get("/v1/orders?limit=1")).json() == before


async def test_two_idempotency_keys_are_refused(orders_for_all: Any) -> None:
    headers = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    await assert_invalid(await orders_for_all.post("/v1/orders", data=body(), headers=headers))


@pytest.mark.parametrize("key", ["a", "~" * 255, "a b", "' or 1=1 --", "%00", '"', "{}"])
async def test_a_printable_idempotency_key_is_accepted(orders_for_all: Any, key: str) -> None:
    for _ in range(2):
        answer = await orders_for_all.post("/v1/orders", data=body(), headers={"Idempotency-Key": key})
        assert answer.status == 202, await answer.text()


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "TRACE", "PROPFIND", "PURGE", "LOCK"])
@pytest.mark.parametrize("path", ["/v1/orders", "/v1/orders/1", "/v1/orders/1/cancel", "/healthz"])
async def test_an_unsupported_verb_is_405(orders_for_all: Any, method: str, path: str) -> None:
    answer = await orders_for_all.request(method, path, data=body())
    assert (answer.status, answer.content_type) == (405, "application/problem+json")
    assert answer.headers["Allow"]


@pytest.mark.parametrize("traceparent", ["", "x" * 5000, "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "\u00e4", "00-xyz"])
async def test_an_invalid_traceparent_does_no_harm(orders_for_all: Any, traceparent: str) -> None:
    answer = await orders_for_all.post("/v1/orders", data=body(), headers={"traceparent": traceparent})
    assert answer.status == 202
