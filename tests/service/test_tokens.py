"""Access tokens: no forged, wrong or odd token is accepted, and keys may change or be unavailable without harm."""

import asyncio
import base64
import gzip
import hashlib
import hmac
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.web import tokens, verification
from tests.builders import eventually
from tests.conftest import Database, copied_from
from tests.lag import Lag
from tests.service.conftest import Client, serving
from tests.tokens import ADMIN, Mint, publishing

MINT = Mint()
THIEF = Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(65537, 2048)
CURVE = ec.generate_private_key(ec.SECP256R1())
HEADER = {"alg": "Ed25519", "kid": MINT.kid, "typ": "at+jwt"}
ORDER = b'{"product_id":1}'

Sign = Callable[[bytes], bytes]


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(**changes: Any) -> dict[str, Any]:
    """An administrator's claims for an hour; a claim of None is left out."""
    now = int(time.time())
    named = {"iss": tokens.ISSUER, "aud": tokens.AUDIENCE, "sub": ADMIN, "roles": ["admin"], "sid": "a session"}
    found = {**named, "iat": now, "exp": now + 3600, **changes}
    return {name: value for name, value in found.items() if value is not None}


def made(header: Any = HEADER, payload: Any = None, sign: Sign = MINT.key.sign) -> str:
    """A token of JSON values or of raw bytes, signed by the published key by default."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload or claims())]
    signed = f"{b64(parts[0])}.{b64(parts[1])}"
    return f"{signed}.{b64(sign(signed.encode()))}"


def headed(sign: Sign = MINT.key.sign, **changes: Any) -> str:
    found = {**HEADER, **changes}
    return made({name: value for name, value in found.items() if value is not None}, sign=sign)


def claiming(**changes: Any) -> str:
    return made(payload=claims(**changes))


def written(name: str, value: bytes) -> str:
    """A token with a claim whose value is these raw bytes."""
    return made(payload=json.dumps(claims(**{name: "@"})).encode().replace(b'"@"', value))


def nothing(_: bytes) -> bytes:
    return b""


def sha(bits: int, key: bytes) -> Sign:
    return lambda data: hmac.new(key, data, f"sha{bits}").digest()


def rs256(data: bytes) -> bytes:
    return RSA.sign(data, padding.PKCS1v15(), hashes.SHA256())


def es256(data: bytes) -> bytes:
    return b"".join(n.to_bytes(32, "big") for n in decode_dss_signature(CURVE.sign(data, ec.ECDSA(hashes.SHA256()))))


def flipped(part: int, at: int) -> str:
    """A good token with one bit of one part flipped."""
    parts = [base64.urlsafe_b64decode(text + "==") for text in made().split(".")]
    changed = bytearray(parts[part])
    changed[at] ^= 1
    parts[part] = bytes(changed)
    return ".".join(map(b64, parts))


def respelled() -> str:
    """The same signature, with a change in the four bits that its last character does not use."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    good = made()
    return good[:-1] + alphabet[alphabet.index(good[-1]) + 1]


PUBLIC = MINT.key.public_key()
JWK = MINT.published()["keys"][0]
THIEFS_JWK = {**JWK, "x": b64(THIEF.public_key().public_bytes_raw())}
THIEFS_URL = "http://127.0.0.1:9/jwks.json"
PEM = PUBLIC.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
PUBLIC_FORMS = {
    "raw": PUBLIC.public_bytes_raw(),
    "PEM": PEM,
    "PEM in one line": PEM.strip(),
    "DER": PUBLIC.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    "OpenSSH": PUBLIC.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH),
    "JWK": json.dumps(JWK).encode(),
    "JWK without blanks": json.dumps(JWK, separators=(",", ":")).encode(),
    "JWK set": json.dumps(MINT.published()).encode(),
    "x": JWK["x"].encode(),
    "kid": MINT.kid.encode(),
    "nothing": b"",
}
NOW = int(time.time())

