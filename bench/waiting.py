"""10,000 requests that wait for the end of their orders (`?wait=`) at once: all are answered; the memory of each."""

import asyncio
import threading
import time

import psutil

from bench import openloop, processes, report, servers
from local import ports

WAITING = 10_000
_RATE = 1500
_POLL_SECONDS = 0.2


class _Memory(threading.Thread):
    """Watches the largest resident memory of a process, until `stop` is called."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__()
        self._process, self._over = process, threading.Event()
        self.most = 0

    def run(self) -> None:
        while not self._over.wait(_POLL_SECONDS):
            self.most = max(self.most, self._process.memory_info().rss)

    def stop(self) -> int:
        self._over.set()
        self.join()
        return self.most


def main(run: servers.Servers) -> None:
    """Only the API of orders runs, so that no order ends, and each request waits for as long as it asked."""
    asyncio.run(run.migrate("bench_waiting"))
    port = ports.free_block(1)
    environment = {
        "DATABASE_URL": run.service_url("bench_waiting", "orders"),
        "KAFKA_BOOTSTRAP_SERVERS": run.bootstrap,
        "REQUIRE_TOKEN": "false",
    }
    with processes.running("orders", "orders", "--only", "api", port=port, environment=environment) as orders:
        openloop.run(port, 500, 2)  # warm up
        time.sleep(1)
        before, memory = orders.memory_info().rss, _Memory(orders)
        cpu = processes.cpu_seconds(orders)
        memory.start()
        load = openloop.run(port, _RATE, WAITING / _RATE, follow=True)
        most = memory.stop()
        cpu = processes.cpu_seconds(orders) - cpu
    print(
        f"\n{WAITING:,} requests with ?wait={openloop.WAIT_SECONDS} at once: {load}; {load.connections:,} connections"
    )
    print(f"  memory of the process {before / 2**20:.0f} MB before, at most {most / 2**20:.0f} MB; CPU {cpu:.1f} s")
    report.most("memory of each", (most - before) / WAITING / 1024, "kB", 50, 20)
    report.most("requests without the answer that they asked for", _others(load), "", 0, 0)
    report.most("answers later than asked", load.overdue.worst, "s", 3.1, 1)


def _others(load: openloop.Load) -> int:
    return sum(count for end, count in load.ends.items() if end not in {"POST 202", "GET 200 PENDING"})
