"""From outbox rows to Kafka records, including those that Kafka will never take.

What must stay true: rows of one key are sent in order and never past one that was refused, and a producer that saw any
failure is thrown away, because one refused batch poisons its partition for the producer's life.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from shared.delivery import events, kafka
from shared.delivery.events import Headers
from shared.delivery.kafka import Message, Partition, Publisher
from shared.delivery.lanes import Row

SEND_SECONDS = 5.0
_BEHIND = "waits behind a refused row of its key"


class Refusal(NamedTuple):
    """A row that is not in Kafka and will not be, and why."""

    row: Row
    reason: str


class Sender:
    """Sends rows of one service's outbox; `stopped` are the (topic, key) pairs that wait behind a refused row."""

    def __init__(self, bootstrap_servers: str, source: str) -> None:
        self._bootstrap_servers, self._source = bootstrap_servers, source
        self._publisher: Publisher | None = None
        self._statics: dict[str, Headers] = {}
        self._careful: set[Partition] = set()
        self.stopped: set[tuple[str, str]] = set()

    async def send(self, rows: Sequence[Row]) -> list[Refusal]:
        """Have all rows acknowledged, but for those returned. Raises `kafka.Unavailable`: then send all again."""
        publisher = await self._started()
        batches, refused = await self._batches(publisher, rows)
        careful = {partition: batches.pop(partition) for partition in self._careful & batches.keys()}
        try:
            messages = {partition: list(map(self._message, batch)) for partition, batch in batches.items()}
            await publisher.send(messages, SEND_SECONDS)
        except kafka.Rejected as error:
            self._careful.add(error.partition)  # sent again, one by one, it shows which row it was
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
        """Throw the producer away; the next `send` makes another."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            await publisher.close()
