"""Starts drills, one at a time, and keeps their results.

What must stay true: no program stays frozen. If supervisord does not answer, or the console ends during a drill, the
program is woken later, before the next drill begins.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Mapping

import aiohttp
import orjson
import structlog

from console.drills.drill import Drill, Pace
from console.drills.records import Kind, Result
from console.store import Store
from shared.errors import Conflict, ServiceError
from shared.process.backoff import wait
from shared.process.loop import Beat
from shared.process.supervisord import Program, Supervisord

log = structlog.get_logger()

OWN = "console"
"""The console itself: if it died, nobody would measure."""
_KEPT = 100
_EVERY_SECONDS = 5.0


class Drills:
    def __init__(
        self,
        store: Store,
        supervisord: Supervisord,
        targets: Mapping[str, str],
        http: aiohttp.ClientSession,
        clock: Callable[[], float] = time.time,
        pace: Pace | None = None,
    ) -> None:
        self._store, self.supervisord, self._targets, self._http = store, supervisord, targets, http
        self._clock, self.pace = clock, pace or Pace()
        self._recovered = self._starting = False
        self._drill: Drill | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def current(self) -> Result | None:
        """The drill that is under way."""
        return self._drill.result if self._drill is not None else None

    async def start(self, program: str, kind: Kind, who: str, reason: str) -> int:
        """Start a drill. Returns its number. Raises `Conflict`, or `Unavailable` if supervisord does not answer."""
        if not self._recovered:
            raise Conflict("supervisord was not asked yet for what an earlier drill left: try again. Nothing was done")
        if self._starting or self._drill is not None:
            raise Conflict("a drill is under way: wait until it has ended. Nothing was done")
        self._starting = True
        try:
            _check(await self.supervisord.program(program))
            result = Result(program, kind, who, reason, self._clock())
            result.id = await self._add(result)
            self._drill = Drill(result, self.supervisord, self._targets, self._http, self.pace)
            self._task = asyncio.create_task(self._run(self._drill), name=f"drill {result.id}")
        finally:
            self._starting = False
        return result.id

    async def last(self, limit: int = 20) -> list[Result]:
        """The last drills, the newest first."""
        sql = "select * from drills order by id desc limit ?"
        rows = await self._store.run(lambda conn: conn.execute(sql, (limit,)).fetchall())
        return [self._result(row) for row in rows]

    async def find(self, id_: int) -> Result | None:
        row = await self._store.run(lambda conn: conn.execute("select * from drills where id = ?", (id_,)).fetchone())
        return None if row is None else self._result(row)

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Wake what an earlier drill left frozen. At `stop`, end the drill that is under way."""
        while not stop.is_set():
            beat()
            self._recovered = self._recovered or await self._recover()
            await wait(stop, _EVERY_SECONDS)
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=3.0)

    async def _run(self, under_way: Drill) -> None:
        result = under_way.result
        log.warning("a drill begins", drill=result.id, program=result.program, kind=result.kind, who=result.who)
        try:
            await under_way.run()
        except ServiceError as error:
            result.problem = error.detail
        except asyncio.CancelledError:
            result.problem = "the console was stopped"
            raise
        except Exception as error:
            log.exception("a drill failed", drill=result.id)
            result.problem = f"the drill failed: {error!r:.200}"
        finally:
            result = under_way.result
            self._recovered = not under_way.left_frozen
            result.phase, result.ended_at = "ended", self._clock() if self._recovered else None
            await self._save(result)
            self._drill = None
            log.info("a drill has ended", drill=result.id, ready=result.ready, problem=result.problem)

    async def _recover(self) -> bool:
        """End the drills that have not ended properly. Returns False if a frozen program could not be woken."""
        rows = await self._store.run(
            lambda conn: conn.execute("select * from drills where ended_at is null").fetchall()
        )
        for row in rows:
            result = self._result(row)
            if result.kind == "freeze" and not await self.supervisord.wake(result.program):
                return False
            result.problem = result.problem or "the console ended before"
            result.phase, result.ended_at = "ended", self._clock()
            await self._save(result)
        return True

    async def _add(self, result: Result) -> int:
        def add(conn: sqlite3.Connection) -> int:
            columns, values = "program, kind, result", (result.program, result.kind, orjson.dumps(result.stored()))
            id_ = conn.execute(f"insert into drills ({columns}) values (?, ?, ?)", values).lastrowid or 0
            conn.execute("delete from drills where id <= ?", (id_ - _KEPT,))
            return id_

        return await self._store.run(add)

    async def _save(self, result: Result) -> None:
        row = (result.ended_at, orjson.dumps(result.stored()), result.id)
        sql = "update drills set ended_at = ?, result = ? where id = ?"
        try:
            await self._store.run(lambda conn: conn.execute(sql, row))
        except sqlite3.Error as error:
            log.warning("the result of a drill cannot be stored", drill=result.id, error=repr(error))

    def _result(self, row: sqlite3.Row) -> Result:
        if (current := self.current) is not None and current.id == row["id"]:
            return current
        return Result(**orjson.loads(row["result"]) | {"id": row["id"]})


def _check(program: Program) -> None:
    """Raise `Conflict` if a drill with this program is not possible."""
    if program.name == OWN:
        raise Conflict("the console cannot measure its own death; nothing was done")
    if not program.is_up:
        raise Conflict(f"{program.name} does not run; nothing was done")
