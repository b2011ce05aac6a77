"""The journal of the console: who did what, for 400 days."""

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from console.journal import Action, Journal
from console.store import KEPT_SECONDS, Store
from tests.builders import eventually

OLD = time.time() - KEPT_SECONDS - 60
YOUNG = OLD + 86_400


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path)
    yield made
    made.close()


async def acted(store: Store, at: float, who: str) -> None:
    journal = Journal(store, lambda: at)
    await journal.end(await journal.begin(Action(who, "127.0.0.1", "log in")), "done")
    await journal.begin(Action(who, "127.0.0.1", "replay"))


async def test_actions_are_forgotten_after_400_days(store: Store, tmp_path: Path) -> None:
    await acted(store, OLD, "ada")
    await acted(store, YOUNG, "ben")
    journal, stop = Journal(store), asyncio.Event()
    running = asyncio.create_task(journal.run(stop))

    async def is_forgotten() -> bool:
        return "ada" not in {entry.action.who for entry in await journal.last()}

    await eventually(is_forgotten)
    stop.set()
    await running
    assert [(entry.action.who, entry.outcome) for entry in await journal.last()] == [("ben", None), ("ben", "done")]


@pytest.mark.parametrize("table", ["actions", "outcomes"])
@pytest.mark.parametrize("statement", ["delete from {}", "update {} set at = 0"])
async def test_what_was_done_cannot_be_changed_before(store: Store, table: str, statement: str) -> None:
    await acted(store, YOUNG, "ben")
    with pytest.raises(sqlite3.IntegrityError, match="append only"):
        await store.run(lambda conn: conn.execute(statement.format(table)))


async def test_a_journal_of_an_earlier_release_forgets_too(tmp_path: Path) -> None:
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "console.sqlite") as conn:
        conn.execute("drop trigger actions_remain")
        conn.execute(
            "create trigger actions_remain before delete on actions begin select raise(abort, 'append only'); end"
        )
    conn.close()
    store = Store(tmp_path)
    await acted(store, OLD, "ada")
    await Journal(store).forget()
    assert await Journal(store).last() == []
    store.close()