FORGED = {
    **{f"alg {alg!r}": headed(nothing, alg=alg) for alg in ("none", "None", "NONE", "nOnE", "", "none ", 0, [], {})},
    **{f"alg {alg!r} with a signature": headed(alg=alg) for alg in ("none", "eddsa", "ed25519", "Ed448", ["EdDSA"])},
    "no alg": headed(nothing, alg=None),
    "no alg, signed": headed(alg=None),
    **{
        f"HS{bits} by the public key's {form}": headed(sha(bits, key), alg=f"HS{bits}")
        for bits in (256, 384, 512)
        for form, key in PUBLIC_FORMS.items()
    },
    **{f"Ed25519, but HMAC by {form}": headed(sha(512, key)) for form, key in PUBLIC_FORMS.items()},
    "RS256 by a key of one's own": headed(rs256, alg="RS256"),
    "ES256 by a key of one's own": headed(es256, alg="ES256"),
    **{f"ES256 said to be {alg}": headed(es256, alg=alg) for alg in tokens.ALGORITHMS},
    "another key with the published kid": headed(THIEF.sign),
    "another key under the former name": headed(THIEF.sign, alg="EdDSA"),
    "another key with a kid of its own": headed(THIEF.sign, kid="thief"),
    "another key without kid": headed(THIEF.sign, kid=None),
    "the right key without kid": headed(kid=None),
    **{
        f"kid {str(kid)[:24]!r}": headed(kid=kid)
        for kid in ("", "unknown", "TEST", "test ", "test\0", "te\u0455t", "../../../dev/null", "' or 1=1 --", "test,x")
    },
    **{f"kid of {kid!r}": headed(kid=kid) for kid in (0, 1, True, [MINT.kid], {"kid": MINT.kid}, 1.5)},
    "kid null": made({**HEADER, "kid": None}),
    "kid of 3,000 characters": headed(kid="k" * 2900),
    "jku": headed(THIEF.sign, kid="thief", jku=THIEFS_URL),
    "jku with the published kid": headed(THIEF.sign, jku=THIEFS_URL),
    "x5u": headed(THIEF.sign, x5u=THIEFS_URL),
    "jwk": headed(THIEF.sign, jwk=THIEFS_JWK),
    "jwk with a kid of its own": headed(THIEF.sign, kid="thief", jwk=THIEFS_JWK | {"kid": "thief"}),
    "x5c": headed(rs256, x5c=["AA=="]),
    **{f"crit {crit}": headed(crit=crit) for crit in (["exp"], ["b64"], [], "b64", None or 0)},
    "b64 false": headed(b64=False),
    "b64 false and crit": headed(b64=False, crit=["b64"]),
    **{f"typ {typ!r}": headed(typ=typ) for typ in ("JWT", "rt+jwt", "refresh", "", ["at+jwt"], 1, "at+jwt ")},
    "no typ": headed(typ=None),
    **{
        f"iss {iss!r}": claiming(iss=iss)
        for iss in ("", "quickbite", "quickbite/auth/", "Quickbite/auth", "https://x", [tokens.ISSUER], {}, 1, None)
    },
    **{
        f"aud {aud!r}": claiming(aud=aud)
        for aud in ("", "other", "quickbit", "Quickbite", [tokens.AUDIENCE], ["x", tokens.AUDIENCE], {}, 1, None)
    },
    "expired": claiming(exp=NOW - 60),
    "expired just beyond the leeway": claiming(exp=NOW - tokens.LEEWAY_SECONDS - 1),
    **{f"exp {exp!r}": claiming(exp=exp) for exp in (None, "", "x", str(NOW + 99), -1, 0, True, [NOW + 99], {})},
    **{
        f"exp {exp.decode()}": written("exp", exp)
        for exp in (b"null", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"1e300", b"%d.5" % (NOW + 99), b"-1e300")
    },
    "exp of 3,000 digits with a minus": written("exp", b"-" + b"9" * 2500),
    **{f"nbf {nbf!r}": claiming(nbf=nbf) for nbf in (NOW + 86_400, "x", [], 2**70)},
    "nbf Infinity": written("nbf", b"Infinity"),
    "iat of tomorrow": claiming(iat=NOW + 86_400),
    **{f"iat {iat!r}": claiming(iat=iat) for iat in ("x", None, [], {}, 2**70)},
    "iat NaN": written("iat", b"NaN"),
    **{f"sub {sub!r}": claiming(sub=sub) for sub in ("", None, 1, True, ["1"], {"id": "1"}, 1.5)},
    "sub null": written("sub", b"null"),
    **{
        f"roles {roles!r}": claiming(roles=roles) for roles in (None, "admin", ["admin", 1], [["admin"]], [None], 1, {})
    },
    "roles null": written("roles", b"null"),
    "roles an object": claiming(roles={"admin": True}),
    **{f"sid {sid!r}": claiming(sid=sid) for sid in (None, "", 1, ["a"], {})},
    "a refresh token": "0" * 32 + "." + "x" * 43,
    "without its signature": made().rpartition(".")[0] + ".",
    "signature of 63 bytes": made(sign=lambda data: MINT.key.sign(data)[:63]),
    "signature of 65 bytes": made(sign=lambda data: MINT.key.sign(data) + b"\0"),
    "signature of zeros": made(sign=lambda _: bytes(64)),
    "signature of zeros and the base point": made(sign=lambda _: b"\x01" + bytes(63)),
    "signature of something else": made(sign=lambda _: MINT.key.sign(b"something else")),
    "signature of the digest": made(sign=lambda data: MINT.key.sign(hashlib.sha512(data).digest())),
    "signature with extra bits": respelled(),
    "signature padded": made() + "==",
    "signature with a line's end": made() + "%0a",
    "signature with junk": made()[:-5] + "!" + made()[-5:],
    "signature in the alphabet with + and /": f"{made().rpartition('.')[0]}.{'+/' * 43}",
    **{f"a bit of part {part} at {at}": flipped(part, at) for part in range(3) for at in (0, 20, -1)},
    "the claims of another": ".".join([*made().split(".")[:1], b64(json.dumps(claims(sub="2")).encode())])
    + "."
    + made().split(".")[2],
    "two dots at the end": made() + ".",
    "four dots": made() + ".x.y",
    "no dots": made().replace(".", ""),
    "one dot": made().replace(".", "", 1),
    "only dots": "..",
    "empty parts": f"..{made().split('.')[2]}",
    "blanks inside": made().replace(".", " . "),
    "quoted": f'"{made()}"',
    "in brackets": f"<{made()}>",
    "with a comma": f"{made()}, {made()}",
    "twice": made() + made(),
    "nested": made({**HEADER, "cty": "JWT"}, made().encode()),
    "looks like JWE": ".".join([b64(b'{"alg":"dir","enc":"A256GCM"}'), "", b64(b"0" * 12), b64(b"x"), b64(b"0" * 16)]),
    "JSON serialization": json.dumps(dict(zip(("protected", "payload", "signature"), made().split("."), strict=True))),
    "compressed": made({**HEADER, "zip": "DEF"}, gzip.compress(json.dumps(claims()).encode())),
    "header not JSON": made(b"x"),
    "header an array": made([HEADER]),
    "header a text": made("EdDSA"),
    "header null": made(b"null"),
    "header deep": made(b"[" * 2000),
    "header deep in an object": made(b'{"a":' * 500 + b"1" + b"}" * 500),
    "header with alg twice": made(json.dumps(HEADER).encode()[:-1] + b', "alg": "none"}'),
    "claims not JSON": made(payload=b"x"),
    "claims an array": made(payload=[claims()]),
    "claims a text": made(payload="admin"),
    "claims null": made(payload=b"null"),
    "claims empty": made(payload=b" "),
    "claims deep": made(payload=b"[" * 2000),
    "claims with invalid UTF-8": written("sub", b'"\xff"'),
    "claims twice, the last without a role": written("roles", b'["admin"], "roles": "admin"'),
    "claims twice, by another": made(payload=written("roles", b'[], "roles": ["admin"]').encode(), sign=THIEF.sign),
    "longer than any of ours": claiming(padding="x" * 4000),
    "a lone surrogate": "\udcff" + made()[1:],
    "letters that are not ASCII": made()[:-2] + "\u0661\u0661",
}

