"""The console's sessions: who gets in, for how long, and what every answer and every POST has."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from console.sessions import SECONDS
from tests.lag import Lag
from tests.service.console import Shop, parked_event, shop

PAGES = (
    "/console/",
    "/console/orders/17",
    "/console/parked",
    "/console/parked/orders",
    "/console/parked/orders/4",
    "/console/parked/orders/4/value",
    "/console/repairs/orders/5",
    "/console/lanes",
    "/console/alerts",
    "/console/runbooks/parked-events",
    "/console/search?q=17",
    "/console/traces",
    "/console/traces/0af7651916cd43dd8448eb211c80319c",
    "/console/traces/0af7651916cd43dd8448eb211c80319c.json",
    "/console/logs",
    "/console/charts",
    "/console/charts/parked.json",
    "/console/actions",
    "/console/books",
    "/console/flags",
    "/console/drills",
    "/console/drills/1",
    "/console/guarantees",
    "/console/nothing",
)
ALONE = (
    "/console/alerts",
    "/console/runbooks/parked-events",
    "/console/charts",
    "/console/charts/parked.json",
    "/console/books",
    "/console/drills",
    "/console/drills/1",
    "/console/guarantees",
)
POSTS = (
    "/console/parked/orders/dry-run",
    "/console/parked/orders/replay",
    "/console/parked/orders/drop",
    "/console/flags/orders",
    "/console/flags/orders/1/end",
    "/console/drills",
    "/console/logout",
)
REPLAY = {"ids": "4", "reason": "mended", "per_second": "50"}


@pytest.fixture
async def console(tmp_path: Path) -> AsyncIterator[Shop]:
    async with shop(tmp_path) as made:
        made.services["orders"].park(parked_event())
        yield made


async def test_without_a_session_every_page_leads_to_the_login_and_no_service_is_asked(console: Shop) -> None:
    for path in PAGES:
        answer = await console.client.get(path, allow_redirects=False)
        assert (answer.status, answer.headers["Location"][:14]) == (303, "/console/login"), path
        assert await answer.text() == ""
    for path in POSTS:
        answer = await console.post(path, csrf=None, ids="4", reason="x")
        assert answer.status == 401, path
    assert not console.services["orders"].posted


async def test_a_customer_gets_no_session(console: Shop) -> None:
    answer = await console.log_in(username="alice")
    assert answer.status == 403
    assert "only an administrator" in await answer.text()
    assert "Set-Cookie" not in answer.headers
    await console.get("/console/", 303)


async def test_the_device_of_one_user_is_not_that_of_the_next(console: Shop) -> None:
    for _ in range(2):
        assert (await console.log_in()).status == 303
    assert console.accounts.cookies == ["", ""]


async def test_a_token_of_a_customer_or_of_an_administrator_opens_nothing(console: Shop) -> None:
    mint = console.accounts.mint
    for headers in (mint.header(), mint.admin):
        for path in PAGES:
            answer = await console.client.get(path, headers=headers, allow_redirects=False)
            assert answer.status == 303, path
        console.cookies.update_cookies({"console": headers["Authorization"][7:]}, console.client.make_url("/console/"))
        await console.get("/console/", 303)


async def test_a_token_that_auth_did_not_sign_is_no_login(console: Shop) -> None:
    console.accounts.mint.kid = "another"
    assert (await console.log_in()).status == 303
    console.accounts.mint = type(console.accounts.mint)("another")  # the same name, another key
    assert (await console.log_in()).status == 401


async def test_the_cookie_is_out_of_reach_of_scripts_and_of_other_sites(console: Shop) -> None:
    answer = await console.log_in()
    cookie = answer.headers["Set-Cookie"]
    for part in ("HttpOnly", "SameSite=Strict", "Path=/console", f"Max-Age={int(SECONDS)}"):
        assert part in cookie
    assert "Secure" not in cookie
    headers = {"Origin": console.origin, "X-Forwarded-Proto": "https"}
    data = {"username": "admin", "password": "right"}
    answer = await console.client.post("/console/login", data=data, headers=headers, allow_redirects=False)
    assert "Secure" in answer.headers["Set-Cookie"]


async def test_the_page_that_was_asked_for_comes_after_the_login_but_never_another_site(console: Shop) -> None:
    for wanted, expected in (
        ("/console/parked", "/console/parked"),
        ("//evil.example/console/", "/console/"),
        ("https://evil.example/", "/console/"),
        ("/console/\\evil", "/console/"),
        ("/console/\r\nX: y", "/console/"),
        ("/other", "/console/"),
    ):
        assert (await console.log_in(next=wanted)).headers["Location"] == expected


async def test_every_answer_has_the_headers_that_keep_it_harmless(console: Shop) -> None:
    await console.log_in()
    for path in (
        *PAGES,
        "/console/login",
        "/console/static/console.css",
        "/console/static/none",
        "/healthz",
        "/metrics",
    ):
        answer = await console.client.get(path, allow_redirects=False)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy, path
        assert "frame-ancestors 'none'; base-uri 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"
        if "static" not in path:
            assert answer.headers["Cache-Control"] == "no-store", path


@pytest.mark.parametrize("path", POSTS)
async def test_a_post_without_an_origin_or_token_of_the_console_does_nothing(console: Shop, path: str) -> None:
    await console.log_in()
    other = await console.csrf()
    await console.log_in()  # a new session: the page of the old one is stale
    for refused in (
        {"origin": None},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": console.origin + ".evil.example"},
        {"csrf": None},
        {"csrf": "0" * 64},
        {"csrf": other},
    ):
        answer = await console.post(path, **refused, **REPLAY)
        assert answer.status == 403, refused
        assert "othing was done" in await answer.text()
    headers = {"Sec-Fetch-Site": "cross-site", "Origin": console.origin}
    data = {"csrf": await console.csrf(), **REPLAY}
    assert (await console.client.post(path, data=data, headers=headers)).status == 403
    assert not console.services["orders"].posted
    refusals = [one for one in await console.actions() if one[0] == "refused write"]
    assert len(refusals) == 8
    assert all(outcome.startswith("refused: ") for _, _, outcome in refusals)


async def test_a_login_from_another_site_is_refused(console: Shop) -> None:
    for origin in (None, "https://evil.example"):
        answer = await console.post("/console/login", origin=origin, username="admin", password="right")
        assert answer.status == 403
    assert console.accounts.logins == 0


async def test_behind_the_gateway_the_origin_is_that_of_the_gateway(console: Shop) -> None:
    await console.log_in()
    headers = {"Origin": "https://shop.example", "X-Forwarded-Host": "shop.example"}
    data = {"csrf": await console.csrf(), **REPLAY}
    answer = await console.client.post(POSTS[1], data=data, headers=headers, allow_redirects=False)
    assert answer.status == 303


async def test_a_session_survives_a_restart_of_the_console(console: Shop) -> None:
    await console.log_in()
    csrf = await console.csrf()
    await console.restart()
    assert 'id="late"' not in await console.get("/console/")
    assert await console.csrf() == csrf
    assert (await console.post(POSTS[1], **REPLAY)).status == 303


async def test_the_file_has_neither_the_cookie_nor_a_token(console: Shop) -> None:
    await console.log_in()
    [cookie] = [one.value for one in console.cookies]
    await console.client.close()
    content = b"".join(file.read_bytes() for file in console.folder.iterdir())
    assert b"admin" in content
    for secret in (cookie, *console.accounts.valid, "refresh-"):
        assert secret.encode() not in content
    assert [file.stat().st_mode & 0o077 for file in console.folder.glob("*.sqlite")] == [0]


async def test_a_session_ends_after_twelve_hours_also_for_a_process_that_started_since(console: Shop) -> None:
    await console.log_in()
    console.clock.now += SECONDS - 60
    await console.get("/console/actions")
    console.clock.now += 61
    await console.get("/console/actions", 303)
    await console.restart()
    await console.get("/console/actions", 303)


async def test_a_logout_ends_the_session_in_the_console_and_in_auth(console: Shop) -> None:
    await console.log_in()
    [cookie] = [one.value for one in console.cookies]
    answer = await console.post("/console/logout")
    assert (answer.status, answer.headers["Location"]) == (303, "/console/login")
    console.cookies.update_cookies({"console": cookie}, console.client.make_url("/console/"))
    await console.get("/console/", 303)
    assert not console.accounts._refresh


async def test_an_old_access_token_is_renewed_once_for_simultaneous_pages(console: Shop) -> None:
    console.accounts.seconds = 10
    await console.log_in()
    console.accounts.seconds = 900
    console.clock.now += 11
    pages = await asyncio.gather(*(console.get("/console/lanes") for _ in range(5)))
    assert not [page for page in pages if 'id="late"' in page]
    assert console.accounts.refreshed == 1


async def test_when_auth_has_ended_the_session_the_console_ends_it_too(console: Shop) -> None:
    console.accounts.seconds = 10
    await console.log_in()
    console.accounts.end_sessions()
    console.clock.now += 11
    await console.get("/console/lanes", 401)
    await console.get("/console/lanes", 303)


async def test_a_user_who_is_no_administrator_any_more_loses_the_session(console: Shop) -> None:
    console.accounts.seconds = 10
    await console.log_in()
    console.accounts.roles["admin"] = []
    console.clock.now += 11
    await console.get("/console/lanes", 401)
    await console.get("/console/lanes", 303)


async def test_while_auth_is_down_an_administrator_still_sees_what_the_console_knows(console: Shop) -> None:
    console.accounts.seconds = 10
    await console.log_in()
    await console.get("/console/parked")
    console.accounts.down = True
    console.clock.now += 600
    page = await console.get("/console/parked")
    assert "LookupError(&#39;no order 17&#39;)" in page
    assert "answered 401: the token has expired" in page
    assert "What is shown is 10 min old." in page
    await console.get("/console/actions")
    assert (await console.log_in()).status == 503


async def test_failed_logins_are_limited_for_an_address_and_in_all(console: Shop) -> None:
    for _ in range(10):
        assert (await console.log_in(password="wrong")).status == 401
    answer = await console.log_in()
    assert (answer.status, answer.headers["Retry-After"]) == (429, "301")
    assert console.accounts.logins == 10

    async def tried(n: int) -> int:
        headers = {"X-Real-IP": f"192.0.2.{n}", "Origin": console.origin}
        data = {"username": "admin", "password": "wrong"}
        return (await console.client.post("/console/login", data=data, headers=headers)).status

    assert [await tried(n) for n in range(90)] == [401] * 90
    assert await tried(91) == 429
    console.clock.now += 301
    assert (await console.log_in()).status == 303


async def test_right_passwords_are_not_limited(console: Shop) -> None:
    for _ in range(30):
        assert (await console.log_in()).status == 303


async def test_a_part_of_an_old_page_leads_to_the_login(console: Shop) -> None:
    answer = await console.client.get("/console/", headers={"HX-Request": "true"}, allow_redirects=False)
    assert (answer.status, answer.headers["HX-Redirect"]) == (401, "/console/login")


async def test_a_form_that_is_too_large_or_no_form_is_refused(console: Shop) -> None:
    await console.log_in()
    assert (await console.post(POSTS[1], reason="x" * 70_000)).status == 400
    headers = {"Origin": console.origin}
    assert (await console.client.post(POSTS[1], json={"ids": [4]}, headers=headers)).status == 400
    assert not console.services["orders"].posted


async def test_the_console_is_alive_and_ready_and_has_metrics_without_a_login(console: Shop) -> None:
    for path in ("/healthz", "/livez", "/readyz", "/metrics"):
        assert await console.get(path)


async def test_every_page_comes_within_two_seconds_while_everything_hangs(console: Shop, lag: Lag) -> None:
    await console.log_in()
    for service in console.services.values():
        service.hanging = True
    console.telemetry.stuck = True

    async def shown(path: str) -> None:
        answer = await console.client.get(path, allow_redirects=False)
        page = await answer.text()
        assert lag.elapsed(started) < 2.0, path
        assert answer.status in {200, 404, 503}, (path, page)
        assert answer.status == 404 or path in ALONE or "in time" in page, path

    started = time.monotonic()
    await asyncio.gather(*map(shown, PAGES))
