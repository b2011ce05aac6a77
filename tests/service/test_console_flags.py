"""Failure flags on their page: what can fail, what is set, and until when."""

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shared.admin.api import BACKEND
from shared.process.flags import Flags
from tests.conftest import Database
from tests.service.conftest import Client, serving
from tests.service.console import Shop, shop
from tests.service.test_console_pages import HOSTILE, words

SET = {"name": "fail_handler", "type": "OrderCancelled", "key": "17", "seconds": "120", "reason": "to see it"}


@pytest.fixture
async def console(tmp_path: Path) -> AsyncIterator[Shop]:
    async with shop(tmp_path) as made:
        await made.log_in()
        yield made


@pytest.fixture
async def payments(console: Shop, database: Database) -> AsyncIterator[Client]:
    """The real service payments, whose administrators are those of the console."""
    keys = f"{console.settings.auth_url}/auth/jwks.json"
    url = database.url_for("payments")
    async with serving("payments", url, failure_flags=True, auth_jwks_url=keys) as made:
        places = f"payments={str(made.make_url('/')).rstrip('/')}"
        console.settings = console.settings.model_copy(update={"services": places})
        await console.restart()
        yield made


def flags_of(payments: Client) -> Flags:
    flags: Flags = payments.app[BACKEND].flags
    return flags


async def test_a_flag_is_set_shown_and_ended(console: Shop, payments: Client) -> None:
    page = await console.get("/console/flags")
    assert "✓ No flag is set" in words(page)
    assert "provider_declines: the provider declines every charge" in page
    assert "<option>OrderCancelled</option>" in page

    answer = await console.post("/console/flags/payments", **SET)
    assert (answer.status, answer.headers["Location"]) == (303, "/console/flags")
    [(id_, flag)] = flags_of(payments).active().items()
    assert (flag.name, flag.type, flag.key, flag.reason) == ("fail_handler", "OrderCancelled", "17", "to see it")
    console.clock.now = flag.until.timestamp() - 100
    page = await console.get("/console/flags")
    row = words(page[page.index('id="active"') : page.index("</table>")])
    assert re.search(r"payments ! fail_handler OrderCancelled 17 - \S+ \S+ UTC in 100 s admin to see it End", row)

    answer = await console.post(f"/console/flags/payments/{id_}/end", name="fail_handler")
    assert answer.status == 303
    assert not flags_of(payments).active()
    assert (await console.post(f"/console/flags/payments/{id_}/end")).status == 409
    assert [one for one in await console.actions() if "flag" in one[0]] == [
        ("set flag", "to see it", f"done, as {id_}"),
        ("end flag", "-", "done"),
        ("end flag", "-", "answered 404: not found"),
    ]


async def test_an_empty_type_and_key_mean_all_and_a_delay_is_passed_on(console: Shop, payments: Client) -> None:
    given = {"name": "provider_is_slow", "type": "", "key": " ", "delay_seconds": "2.5", "seconds": "60"}
    assert (await console.post("/console/flags/payments", **given, reason="slow")).status == 303
    [flag] = flags_of(payments).active().values()
    assert (flag.type, flag.key, flag.seconds) == (None, None, 2.5)
    page = words(await console.get("/console/flags"))
    assert "every type every key 2.5 s" in page


@pytest.mark.parametrize(
    "wrong",
    [
        {"seconds": "0"},
        {"seconds": "3601"},
        {"seconds": "nan"},
        {"seconds": "soon"},
        {"delay_seconds": "61"},
        {"delay_seconds": "-1"},
        {"reason": " "},
    ],
)
async def test_a_wrong_form_is_refused_before_the_service_is_asked(console: Shop, wrong: dict[str, str]) -> None:
    assert (await console.post("/console/flags/payments", **SET | wrong)).status == 400
    assert not console.services["payments"].posted
    assert (await console.post("/console/flags/nobody", **SET)).status == 404


async def test_what_the_service_refuses_is_shown_and_stored(console: Shop, payments: Client) -> None:
    answer = await console.post("/console/flags/payments", **SET | {"name": "explode"})
    assert answer.status == 409
    assert "there is no flag 'explode', only" in words(await answer.text())
    assert "there is no flag" in (await console.actions())[-1][2]


async def test_a_service_without_flags_says_how_to_switch_them_on(console: Shop) -> None:
    console.services["orders"].answers["flags"]["allowed"] = {"fail_handler": "the handler fails"}
    page = await console.get("/console/flags")
    assert 'id="set-orders"' in page
    assert 'id="set-payments"' not in page
    closed = words(page[page.index('id="closed"') :])
    assert "Flags are switched off in inventory, payments." in closed
    assert "FAILURE_FLAGS=true" in closed


async def test_hostile_flags_are_harmless(console: Shop) -> None:
    flag: dict[str, Any] = dict.fromkeys(("name", "type", "key", "author", "reason"), HOSTILE)
    flag |= {"id": 1, "until": "2026-01-31T12:00:00+00:00", "seconds": 0.0}
    console.services["orders"].answers["flags"] |= {"allowed": {HOSTILE: HOSTILE}, "types": [HOSTILE], "flags": [flag]}
    page = await console.get("/console/flags")
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "\u202e" not in page


async def test_an_older_service_that_names_no_types_gets_a_free_field(console: Shop) -> None:
    console.services["orders"].answers["flags"] = {"allowed": {"fail_handler": "x"}, "flags": []}
    assert 'id="type-orders" name="type" maxlength="200"' in await console.get("/console/flags")
