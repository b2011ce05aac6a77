"""How the embedded stack starts, finds and stops its processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from local import ports
from local.problem import Problem
from local.process import PROGRAM_MARK, STACK_MARK, Program, Server, end_survivors, is_alive, survivors
from local.services import Job
from local.stack import Ports, Stack

WEB_SERVER = """
import http.server, sys
class Ok(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Ok).serve_forever()
"""

ORPHAN_MAKER = """
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], stdout=subprocess.DEVNULL)
"""


class Web:
    """An engine that needs only Python."""

    name = "web"
    host = ports.LOOPBACK

    def __init__(self, port: int, code: str = WEB_SERVER) -> None:
        self.ports, self._code = (port,), code

    def prepare(self) -> None:
        pass

    def program(self) -> Program:
        return Program(self.name, [sys.executable, "-c", self._code, str(self.ports[0])])

    def is_ready(self) -> bool:
        return ports.is_ok(self.ports[0], "/")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(Web(ports.free_block(1)), tmp_path)
    yield server
    server.stop()


def marked_child(stack: Path, name: str, code: str) -> subprocess.Popen[bytes]:
    marks = {STACK_MARK: str(stack), PROGRAM_MARK: name}
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, **marks}, stdout=subprocess.PIPE)


def test_a_killed_server_starts_again(server: Server) -> None:
    server.start()
    first = server.pid
    server.kill()
    server.start()
    assert server.pid != first


def test_a_program_that_dies_while_starting_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    engine = Web(ports.free_block(1), "import sys; sys.exit('no such setting')")
    with pytest.raises(Problem, match=r"web stopped while it was starting\n +no such setting"):
        Server(engine, tmp_path).start()


def test_a_taken_port_is_refused_even_if_its_owner_answers(server: Server, tmp_path: Path) -> None:
    server.start()
    port = server._engine.ports[0]
    other = Server(Web(port), tmp_path / "other")
    with pytest.raises(Problem, match=rf"Port {port}, which web needs, is taken: .* set WEB_PORT"):
        other.start()


def test_an_orphan_is_found_by_its_mark_and_stopped(tmp_path: Path) -> None:
    marked_child(tmp_path, "orders", ORPHAN_MAKER).communicate()
    [(name, orphan)] = survivors(tmp_path)
    assert name == "orders"

    end_survivors(tmp_path, [Program("orders", ())])

    assert survivors(tmp_path) == []
    assert not is_alive(orphan)


def test_processes_of_another_stack_are_not_stopped(tmp_path: Path) -> None:
    other = marked_child(tmp_path / "other", "orders", "import time; time.sleep(60)")
    end_survivors(tmp_path, [Program("orders", ())])
    assert other.poll() is None
    other.kill()
    other.communicate()


def test_survivors_are_stopped_in_order_with_their_own_signals(tmp_path: Path) -> None:
    record = tmp_path / "record"
    code = f"""
import signal, sys, time
def note(number, frame):
    with open({str(record)!r}, "a") as file:
        print(signal.Signals(number).name, file=file)
    sys.exit()
signal.signal(signal.SIGINT, note); signal.signal(signal.SIGTERM, note)
print("ready", flush=True); time.sleep(60)
"""
    children = [marked_child(tmp_path, name, code) for name in ("postgres", "orders")]
    for child in children:
        assert child.stdout
        child.stdout.readline()

    end_survivors(tmp_path, [Program("orders", ()), Program("postgres", (), stop_signal=signal.SIGINT)])

    assert record.read_text().split() == ["SIGTERM", "SIGINT"]
    for child in children:
        child.communicate()


def test_a_process_that_ignores_its_signal_is_killed(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    deaf = marked_child(tmp_path, "orders", code)
    assert deaf.stdout
    deaf.stdout.readline()
    end_survivors(tmp_path, [Program("orders", (), stop_seconds=1)])
    deaf.communicate()
    assert deaf.returncode == -signal.SIGKILL


def test_a_zombie_counts_as_dead() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        process = psutil.Process(child.pid)
        while process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert not is_alive(process)


def test_a_block_of_ports_is_consecutive_and_free() -> None:
    first = ports.free_block(3)
    assert all(ports.is_free(first + offset) for offset in range(3))


def test_the_log_of_a_job_does_not_grow(tmp_path: Path) -> None:
    stack = Stack("test", tmp_path, Ports())
    log = stack.supervisor.log("version")
    log.parent.mkdir(parents=True)
    sizes = []
    for _ in range(2):
        stack._run(Job("version", ("platform",), {}))
        sizes.append(log.stat().st_size)
    assert sizes[0] == sizes[1] > 0
