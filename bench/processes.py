"""Starts the processes of a benchmark, waits until they are ready, counts their CPU, and stops them."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import psutil

from bench.servers import FOLDER, ROOT


@contextmanager
def running(
    name: str, module: str, *arguments: str, port: int, environment: Mapping[str, str]
) -> Iterator[psutil.Process]:
    """Run a module until the block ends. The block starts when `/readyz` answers 200."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    variables = {**os.environ, **environment, "PORT": str(port), "LOG_LEVEL": "WARNING"}
    with (FOLDER / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", module, *arguments], cwd=ROOT, env=variables, stdout=log, stderr=log
        )
    try:
        _wait_ready(child, port)
        yield psutil.Process(child.pid)
    finally:
        child.terminate()
        child.wait(20)


def _wait_ready(child: "subprocess.Popen[bytes]", port: int) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until and child.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.05)
    raise SystemExit(f"the process on port {port} did not become ready; its log is in {FOLDER}")


def cpu_seconds(process: psutil.Process) -> float:
    """CPU seconds of a process and its children, including children that have ended."""
    times = process.cpu_times()
    total: float = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            own = child.cpu_times()
            total += own.user + own.system
    return total
