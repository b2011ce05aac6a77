"""The books: the console compares them by itself, and shows, counts and warns if they differ."""

from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from console.books import Books
from console.pages import sources
from tests.builders import eventually
from tests.service.console import Shop, shop
from tests.service.test_console_pages import row_of, words


def books_of(console: Shop) -> Books:
    books: Books | None = console.client.app[sources.BOOKS]
    assert books is not None
    return books


async def started(console: Shop) -> None:
    """Wait for the comparison with which the console begins. The next one by itself is half a minute later."""
    books = books_of(console)

    async def compared() -> bool:
        return books.problem != "not compared yet"

    await eventually(compared)


@pytest.fixture
async def console(tmp_path: Path) -> AsyncIterator[Shop]:
    async with shop(tmp_path, admin_password="right") as made:
        await started(made)
        yield made


def change(console: Shop, service: str, **changes: Any) -> None:
    console.services[service].answers["books"]["books"] |= changes


async def test_books_that_agree_are_a_promise_that_is_kept(console: Shop) -> None:
    await console.log_in()
    console.clock.now += 12
    found = row_of(await console.get("/console/"), "promise-books")
    assert found == "The books balance ✓ kept seen 12 s ago orders 1 to 9: the services agree"
    page = words(await console.get("/console/books"))
    assert "✓ The books balance . Compared 12 s ago" in page
    for line in ("orders 7 8 5950", "inventory 7 8 -", "payments 7 - 5950", "Difference 0 0 0"):
        assert line in page
    assert REGISTRY.get_sample_value("books_difference", {"what": "orders"}) == 0


async def test_the_other_services_are_asked_for_the_range_that_orders_chose(console: Shop) -> None:
    asked = {name: [query for path, query in one.asked if path == "books"] for name, one in console.services.items()}
    chosen = [{"first": "1", "last": "9"}]
    assert asked == {"orders": [{}], "inventory": chosen, "payments": chosen}


async def test_books_that_differ_break_the_promise_and_are_counted(console: Shop) -> None:
    await console.log_in()
    change(console, "inventory", count=6, units=5)
    change(console, "payments", cents=6000)
    await books_of(console).run_once()
    console.clock.now += 30
    await books_of(console).run_once()
    found = row_of(await console.get("/console/"), "promise-books")
    assert found == "The books balance ✗ broken 30 s the services differ by 1 orders, 3 units, 50 cents"
    page = await console.get("/console/books")
    assert "✗ The books differ since 30 s" in words(page)
    assert "Difference ✗ 1 ✗ 3 ✗ 50" in words(page)
    assert 'href="/console/runbooks/alert-books-differ"' in page
    values = [REGISTRY.get_sample_value("books_difference", {"what": what}) for what in ("orders", "units", "cents")]
    assert values == [1, 3, 50]
    assert REGISTRY.get_sample_value("books_checked_timestamp_seconds") == console.clock.now
    change(console, "inventory", count=7, units=8)
    change(console, "payments", cents=5950)
    await books_of(console).run_once()
    assert "kept" in row_of(await console.get("/console/"), "promise-books")


async def test_while_a_service_does_not_answer_the_last_result_is_shown_and_then_nothing_is_known(
    console: Shop,
) -> None:
    await console.log_in()
    console.services["payments"].failing = True
    console.clock.now += 60
    await books_of(console).run_once()
    assert "✓ kept seen 60 s ago" in row_of(await console.get("/console/"), "promise-books")
    page = words(await console.get("/console/books"))
    assert "payments: answered 503: db error. What is shown is 60 s old." in page
    console.clock.now += 61
    found = row_of(await console.get("/console/"), "promise-books")
    assert found == "The books balance ? unknown seen 2 min ago payments: answered 503: db error"


@pytest.mark.parametrize("odd", [None, [], {"count": "7"}, {"count": 7}])
async def test_odd_books_are_no_books_and_the_console_goes_on(console: Shop, odd: Any) -> None:
    console.services["payments"].answers["books"] = {"service": "payments", "books": odd}
    await books_of(console).run_once()
    assert books_of(console).problem == "payments has no such books"
    assert await console.get("/livez") == "ok"


async def test_before_the_first_orders_are_over_the_books_agree(tmp_path: Path) -> None:
    async with shop(tmp_path, admin_password="right") as console:
        for one in console.services.values():
            one.answers["books"]["books"] = dict.fromkeys(("first", "last", "count", "units", "cents"), 0)
        await started(console)
        await books_of(console).run_once()
        await console.log_in()
        assert "No order is old enough yet." in words(await console.get("/console/books"))


async def test_without_a_password_nothing_is_compared_and_nothing_is_promised(tmp_path: Path) -> None:
    async with shop(tmp_path) as console:
        await console.log_in()
        assert "promise-books" not in await console.get("/console/")
        assert "CONSOLE_ADMIN_PASSWORD" in words(await console.get("/console/books"))
        assert console.client.app[sources.BOOKS] is None


async def test_a_wrong_password_is_tried_less_and_less_often(tmp_path: Path) -> None:
    async with shop(tmp_path, admin_password="wrong") as console:
        await started(console)
        tries = []
        for second in range(0, 3600, 10):
            logins = console.accounts.logins
            await books_of(console).run_once()
            if console.accounts.logins > logins:
                tries.append(second)
            console.clock.now += 10
        assert tries == [60, 180, 420, 900, 1860]
        assert "not logged in: the next try is in" in books_of(console).problem


async def test_the_console_renews_its_token_and_does_not_log_in_again(console: Shop) -> None:
    for _ in range(60):
        console.clock.now += 30
        await books_of(console).run_once()
        assert not books_of(console).problem
    assert console.accounts.logins == 1
    assert console.accounts.refreshed == 4  # at half of the life of each token, which is 15 minutes


async def test_a_session_that_auth_has_ended_is_begun_again_but_never_twice_a_minute(console: Shop) -> None:
    console.clock.now += 500
    logins = []
    for _ in range(30):
        console.accounts.end_sessions()
        books_of(console)._account._renew_at = 0.0
        before = console.accounts.logins
        await books_of(console).run_once()
        logins += [console.clock.now] * (console.accounts.logins - before)
        console.clock.now += 10
    assert len(logins) == 5
    assert min(after - before for before, after in pairwise(logins)) >= 60


async def test_while_auth_is_down_the_token_is_used_until_it_expires(console: Shop) -> None:
    console.accounts.down = True
    console.clock.now += 800
    await books_of(console).run_once()
    assert not books_of(console).problem
    console.clock.now += 100
    await books_of(console).run_once()
    assert books_of(console).problem == "auth does not answer, and the console's own token has expired"
    console.accounts.down = False
    console.clock.now += 10
    await books_of(console).run_once()
    assert not books_of(console).problem


async def test_the_console_logs_out_when_it_ends(console: Shop) -> None:
    assert console.accounts._refresh
    await console.client.close()
    assert not console.accounts._refresh


async def test_the_password_is_shown_nowhere(console: Shop) -> None:
    assert "right" not in repr(console.settings)
