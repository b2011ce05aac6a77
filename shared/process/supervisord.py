"""The client of supervisord: XML-RPC over its unix socket.

What must stay true: a call waits for a bounded time, and never blocks the event loop. A signal goes to a program by its
name: supervisord knows the process, so no process that got a used process id is hit.
"""

import asyncio
import http.client
import socket
import xmlrpc.client
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import Conflict, Unavailable

T = TypeVar("T")

SECONDS = 1.0
ADDRESS = "http://quickbite:quickbite@supervisor"
"""Its user and password. Only the rights of the socket protect it."""
UP = frozenset({"STARTING", "RUNNING"})


@dataclass(frozen=True, slots=True)
class Program:
    """One supervised program. `since`: when its process began, in seconds since 1970. Without a process, `pid` is 0."""

    group: str
    name: str
    state: str
    pid: int
    since: float | None

    @property
    def full_name(self) -> str:
        return f"{self.group}:{self.name}"

    @property
    def is_up(self) -> bool:
        return self.state in UP and self.pid > 0


class Supervisord:
    def __init__(self, path: str) -> None:
        self._path = path
        # Its own threads: a frozen program is woken also while other work uses all threads of the process.
        self._threads = ThreadPoolExecutor(4, "supervisord")

    async def programs(self) -> list[Program]:
        """All programs, group by group. Raises `Unavailable`."""
        return [_program(one) for one in await self._call(lambda rpc: rpc.getAllProcessInfo())]

    async def program(self, name: str) -> Program:
        """One program, by `group:name`. Raises `Conflict` if there is none, or `Unavailable`."""
        return _program(await self._call(lambda rpc: rpc.getProcessInfo(name)))

    async def signal(self, name: str, signal: str) -> None:
        """Send a signal, such as `KILL`, to `group:name`. Raises `Conflict` if it does not run, or `Unavailable`."""
        await self._call(lambda rpc: rpc.signalProcess(name, signal))

    async def wake(self, name: str) -> bool:
        """Send SIGCONT, which a running process ignores. Returns False if supervisord does not answer.

        A cancellation does not stop it.
        """

        async def send() -> bool:
            for _ in range(3):
                try:
                    await self.signal(name, "CONT")
                except Conflict:  # it does not run, or does not exist any more
                    return True
                except Unavailable:
                    await asyncio.sleep(0.3)
                else:
                    return True
            return False

        return await asyncio.shield(asyncio.create_task(send(), name="waking a frozen program"))

    async def _call(self, work: Callable[[Any], T]) -> T:
        def call() -> T:
            transport = _Transport(self._path)
            try:
                return work(xmlrpc.client.ServerProxy(ADDRESS, transport=transport).supervisor)
            finally:
                transport.close()

        try:
            async with asyncio.timeout(2 * SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except xmlrpc.client.Fault as fault:
            raise Conflict(f"supervisord refuses: {fault.faultString[:200]}") from None
        except (OSError, http.client.HTTPException, xmlrpc.client.Error, ValueError) as error:
            raise Unavailable(f"supervisord does not answer: {error!r:.200}") from error


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("supervisor", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(SECONDS)
        self.sock.connect(self._path)


class _Transport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        _, self._extra_headers, _ = self.get_host_info(host)
        made = _Connection(self._path)
        self._connection = host, made  # what `close` closes
        return made


def _program(found: Any) -> Program:
    since = float(found["start"]) if found["pid"] else None
    return Program(str(found["group"]), str(found["name"]), str(found["statename"]), int(found["pid"]), since)