WRONG_HEADERS = {
    "empty": "",
    "no token": "Bearer",
    "a blank": "Bearer ",
    "only the token": made(),
    "Basic": "Basic " + base64.b64encode(b"admin:password").decode(),
    "Basic with the token": f"Basic {made()}",
    "Digest": 'Digest username="admin"',
    "DPoP": f"DPoP {made()}",
    "Bearer twice": f"Bearer Bearer {made()}",
    "Bearers": f"Bearers {made()}",
    "a colon": f"Bearer: {made()}",
    "a tab": f"Bearer\t{made()}",
    "no blank": f"Bearer{made()}",
    "an equals sign": f"Bearer={made()}",
    "a list": f"Bearer {made()}, Basic x",
    "a form": f"access_token={made()}",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(template: Database) -> AsyncIterator[Client]:
    """The orders service, which accepts tokens of the mint."""
    async with (
        copied_from(template) as database,
        publishing(MINT) as url,
        serving("orders", database.url_for("orders"), auth_jwks_url=url) as found,
    ):
        yield found


on_one_service = pytest.mark.asyncio(loop_scope="module")


async def ask(client: Client, headers: Any) -> list[Any]:
    """The answers to a GET of orders and to a new order."""
    return [await client.get("/orders/", headers=headers), await client.post("/orders/", data=ORDER, headers=headers)]


async def orders_placed(client: Client) -> int:
    answer = await client.get("/orders/", headers=MINT.admin)
    assert answer.status == 200
    return len((await answer.json())["orders"])


async def assert_refused(client: Client, headers: Any) -> None:
    before = await orders_placed(client)
    for answer in await ask(client, headers):
        assert answer.status == 401, await answer.text()
        problem = await answer.json(content_type="application/problem+json")
        assert (problem["status"], problem["type"]) == (401, "/problems/unauthenticated")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert await orders_placed(client) == before


def test_there_are_enough_forgeries() -> None:
    assert len(FORGED) + len(WRONG_HEADERS) > 200


@on_one_service
@pytest.mark.parametrize(
    "token",
    [
        made(),
        headed(alg="EdDSA"),
        headed(typ="AT+JWT"),
        headed(jku=THIEFS_URL),
        claiming(extra={"deep": [1]}),
        claiming(nbf=NOW - 60),
        claiming(roles=[]),
        claiming(sub="7", roles=["cook"]),
    ],
    ids=[
        "of an administrator",
        "of a former release",
        "capitals",
        "with jku",
        "more claims",
        "nbf past",
        "no roles",
        "another role",
    ],
)
@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer   "])
async def test_valid_tokens_of_the_same_helpers_are_accepted(client: Client, token: str, scheme: str) -> None:
    assert [answer.status for answer in await ask(client, {"Authorization": scheme + token})] == [200, 202]


def without_times(name: str) -> str:
    """The same id in all processes of a parallel run."""
    return re.sub(r"\d{10}", "time", ascii(name))


@on_one_service
@pytest.mark.parametrize("name", FORGED, ids=without_times)
async def test_a_forged_or_wrong_token_is_refused_and_places_nothing(client: Client, name: str) -> None:
    await assert_refused(client, {"Authorization": f"Bearer {FORGED[name]}"})


@on_one_service
@pytest.mark.parametrize("name", WRONG_HEADERS)
async def test_a_header_that_is_no_bearer_token_is_refused(client: Client, name: str) -> None:
    await assert_refused(client, {"Authorization": WRONG_HEADERS[name]})


@on_one_service
async def test_two_authorization_headers_are_refused_even_if_both_are_valid(client: Client) -> None:
    await assert_refused(client, [("Authorization", f"Bearer {made()}")] * 2)


@on_one_service
async def test_identities_in_other_headers_are_ignored(client: Client) -> None:
    claimed = {"X-User-Id": ADMIN, "X-User-Roles": "admin", "X-Forwarded-User": "admin", "Cookie": f"token={made()}"}
    await assert_refused(client, claimed)
    await assert_refused(client, claimed | {"Authorization": f"Bearer {FORGED['expired']}"})
    answer = await client.get("/orders/?user_id=8", headers=claimed | MINT.header("7"))
    assert answer.status == 403


@on_one_service
@pytest.mark.parametrize("roles", [["Admin"], ["admin "], ["admin\0"], ["\u0430dmin"], ["admin,user"], list("admin")])
async def test_a_role_that_only_looks_like_admin_gives_no_rights(client: Client, roles: list[str]) -> None:
    answer = await client.get(
        "/orders/?user_id=8", headers={"Authorization": f"Bearer {claiming(sub='7', roles=roles)}"}
    )
    assert answer.status == 403


@on_one_service
async def test_without_the_check_of_the_signature_a_forged_token_is_accepted(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwt.algorithms.OKPAlgorithm, "verify", lambda *_: True)
    token = headed(THIEF.sign, x="not seen before")
    with pytest.raises(AssertionError):
        await assert_refused(client, {"Authorization": f"Bearer {token}"})


@on_one_service
@pytest.mark.parametrize(
    "line",
    [
        b"Bearer " + b"x" * 1_000_000,
        b"Bearer " + headed(kid="k" * 1_000_000).encode(),
        b"Bearer " + b"." * 100_000,
        b"x" * 10_000,
        b"Bearer\0 " + made().encode(),
        b"Bearer " + made().encode() + b"\0",
        b"Bearer\r\n " + made().encode(),
    ],
    ids=["1 MB", "1 MB of kid", "dots", "10 KB", "NUL", "NUL at the end", "folded"],
)
async def test_an_invalid_authorization_line_is_refused_in_time(client: Client, line: bytes) -> None:
    before = await orders_placed(client)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(
        b"POST /orders/ HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 16\r\nAuthorization: "
        + line
        + b"\r\n\r\n"
        + ORDER
    )
    async with asyncio.timeout(3):
        first = await reader.readline()
    writer.close()
    assert first.split()[1] in (b"400", b"401", b"431"), first
    assert await orders_placed(client) == before


# Keys that change, and keys that are unavailable.

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Publisher:
    """A server of keys, which may change or be unavailable; `asked` counts its requests."""

    def __init__(self, *mints: Mint) -> None:
        self.asked, self.mints = 0, list(mints)
        self.answer: Answer = self.keys

    async def keys(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"keys": [mint.published()["keys"][0] for mint in self.mints]})

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        return await self.answer(request)

    async def asked_again(self) -> None:
        """Wait until another whole fetch has started and ended."""
        since = self.asked
        await eventually(lambda: asyncio.sleep(0, self.asked >= since + 3))

    @asynccontextmanager
    async def running(self, database: Database) -> AsyncIterator[Client]:
        app = web.Application()
        app.router.add_get("/keys", self._serve)
        async with (
            TestServer(app) as server,
            serving("orders", database.url_for("orders"), auth_jwks_url=str(server.make_url("/keys"))) as client,
        ):
            yield client


