"""A queue in memory, bounded in rows and bytes."""

from collections import deque
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    @property
    def size(self) -> int: ...


R = TypeVar("R", bound=Sized)


class Pending(Generic[R]):
    def __init__(self, rows: int, size: int) -> None:
        self._rows: deque[tuple[R, int]] = deque()
        self._max_rows, self._max_size, self._size = rows, size, 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: R) -> bool:
        """False if the queue is full."""
        size = row.size
        if not self.has_room(1, size):
            return False
        self._rows.append((row, size))
        self._size += size
        return True

    def has_room(self, rows: int, size: int) -> bool:
        return len(self._rows) + rows <= self._max_rows and self._size + size <= self._max_size

    def take(self, rows: int, size: int) -> list[R]:
        """The oldest rows, at least one if there is any, at most so many and so large in all."""
        taken: list[R] = []
        while self._rows and len(taken) < rows and (size > 0 or not taken):
            row, row_size = self._rows.popleft()
            self._size -= row_size
            size -= row_size
            taken.append(row)
        return taken
