"""Records that aiokafka cannot decode. They are given to the consumer, marked as broken, so that it can park them.

What must stay true: no record ends the process, and no record is skipped without a word. aiokafka raises at such a
record, drops the records that it decoded before, and would continue after them.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import _DefaultRecordBatchPy, _DefaultRecordPy
from aiokafka.record.memory_records import MemoryRecords

from ..events import BROKEN

_OVERHEAD = 12  # base offset and length, before the bytes that the length counts
_TRIES = 3

_unreadable: Counter[bytes] = Counter()
"""How often a batch was unreadable, by its first bytes. The network can be at fault; then a new fetch helps."""


class _Forgiving(bytearray):
    """Bytes whose text may be invalid UTF-8."""

    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return _Forgiving(found) if isinstance(index, slice) else found

    def decode(self, *_: object) -> str:
        return bytes(self).decode(errors="replace")


class _Batch:
    """A batch of aiokafka's, with its raw bytes."""

    def __init__(self, batch: Any, raw: bytes) -> None:
        self._batch, self._raw = batch, raw
        self.base_offset, self.next_offset = int.from_bytes(raw[:8], "big"), batch.next_offset
        self.producer_id, self.is_transactional = batch.producer_id, batch.is_transactional
        self.is_control_batch = batch.is_control_batch

    def validate_crc(self) -> bool:
        return True  # `__iter__` looks at it, because a batch that stays corrupt has to be parked

    def __iter__(self) -> Iterator[Any]:
        if not self._batch.validate_crc():
            yield self._broken("the checksum is wrong")
            return
        position = self.base_offset
        try:
            for record in self._batch:
                position = record.offset + 1
                yield record
        except Exception:  # noqa: BLE001 - whatever it is, the record must not end the process
            yield from self._forgivingly(position)

    def __next__(self) -> Any:
        return next(self._batch)

    def _forgivingly(self, position: int) -> list[Any]:
        """The records from `position` on, with replacement characters in names that are not UTF-8."""
        try:
            batch = _DefaultRecordBatchPy(self._raw)
            batch._maybe_uncompress()
            batch._buffer = _Forgiving(batch._buffer)
            found = [record for record in batch if record.offset >= position]
        except Exception as error:  # noqa: BLE001
            return [self._broken(repr(error))]
        for record in found:
            if any("\ufffd" in name for name, _ in record.headers):
                record.headers.insert(0, (BROKEN, b"the name of a header is not UTF-8"))
        return found

    def _broken(self, reason: str) -> Any:
        """One record that stands for the rest of the batch. The first times it raises: the batch is fetched again."""
        start = self._raw[:21]  # up to the checksum
        _unreadable[start] += 1
        if _unreadable[start] < _TRIES:
            raise CorruptRecordException(f"the batch at offset {self.base_offset} cannot be read: {reason}")
        del _unreadable[start]
        last = self.next_offset - 1  # aiokafka drops a record before the position from which it reads
        return _DefaultRecordPy(last, -1, 0, None, self._raw, [(BROKEN, reason[:500].encode())])


class _Records:
    """aiokafka's records of one answer. It cuts out the bytes of each batch as well."""

    def __init__(self, data: bytes) -> None:
        self._records, self._data, self._at = MemoryRecords(data), data, 0
        self.has_next, self.size_in_bytes = self._records.has_next, self._records.size_in_bytes

    def next_batch(self) -> Any:
        batch = self._records.next_batch()
        start, length = self._at, int.from_bytes(self._data[self._at + 8 : self._at + _OVERHEAD], "big")
        self._at = start + _OVERHEAD + length
        return _Batch(batch, bytes(self._data[start : self._at]))


fetcher.MemoryRecords = _Records
