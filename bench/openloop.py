"""An open-loop load generator: it sends requests on schedule, however late the answers are.

What must stay true: each request has exactly one recorded end. If the generator is late itself, `lag` says how much.
"""

import asyncio
import json
import time
from collections import Counter

from bench.client import Connection

WAIT_SECONDS = 30
_GIVE_UP_SECONDS = 45.0


class Generator:
    """Places orders at a fixed rate. With `follow`, it then waits for the end of each order with `?wait=`.

    `ends` counts how each request ended: `POST 202`, `GET refused`, `POST reset`, `no answer`. `answered` has the
    seconds until each POST was answered, `finished` those until each order was CONFIRMED (or, without `follow`,
    accepted). Both begin when the request was due.
    """

    def __init__(self, port: int, *, follow: bool = True) -> None:
        self._port, self._follows = port, follow
        self._free: list[Connection] = []
        self.ends: Counter[str] = Counter()
        self.answered: list[float] = []
        self.finished: list[float] = []
        self.lag = 0.0

    @property
    def failed(self) -> int:
        """Requests without success."""
        return sum(count for end, count in self.ends.items() if end not in {"POST 202", "GET 200"})

    async def run(self, rate: float, seconds: float) -> None:
        """Send on schedule, then wait for the open requests."""
        started, tasks = time.perf_counter(), set[asyncio.Task[None]]()
        for number in range(int(rate * seconds)):
            due = started + number / rate
            early = due - time.perf_counter()
            self.lag = max(self.lag, -early)
            await asyncio.sleep(max(0.0, early))
            task = asyncio.create_task(self._one(number, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        late = (await asyncio.wait(tasks, timeout=_GIVE_UP_SECONDS))[1] if tasks else set()
        for task in late:
            self.ends["no answer"] += 1
            task.cancel()
        while self._free:
            self._free.pop().close()

    async def _one(self, number: int, due: float) -> None:
        body = json.dumps({"userId": f"u{number % 1000}", "sku": "burger", "quantity": 1}).encode()
        answer = await self._ask("POST", "/v1/orders", body)
        self.answered.append(time.perf_counter() - due)
        if answer and self._follows:
            path = f"/v1/orders/{json.loads(answer)['id']}?wait={WAIT_SECONDS}"
            answer = await self._ask("GET", path, b"")
            if not answer or json.loads(answer)["status"] != "CONFIRMED":
                return
        if answer:
            self.finished.append(time.perf_counter() - due)

    async def _connection(self) -> Connection:
        while self._free:
            if (connection := self._free.pop()).is_open:
                return connection
        return await Connection.open(self._port)

    async def _ask(self, method: str, path: str, body: bytes) -> bytes:
        """Returns the answer if it is a success, else nothing."""
        try:
            connection = await self._connection()
            status, answer = await connection.request(method, path, body)
        except OSError:
            self.ends[f"{method} reset"] += 1
            return b""
        if connection.is_open:
            self._free.append(connection)
        is_refused = status == 503 and b"/problems/refused" in answer
        self.ends[f"{method} {'refused' if is_refused else status}"] += 1
        return answer if status < 300 else b""
