"""Turns outbox rows into Kafka records and sends them, and finds the rows that Kafka refuses permanently.

What must stay true: rows of a key are sent in order, and none is sent after a refused row of the key. A producer that
saw a failure is discarded, because after one refused batch its partition fails as long as the producer lives.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from . import events, kafka
from .events import Headers
from .kafka import Message, Partition, Publisher
from .lanes import Row

SEND_SECONDS = 5.0
_BEHIND = "waits behind a refused row of its key"


class Refusal(NamedTuple):
    """A row that Kafka refuses permanently, and the reason."""

    row: Row
    reason: str


class Sender:
    """Sends the rows of one outbox. `stopped` has the (topic, key) pairs whose rows wait behind a refused one."""

    def __init__(self, bootstrap_servers: str, source: str) -> None:
        self._bootstrap_servers, self._source = bootstrap_servers, source
        self._publisher: Publisher | None = None
        self._statics: dict[str, Headers] = {}
        self._careful: set[Partition] = set()
        self.stopped: set[tuple[str, str]] = set()

    async def send(self, rows: Sequence[Row]) -> list[Refusal]:
        """Send all rows and wait until Kafka has acknowledged them. Returns the refused rows.

        Raises `kafka.Unavailable`; then send all rows again.
        """
        publisher = await self._started()
        batches, refused = await self._batches(publisher, rows)
        careful = {partition: batches.pop(partition) for partition in self._careful & batches.keys()}
        try:
            messages = {partition: list(map(self._message, batch)) for partition, batch in batches.items()}
            await publisher.send(messages, SEND_SECONDS)
        except kafka.Rejected as error:
            self._careful.add(error.partition)  # next time its rows are sent one by one, to find the refused row
            raise kafka.Unavailable(str(error)) from error
        for partition, batch in careful.items():
            refused += await self._send_singly(partition, batch)
        self._careful.clear()
        return refused

    async def _batches(
        self, publisher: Publisher, rows: Sequence[Row]
    ) -> tuple[dict[Partition, list[Row]], list[Refusal]]:
        counts = {topic: await publisher.partitions_of(topic) for topic in {row[0] for row in rows}}
        batches: dict[Partition, list[Row]] = defaultdict(list)
        refused = []
        for row in rows:
            if self.stopped and (row["topic"], row["key"]) in self.stopped:
                refused.append(Refusal(row, _BEHIND))
            else:
                topic = row[0]
                batches[topic, row[1] % counts[topic]].append(row)
        return batches, refused

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
                refused.append(Refusal(row, _BEHIND))
                continue
            try:
                await (await self._started()).send({partition: [self._message(row)]}, SEND_SECONDS)
            except kafka.Rejected as error:
                refused.append(Refusal(row, error.reason))
                stopped.add(topic_key)
                await self.close()
        return refused

    async def _started(self) -> Publisher:
        if self._publisher is None:
            made = Publisher(self._bootstrap_servers)
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
