"""Failure flags: an administrator makes a part of this process fail for a while, to see what happens then.

What must stay true: a flag ends by itself, and a process has none unless it was started with `FAILURE_FLAGS=true`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count

import structlog

from ..errors import Conflict, Invalid, NotFound

log = structlog.get_logger()

FAIL_HANDLER = "fail_handler"
"""The handler of an event type fails, for all keys or for one."""
MAX_FLAGS = 20


class FailedByFlag(Exception):
    """A flag made this work fail. No data and no release is at fault."""


@dataclass(frozen=True, slots=True)
class Flag:
    """The part that fails, and the end of the failure. None means: every type, every key."""

    name: str
    until: datetime
    author: str
    reason: str
    type: str | None = None
    key: str | None = None
    seconds: float = 0.0
    """For flags that delay: by how much."""


class Flags:
    """The flags of one process. `allowed` maps the names that it knows to what they do; without names it has none."""

    def __init__(self, allowed: Mapping[str, str] | None = None) -> None:
        self.allowed = dict(allowed or {})
        self._set: dict[int, Flag] = {}
        self._ids = count(1)

    def set(self, flag: Flag) -> int:
        """Set a flag. Returns its id. Raises `Conflict` or `Invalid`."""
        if not self.allowed:
            raise Conflict("failure flags are switched off here: start the service with FAILURE_FLAGS=true")
        if flag.name not in self.allowed:
            raise Invalid(f"there is no flag {flag.name!r:.40}, only {', '.join(sorted(self.allowed))}")
        if len(self.active()) >= MAX_FLAGS:
            raise Conflict(f"{MAX_FLAGS} flags are set: end one first")
        id_ = next(self._ids)
        self._set[id_] = flag
        log.warning("failure flag set", flag=id_, name=flag.name, author=flag.author, reason=flag.reason)
        return id_

    def end(self, id_: int, author: str) -> None:
        """End a flag now. Raises `NotFound`."""
        if self._set.pop(id_, None) is None:
            raise NotFound
        log.warning("failure flag ended", flag=id_, author=author)

    def active(self) -> dict[int, Flag]:
        """The flags that are not over, by id."""
        if self._set:
            now = datetime.now(UTC)
            self._set = {id_: flag for id_, flag in self._set.items() if flag.until > now}
        return self._set

    def find(self, name: str, type_: str | None = None, key: str | None = None) -> Flag | None:
        """The first flag of this name that applies to this type and key."""
        for flag in self.active().values():
            if flag.name == name and flag.type in {None, type_} and flag.key in {None, key}:
                return flag
        return None

    def check_handler(self, type_: str, key: str) -> None:
        """Raise `FailedByFlag` if a flag makes the handler of this type fail at this key."""
        if flag := self.find(FAIL_HANDLER, type_, key):
            raise FailedByFlag(f"a failure flag of {flag.author} makes {type_} fail: {flag.reason}")


def in_seconds(seconds: float) -> datetime:
    """The time at which a flag that lasts so long ends."""
    return datetime.now(UTC) + timedelta(seconds=seconds)
