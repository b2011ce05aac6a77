"""The real Postgres, Kafka and supervisord of the embedded stack."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from local import ports
from local.distribution import Distribution
from local.kafka import Kafka
from local.postgres import Postgres
from local.problem import Problem
from local.process import Program, Server, survivors
from local.stack import HOME, Ports, Stack
from local.supervisor import Supervisor

pytestmark = pytest.mark.slow

NOTES_ITS_STOP = """
import signal, sys, time
def stop(*_):
    with open("stopped", "a") as file:
        print(sys.argv[1], file=file)
    sys.exit()
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[Postgres]:
    postgres = Postgres(tmp_path / "postgres", ports.free_block(1))
    yield postgres
    postgres.remove()


def run_sql(postgres: Postgres, statement: str) -> str:
    command, _ = postgres.shell("postgres", "postgres", "public")
    return subprocess.run([*command, "-Atc", statement], check=True, capture_output=True, text=True).stdout.strip()


def wait_for_log(server: Server, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in server.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def wait_for_starts(supervisor: Supervisor, name: str, count: int) -> None:
    deadline = time.monotonic() + 10
    while supervisor.log(name).read_text().count("ready") < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_postgres_keeps_committed_rows_when_it_is_killed(postgres: Postgres, tmp_path: Path) -> None:
    server = Server(postgres, tmp_path)
    server.start()
    run_sql(postgres, "CREATE TABLE orders (id int); INSERT INTO orders VALUES (1)")
    server.kill()
    server.start()
    assert run_sql(postgres, "SELECT id FROM orders") == "1"
    assert run_sql(postgres, "SELECT current_setting('fsync'), current_setting('synchronous_commit')") == "on|on"
    server.stop()


def test_postgres_settings_can_be_chosen_for_a_test(tmp_path: Path) -> None:
    postgres = Postgres(tmp_path / "postgres", ports.free_block(1), settings={"fsync": "off"})
    server = Server(postgres, tmp_path)
    server.start()
    assert run_sql(postgres, "SHOW fsync") == "off"
    server.stop()
    postgres.remove()


@pytest.fixture
def talkative(tmp_path: Path) -> Iterator[tuple[Server, Postgres]]:
    """A running Postgres that logs every statement, because it takes longer than nothing."""
    settings = {"log_min_duration_statement": "0"}
    postgres = Postgres(tmp_path / "postgres", ports.free_block(1), settings=settings)
    server = Server(postgres, tmp_path)
    server.start()
    yield server, postgres
    server.stop()
    postgres.remove()


def test_postgres_logs_slow_and_failed_statements_as_json_without_values(talkative: tuple[Server, Postgres]) -> None:
    server, postgres = talkative
    statements = ("select upper($1)", "select 1 / (length($1) - 6)")
    command, _ = postgres.shell("postgres", "postgres", "public")
    script = "".join(f"{statement} \\bind secret \\g\n" for statement in statements)
    done = subprocess.run(command, input=script, check=True, capture_output=True, text=True)
    assert "SECRET" in done.stdout
    wait_for_log(server, "division by zero")
    entries = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    found = [entry for entry in entries if any(text in str(entry) for text in statements)]
    assert {entry["error_severity"] for entry in found} == {"LOG", "ERROR"}
    assert {entry["timestamp"][-4:] for entry in found} == {" UTC"}
    assert "secret" not in server.log.read_text()


def test_postgres_logs_also_after_its_log_collector_was_killed(talkative: tuple[Server, Postgres]) -> None:
    server, postgres = talkative
    (collector,) = [one for one in psutil.Process(server.pid).children() if "logger" in one.cmdline()[0]]
    collector.kill()
    wait_for_log(server, "was terminated by signal 9")
    run_sql(postgres, "select 'after the kill'")
    wait_for_log(server, "after the kill")
    text = server.log.read_text()
    time.sleep(0.3)  # a collector that read what it writes would fill the log
    assert server.log.read_text() == text


def test_a_lock_file_with_the_id_of_another_process_does_not_stop_postgres(postgres: Postgres, tmp_path: Path) -> None:
    postgres.prepare()
    (postgres.home / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    server = Server(postgres, tmp_path)
    server.start()
    server.stop()


def test_kafka_starts_with_an_empty_data_folder_and_again_after_a_kill(tmp_path: Path) -> None:
    kafka = Kafka(tmp_path / "kafka", ports.free_block(2), cache=HOME / "cache")
    server = Server(kafka, tmp_path)
    server.start()
    topics = "org.apache.kafka.tools.TopicCommand"
    subprocess.run(kafka.tool(topics, "--create", "--topic", "events", user=""), check=True, capture_output=True)
    server.kill()
    server.start()
    listed = subprocess.run(kafka.tool(topics, "--list", user=""), check=True, capture_output=True, text=True)
    assert listed.stdout.split() == ["events"]
    server.stop()
    lines = server.log.read_text().splitlines()
    assert len(lines) > 3
    kafkas_own = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}\] (INFO|WARN) .+ \([\w.$]+\)")
    assert [line for line in lines if not kafkas_own.fullmatch(line)] == []


def test_the_class_cache_is_used() -> None:
    distribution = Distribution(HOME / "cache")
    distribution.prepare()
    java, *rest = distribution.command("kafka.tools.StorageTool", "random-uuid", heap="64m")
    strict = [java, "-XX:AOTMode=on", *rest]  # This mode fails where the default mode would only be slow.
    assert subprocess.run(strict, check=False, capture_output=True).returncode == 0


def test_supervisord_restarts_dead_programs_and_stops_the_last_group_first(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with spaces"
    folder.mkdir()
    script = folder / "script.py"
    script.write_text(NOTES_ITS_STOP)
    programs = {name: [Program(name, [sys.executable, str(script), name], folder=folder)] for name in ("first", "last")}
    supervisor = Supervisor(folder, programs)
    supervisor.start()
    for name in programs:
        supervisor.start_program(name)
        wait_for_starts(supervisor, name, 1)
    os.kill(supervisor.processes()["first"]["pid"], signal.SIGKILL)
    wait_for_starts(supervisor, "first", 2)

    supervisor.shutdown()

    assert (folder / "stopped").read_text().split() == ["last", "first"]
    assert survivors(folder) == []
    supervisor.remove()


def test_a_stack_starts_no_program_when_one_of_its_ports_is_taken(tmp_path: Path) -> None:
    chosen = Ports.free()
    stack = Stack("test", tmp_path / "stack", chosen)
    with socket.create_server((ports.LOOPBACK, chosen.payments)), pytest.raises(Problem, match="PAYMENTS_PORT"):
        stack.up()
    assert not stack.supervisor.is_running()


def test_up_refuses_a_running_stack_of_an_older_version_and_down_stops_it(tmp_path: Path) -> None:
    root = tmp_path / "stack"
    older = Supervisor(root, {"services": [Program("orders", ["sleep", "60"])]})
    older.start()
    older.start_program("orders")
    stack = Stack("test", root, Ports.free())
    with pytest.raises(Problem, match="stop it first"):
        stack.up()
    assert older.is_up("orders")
    stack.down()
    assert not older.is_running()
    assert survivors(root) == []
    stack.supervisor.remove()
