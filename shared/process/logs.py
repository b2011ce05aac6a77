"""Logging: plain lines on a terminal, JSON lines everywhere else."""

import logging
import sys
import time

import structlog

START_SECONDS = 60.0
_STARTED_AT = time.monotonic()


def level_of_absence() -> int:
    """The level for another process that does not answer: in the first minute, it may be starting as this one is."""
    return logging.INFO if time.monotonic() < _STARTED_AT + START_SECONDS else logging.WARNING


class OncePer(logging.Filter):
    """Passes one record of each kind every `seconds`: without a broker, aiokafka logs a hundred records a second.

    Add the filter to handlers. A filter on a logger does not see the records of the logger's children.
    """

    def __init__(self, prefix: str, seconds: float = 10.0) -> None:
        super().__init__()
        self._prefix, self._seconds = prefix, seconds
        self._last: dict[tuple[str, str], float] = {}
        self._held: dict[tuple[str, str], int] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.name.startswith(self._prefix):
            return True
        kind, now = (record.name, str(record.msg)[:80]), time.monotonic()
        if now - self._last.get(kind, -self._seconds) < self._seconds:
            self._held[kind] = self._held.get(kind, 0) + 1
            return False
        self._last[kind] = now
        if held := self._held.pop(kind, 0):
            record.msg, record.args = f"{record.getMessage()} [and {held} more like it]", ()
        return True


def configure(level: str, service: str, instance: str = "") -> None:
    """Write the records of structlog and of the standard library to stdout, in one format.

    Each has the names of the service and of the instance, if it has one.
    """
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    terminal = sys.stdout.isatty()
    render = structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(render, foreign_pre_chain=shared))
    handler.addFilter(OncePer("aiokafka"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("aiokafka").setLevel(max(logging.WARNING, logging.getLevelName(level)))
    structlog.contextvars.bind_contextvars(service=service, **({"instance": instance} if instance else {}))
