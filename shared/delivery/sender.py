"""Turns outbox rows into Kafka records and sends them, and finds the rows that Kafka refuses permanently.

What must stay true: rows of a key are sent in order, and none is sent after a refused row of the key. A producer that
saw a failure is discarded, because after one refused batch its partition fails as long as the producer lives. A dead
letter topic that is missing or forbidden stops only its own rows.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from . import events, kafka
from .events import Headers
from .kafka import Brokers, Message, Partition, Publisher
from .lanes import Positions, Row
from .outbox import DEAD_LETTER_SUFFIX

SEND_SECONDS = 5.0
_UNUSABLE_SECONDS = 10.0
BEHIND = "waits behind a refused row of its key"


class Refusal(NamedTuple):
    """A row that Kafka refuses permanently, and the reason."""

    row: Row
    reason: str


class Stopped(kafka.Unavailable):
    """Kafka did not acknowledge all rows. `ends` is the last row of each lane up to which it did."""

    def __init__(self, reason: str, ends: Positions) -> None:
        super().__init__(reason)
        self.ends = ends


class Sender:
    """Sends the rows of one outbox. `stopped` has the (topic, key) pairs whose rows wait behind a refused one."""

    def __init__(self, brokers: Brokers | str, source: str) -> None:
        self._brokers, self._source = brokers, source
        self._publisher: Publisher | None = None
        self._statics: dict[str, Headers] = {}
        self._careful: set[Partition] = set()
        self._unusable: dict[str, tuple[str, float]] = {}
        self.stopped: set[tuple[str, str]] = set()

    async def send(self, rows: Sequence[Row]) -> list[Refusal]:
        """Send all rows and wait until Kafka has acknowledged them. Returns the refused rows.

        Raises `kafka.Unavailable`; then send all rows again, or those after `Stopped.ends`.
        """
        publisher = await self._started()
        counts = await self._partitions(publisher, {row[0] for row in rows})
        batches, refused = self._batches(rows, counts)
        careful = {partition: batches.pop(partition) for partition in self._careful & batches.keys()}
        try:
            messages = {partition: list(map(self._message, batch)) for partition, batch in batches.items()}
            await publisher.send(messages, SEND_SECONDS)
        except kafka.Rejected as error:
            self._careful.add(error.partition)  # next time its rows are sent one by one, to find the refused row
            raise kafka.Unavailable(str(error)) from error
        except kafka.TopicUnusable as error:
            self._note_unusable(error)
            raise kafka.Unavailable(str(error)) from error
        except kafka.Interrupted as error:
            raise Stopped(str(error), self._ends(rows, counts, error.acknowledged)) from error
        for partition, batch in careful.items():
            refused += await self._send_singly(partition, batch)
        self._careful.clear()
        return refused

    async def _partitions(self, publisher: Publisher, topics: Iterable[str]) -> dict[str, int]:
        """The number of partitions of each topic that can be used. Raises `kafka.Unavailable`."""
        counts = {}
        for topic in topics:
            if topic in self._unusable and time.monotonic() < self._unusable[topic][1]:
                continue
            self._unusable.pop(topic, None)
            try:
                counts[topic] = await publisher.partitions_of(topic)
            except kafka.TopicUnusable as error:
                self._note_unusable(error)
        return counts

    def _note_unusable(self, error: kafka.TopicUnusable) -> None:
        if not error.topic.endswith(DEAD_LETTER_SUFFIX):  # the service's own topic: all its rows wait
            raise kafka.Unavailable(str(error)) from error
        self._unusable[error.topic] = error.reason, time.monotonic() + _UNUSABLE_SECONDS

    def _batches(
        self, rows: Sequence[Row], counts: Mapping[str, int]
    ) -> tuple[dict[Partition, list[Row]], list[Refusal]]:
        batches: dict[Partition, list[Row]] = defaultdict(list)
        refused = []
        for row in rows:
            topic = row[0]
            if self.stopped and (topic, row[2]) in self.stopped:
                refused.append(Refusal(row, BEHIND))
            elif topic not in counts:
                refused.append(Refusal(row, _unusable(self._unusable[topic][0])))
            else:
                batches[topic, row[1] % counts[topic]].append(row)
        return batches, refused

    def _ends(self, rows: Sequence[Row], counts: Mapping[str, int], acknowledged: Mapping[Partition, int]) -> Positions:
        """The last row of each lane before its first row that is not in Kafka."""
        ends: Positions = {}
        seen: Counter[Partition] = Counter()
        ended: set[int] = set()
        for row in rows:
            topic, lane = row[0], row[6]
            is_done = False
            if topic in counts and (topic, row[2]) not in self.stopped:
                partition = topic, row[1] % counts[topic]
                seen[partition] += 1
                is_done = seen[partition] <= acknowledged.get(partition, 0)
            if is_done and lane not in ended:
                ends[lane] = row[7], row[8]
            else:
                ended.add(lane)
        return ends

    def _message(self, row: Row) -> Message:
        _, _, key, value, type_, head, *_ = row
        static = self._statics.get(type_) or self._static(type_)
        raw = key.encode()
        return raw, value, events.headers(static, raw, head)

    def _static(self, type_: str) -> Headers:
        return self._statics.setdefault(type_, events.static_headers(type_, self._source))

    async def _send_singly(self, partition: Partition, batch: Sequence[Row]) -> list[Refusal]:
        refused, stopped = [], set[tuple[str, str]]()
        for row in batch:
            topic_key = (row["topic"], row["key"])
            if topic_key in stopped:
                refused.append(Refusal(row, BEHIND))
                continue
            try:
                await (await self._started()).send({partition: [self._message(row)]}, SEND_SECONDS)
            except kafka.Rejected as error:
                refused.append(Refusal(row, error.reason))
                stopped.add(topic_key)
                await self.close()
            except kafka.TopicUnusable as error:
                self._note_unusable(error)
                refused.append(Refusal(row, _unusable(error.reason)))
                stopped.add(topic_key)
                await self.close()
        return refused

    def forget_partitions(self) -> None:
        """Find the partitions of each topic again. Two relays that count differently would break the order of a key."""
        if self._publisher is not None:
            self._publisher.forget_partitions()

    async def send_again(self, row: Row) -> bool:
        """Send a row that was set aside. Returns whether Kafka accepted it. Raises `kafka.Unavailable`."""
        topic = row[0]
        counts = await self._partitions(await self._started(), [topic])
        if topic not in counts:
            return False
        return not await self._send_singly((topic, row[1] % counts[topic]), [row])

    async def _started(self) -> Publisher:
        if self._publisher is None:
            made = Publisher(self._brokers)
            try:
                await made.start()
            except BaseException:
                await made.close()
                raise
            self._publisher = made
        return self._publisher

    async def close(self) -> None:
        """Discard the producer. The next `send` creates another."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.close()


def _unusable(reason: str) -> str:
    return f"the topic cannot be used: {reason}"
