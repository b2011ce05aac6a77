"""W3C trace context: a request and all events that follow from it have the same trace."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)

_carried: ContextVar[Mapping[str, str]] = ContextVar("traceparents")


def valid(traceparent: str | None) -> str | None:
    """The header's value if it is a valid traceparent, else None."""
    return traceparent if traceparent and _TRACEPARENT.fullmatch(traceparent) else None


@contextmanager
def carrying(traceparents: Mapping[str, str]) -> Iterator[None]:
    """Within the block, events that are encoded get the traceparent of their key. `traceparents` is keyed by event key.

    The block may await. Only the current task, and tasks that it creates, see the mapping.
    """
    token = _carried.set(traceparents)
    try:
        yield
    finally:
        _carried.reset(token)


def carried() -> Mapping[str, str]:
    """Traceparents by event key, as the innermost `carrying` set them. Empty outside of any `carrying`."""
    return _carried.get({})


def of(key: str) -> str:
    """The traceparent for events of this key, or an empty text."""
    return carried().get(key, "")
