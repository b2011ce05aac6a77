"""TLS of a service's own port, with a certificate that may be replaced while the service runs.

What must stay true: a file that cannot be used changes nothing, and connections that are open stay.
"""

import asyncio
import ssl
from pathlib import Path

import structlog

from ..process.loop import Beat, repeat

log = structlog.get_logger()

_LOOK_SECONDS = 5.0


class Certificate:
    """The key and the certificate in one PEM file. New connections of `context` use those that were loaded last."""

    def __init__(self, file: Path) -> None:
        """Raise OSError if the file cannot be used."""
        self._file, self._loaded = file, 0
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.reload()

    def reload(self) -> bool:
        """Load the file if it was replaced. Returns whether it was. Raises OSError if it cannot be used."""
        if (changed := self._file.stat().st_mtime_ns) == self._loaded:
            return False
        self.context.load_cert_chain(self._file)
        self._loaded = changed
        return True

    async def run(self, stop: asyncio.Event, beat: Beat = lambda: None) -> None:
        """Look for a new file until `stop` is set."""

        async def turn() -> float:
            if self.reload():
                log.info("a new certificate is used")
            return _LOOK_SECONDS

        await repeat("loading of a certificate", turn, stop, beat, trouble=(OSError,))