def text(body: bytes, status: int = 200, **headers: str) -> Answer:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers=headers)

    return answer


async def hang(_: web.Request) -> web.StreamResponse:
    await asyncio.sleep(3600)
    raise AssertionError


async def hang_up(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def trickle(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    for _ in range(1000):
        await answer.write(b" ")
        await asyncio.sleep(0.05)
    return answer


OTHERS = json.dumps({"keys": [THIEFS_JWK | {"kid": "thief"}]}).encode()
FAULTS: dict[str, Answer] = {
    "hangs": hang,
    "hangs up": hang_up,
    "trickles": trickle,
    "500": text(OTHERS, 500),
    "404": text(b"not found", 404),
    "redirect": text(OTHERS, 302, Location="/keys"),
    "nothing": text(b""),
    "garbage": text(b"\xff\xfe<html>"),
    "null": text(b"null"),
    "an array": text(b"[]"),
    "keys of null": text(b'{"keys":null}'),
    "keys of text": text(b'{"keys":["x"]}'),
    "a key without kid": text(json.dumps({"keys": [{**THIEFS_JWK, "kid": None, "x": "!"}]}).encode()),
    "a short key": text(json.dumps({"keys": [{**THIEFS_JWK, "x": "AA"}]}).encode()),
    "huge": text(b'{"keys":[],"x":"' + b"x" * 2_000_000 + b'"}'),
    "a bomb": text(gzip.compress(b'{"keys":[],"x":"' + b"x" * 2_000_000 + b'"}'), **{"Content-Encoding": "gzip"}),
}


@pytest.fixture
def fast_key_refresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make all times for fetching keys a fraction of a second."""
    monkeypatch.setattr(verification, "_REFRESH_SECONDS", 0.05)
    monkeypatch.setattr(verification, "_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(verification, "_FETCH_SECONDS", 0.2)


async def status(client: Client, token: str) -> int:
    return (await client.get("/orders/", headers={"Authorization": f"Bearer {token}"})).status


@pytest.mark.usefixtures("fast_key_refresh")
async def test_no_request_is_refused_while_keys_rotate(database: Database) -> None:
    old, new = Mint("old"), Mint("new")
    publisher, signing, stop = Publisher(old), [old], asyncio.Event()
    async with publisher.running(database) as client:

        async def request() -> list[int]:
            seen = []
            while not stop.is_set():
                seen.append(await status(client, signing[0].token(n=len(seen))))
            return seen

        requests = [asyncio.create_task(request()) for _ in range(4)]
        await eventually(lambda: asyncio.sleep(0, publisher.asked >= 2))
        publisher.mints = [new, old]
        await publisher.asked_again()
        signing[0] = new
        await publisher.asked_again()
        publisher.mints = [new]
        await publisher.asked_again()
        stop.set()
        seen = [code for task in requests for code in await task]
    assert set(seen) == {200}
    assert len(seen) > 50


@pytest.mark.usefixtures("fast_key_refresh")
async def test_tokens_of_a_withdrawn_key_are_refused_even_if_they_were_accepted_before(database: Database) -> None:
    old, new = Mint("old"), Mint("new")
    publisher, known = Publisher(old, new), old.token()
    async with publisher.running(database) as client:
        assert [await status(client, known), await status(client, new.token())] == [200, 200]
        publisher.mints = [new]
        await publisher.asked_again()
        assert [await status(client, token) for token in (known, old.token(), new.token())] == [401, 401, 200]


async def test_an_unknown_key_is_fetched_when_a_token_first_names_it(database: Database) -> None:
    old, new = Mint("old"), Mint("new")
    publisher = Publisher(old)
    async with publisher.running(database) as client:
        assert await status(client, old.token()) == 200
        publisher.mints = [new, old]

        async def known() -> bool:
            return await status(client, new.token()) == 200

        await eventually(known, 3)


@pytest.mark.usefixtures("fast_key_refresh")
async def test_known_keys_stay_valid_however_the_key_server_fails(database: Database) -> None:
    publisher = Publisher(MINT)
    async with publisher.running(database) as client:
        assert await status(client, made()) == 200
        for way, answer in FAULTS.items():
            publisher.answer = answer
            await publisher.asked_again()
            assert await status(client, claiming(n=way)) == 200, way
            assert await status(client, headed(THIEF.sign, kid="thief")) == 401, way


async def test_without_any_key_requests_get_503_with_retry_after_in_time(database: Database, lag: Lag) -> None:
    publisher = Publisher(MINT)
    publisher.answer = hang
    async with publisher.running(database) as client:

        async def refused() -> float:
            started = time.monotonic()
            answer = await client.get("/orders/", headers=MINT.header())
            problem = await answer.json(content_type="application/problem+json")
            assert (answer.status, problem["type"]) == (503, "/problems/unavailable")
            assert int(answer.headers["Retry-After"]) > 0
            return lag.elapsed(started)

        assert max(await asyncio.gather(*(refused() for _ in range(50)))) < 3.1
        publisher.answer = publisher.keys

        async def admitted() -> bool:
            return await status(client, made()) == 200

        await eventually(admitted, 5)


async def test_many_unknown_kids_fetch_the_keys_at_most_once_a_second(database: Database) -> None:
    publisher = Publisher(MINT)
    async with publisher.running(database) as client:
        assert await status(client, made()) == 200
        before, started = publisher.asked, time.monotonic()
        count = 0
        while time.monotonic() - started < 1.2:
            made_up = [headed(THIEF.sign, kid=f"{count}-{n}") for n in range(20)]
            assert {*await asyncio.gather(*(status(client, token) for token in made_up))} == {401}
            assert await status(client, claiming(n=count)) == 200
            count += 20
        fetches, seconds = publisher.asked - before, time.monotonic() - started
    assert count > 100
    assert fetches <= seconds / verification._RETRY_SECONDS + 1


async def test_many_unknown_kids_delay_no_other_request_when_keys_are_unavailable(
    database: Database, monkeypatch: pytest.MonkeyPatch, lag: Lag
) -> None:
    monkeypatch.setattr(verification, "_RETRY_SECONDS", 0.2)
    publisher = Publisher(MINT)
    async with publisher.running(database) as client:
        assert await status(client, made()) == 200
        publisher.answer = hang

        async def timed(token: str) -> tuple[int, float]:
            started = time.monotonic()
            return await status(client, token), lag.elapsed(started)

        # After a fetch there is a pause, in which an unknown kid causes no fetch.
        await asyncio.sleep(verification._RETRY_SECONDS)
        flood = [asyncio.create_task(timed(headed(THIEF.sign, kid=str(n)))) for n in range(50)]
        await eventually(lambda: asyncio.sleep(0, publisher.asked >= 2))
        assert [await status(client, claiming(n=n)) for n in range(20)] == [200] * 20
        answers = await asyncio.gather(*flood)
    assert {code for code, _ in answers} == {401}
    assert max(seconds for _, seconds in answers) < 3.1
