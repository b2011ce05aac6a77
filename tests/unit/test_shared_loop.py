"""The loop of background tasks."""

import asyncio

import pytest

from shared.process.loop import repeat

MINUTE = 60.0


class Turns:
    """A task that asks for a minute between its turns."""

    def __init__(self, *, woken: asyncio.Event | None) -> None:
        self.count, self.stop, self.woken = 0, asyncio.Event(), woken

    async def turn(self) -> float:
        self.count += 1
        if self.woken:
            self.woken.clear()
        return MINUTE

    async def run(self) -> None:
        await repeat("test", self.turn, self.stop, lambda: None, trouble=(), woken=self.woken)

    async def taken(self, count: int) -> None:
        async with asyncio.timeout(10):
            while self.count < count:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0)


@pytest.mark.parametrize("has_bell", [False, True])
async def test_a_waiting_loop_ends_when_it_is_stopped(*, has_bell: bool) -> None:
    turns = Turns(woken=asyncio.Event() if has_bell else None)
    running = asyncio.create_task(turns.run())
    await turns.taken(1)
    turns.stop.set()
    async with asyncio.timeout(10):
        await running
    assert turns.count == 1


async def test_a_loop_can_be_woken_and_leaves_no_task_behind() -> None:
    woken = asyncio.Event()
    turns = Turns(woken=woken)
    running = asyncio.create_task(turns.run())
    await turns.taken(1)
    woken.set()
    await turns.taken(2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
