"""Repairs for aiokafka 0.14: bounds on its waits, a stop that always ends, and one misread answer.

What must stay true: nothing here waits without a bound. Each repair follows from a failure that was seen with a real
broker. The version of aiokafka is pinned. Tests look for its bugs, so that a repair can be removed when aiokafka has
fixed the bug.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiokafka import client as aiokafka_client
from aiokafka import errors as kafka_errors
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.protocol.commit import OffsetFetchRequest

from ..events import Record
from .brokers import Rotated

Partition = tuple[str, int]

START_SECONDS = 10.0


class Unavailable(Exception):
    """Kafka failed, or did not answer in time. Records may or may not be in the log."""


class Interrupted(Unavailable):
    """Kafka did not acknowledge everything in time. `acknowledged` counts the first messages of each partition."""

    def __init__(self, reason: str, acknowledged: dict[Partition, int]) -> None:
        super().__init__(reason)
        self.acknowledged = acknowledged


class TopicUnusable(Exception):
    """The topic does not exist, or this client may not write to it."""

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(f"{topic}: {reason}")
        self.topic, self.reason = topic, reason


class Rejected(Exception):
    """Kafka refuses a record of this partition permanently: it is too large or invalid."""

    def __init__(self, partition: Partition, reason: str) -> None:
        super().__init__(f"{partition[0]}[{partition[1]}]: {reason}")
        self.partition, self.reason = partition, reason


async def bounded(work: Awaitable[Any], seconds: float) -> Any:
    """Await, at most `seconds`: aiokafka has waits without a limit. Its errors become `Unavailable`."""
    try:
        async with asyncio.timeout(seconds):  # wait_for can swallow a cancellation on Python 3.11
            return await work
    except (kafka_errors.KafkaError, OSError, TimeoutError) as error:
        raise Unavailable(repr(error)) from error


async def hard_stop(
    client: Any, connection: Any, tasks: list[Any], fail_pending: Callable[[], None] = lambda: None, limit: float = 3.0
) -> None:
    """Stop a client in bounded time. Without a broker, `stop()` alone hangs or raises CancelledError."""
    stopping = asyncio.create_task(client.stop())  # a task of its own: its CancelledError is not ours
    await asyncio.wait([stopping], timeout=limit)
    leftover = [t for t in (stopping, *tasks, connection._sync_task) if t is not None and not t.done()]
    if leftover:
        await _end(leftover)
        fail_pending()
        closing = asyncio.create_task(connection.close())
        await asyncio.wait([closing], timeout=1.0)
        await _end([closing, connection._sync_task])
    for task in (stopping, *tasks):
        if task is not None and task.done() and not task.cancelled():
            task.exception()  # mark as retrieved, so that asyncio does not log it


async def stop_consumer(consumer: Any) -> None:
    """Stop a consumer in a few seconds, whatever the broker does."""
    coordinator, fetcher = consumer._coordinator, consumer._fetcher
    names = ("_coordination_task", "_heartbeat_task", "_commit_refresh_task", "_reset_committed_task")
    tasks = [getattr(coordinator, name, None) for name in names]
    if fetcher is not None:
        tasks += [fetcher._fetch_task, *fetcher._pending_tasks]
    await hard_stop(consumer, consumer._client, tasks)


async def fetch(consumer: Any, wait_seconds: float, most: int) -> dict[Any, list[Any]]:
    """New records of a consumer by partition, at most `most`. Waits at most `wait_seconds` for the first.

    Raises `Unavailable`.
    """
    if consumer._fetcher._fetch_task.done():  # otherwise it would look as if there were no new records
        raise Unavailable("the fetcher has ended")
    fetching = consumer.getmany(timeout_ms=int(wait_seconds * 1000), max_records=most)
    found: dict[Any, list[Any]] = await bounded(fetching, START_SECONDS + wait_seconds)
    return found


def record_of(found: Any) -> Record:
    """The record that aiokafka's consumer returned."""
    key, value, headers = found.key, found.value, list(found.headers)
    return Record(found.topic, found.partition, found.offset, found.timestamp, key, value, headers)


async def _end(tasks: list[Any], limit: float = 3.0) -> None:
    """Cancel the tasks until they are done: one cancel is not always enough."""
    tasks = [t for t in tasks if t is not None and not t.done()]
    until = time.monotonic() + limit
    while tasks and time.monotonic() < until:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=0.2)
        tasks = [t for t in tasks if not t.done()]


_create_connection = aiokafka_client.create_conn


async def _create_with_newest_password(*arguments: Any, sasl_plain_password: Any = None, **more: Any) -> Any:
    """Connect with the password of now. aiokafka keeps that of its start, and a rotation makes it invalid."""
    if isinstance(sasl_plain_password, Rotated):
        sasl_plain_password = sasl_plain_password.path.read_text().strip()
    return await _create_connection(*arguments, sasl_plain_password=sasl_plain_password, **more)


aiokafka_client.create_conn = _create_with_newest_password


_send_request = GroupCoordinator._send_req


async def _send_request_checked(self: Any, request: Any) -> Any:
    """Raise the error of a whole OffsetFetch. aiokafka 0.14 reads "coordinator is loading" as "no offset"."""
    response = await _send_request(self, request)
    code = getattr(response, "error_code", 0)
    if isinstance(request, OffsetFetchRequest) and code:
        error = kafka_errors.for_code(code)
        if error in (kafka_errors.NotCoordinatorForGroupError, kafka_errors.GroupCoordinatorNotAvailableError):
            self.coordinator_dead()
        raise error()  # both callers retry a retriable error
    return response


GroupCoordinator._send_req = _send_request_checked
