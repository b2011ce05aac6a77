"""The real Postgres, Kafka and supervisord of the embedded stack."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from local import bootstrap, nginx, ports
from local.console import Viewers
from local.distribution import Distribution
from local.kafka import Kafka
from local.postgres import Postgres
from local.problem import Problem
from local.process import Program, Server, survivors
from local.stack import HOME, Ports, Stack
from local.supervisor import Supervisor

pytestmark = pytest.mark.slow

PRINTS_ITS_SETTING = """
import os, time
print("ready with", os.environ.get("FAULT"), flush=True)
time.sleep(60)
"""

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
    command, own = postgres.shell("postgres", "postgres", "public")
    done = subprocess.run(
        [*command, "-Atc", statement], check=True, capture_output=True, text=True, env=os.environ | own
    )
    return done.stdout.strip()


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
    command, own = postgres.shell("postgres", "postgres", "public")
    script = "".join(f"{statement} \\bind secret \\g\n" for statement in statements)
    done = subprocess.run(command, input=script, check=True, capture_output=True, text=True, env=os.environ | own)
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
    subprocess.run(kafka.tool(topics, "--create", "--topic", "events"), check=True, capture_output=True)
    server.kill()
    server.start()
    listed = subprocess.run(kafka.tool(topics, "--list"), check=True, capture_output=True, text=True)
    assert listed.stdout.split() == ["events"]
    server.stop()
    lines = server.log.read_text().splitlines()
    assert len(lines) > 3
    kafkas_own = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} UTC\] (INFO|WARN) .+ \([\w.$]+\)")
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


def test_a_program_has_the_settings_of_the_command_that_started_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "script.py"
    script.write_text(PRINTS_ITS_SETTING)
    program = Program("one", [sys.executable, str(script)], settings=["FAULT"])
    supervisor = Supervisor(tmp_path / "stack", {"services": [program]})
    monkeypatch.setenv("FAULT", "first")
    supervisor.start()
    supervisor.start_program("one")
    wait_for_starts(supervisor, "one", 1)
    monkeypatch.setenv("FAULT", "second")
    supervisor.start_program("one")
    wait_for_starts(supervisor, "one", 2)
    monkeypatch.delenv("FAULT")
    os.kill(supervisor.processes()["one"]["pid"], signal.SIGKILL)
    wait_for_starts(supervisor, "one", 3)
    supervisor.start_program("one")
    wait_for_starts(supervisor, "one", 4)
    supervisor.shutdown()
    settings = [line.split()[-1] for line in supervisor.log("one").read_text().splitlines()]
    assert settings == ["first", "second", "second", "None"]
    supervisor.remove()


def test_a_stack_starts_no_program_when_one_of_its_ports_is_taken(tmp_path: Path) -> None:
    chosen = Ports.free()
    stack = Stack("test", tmp_path / "stack", chosen)
    with socket.create_server((ports.LOOPBACK, chosen.payments)), pytest.raises(Problem, match="PAYMENTS_PORT"):
        stack.up()
    assert not stack.supervisor.is_running()


def test_a_stack_reports_all_wrong_settings_and_taken_ports_before_it_creates_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENT_SOURCE", "shop")  # every service refuses this one
    monkeypatch.setenv("PROVIDER_DECLINE_RATIO", "7")
    monkeypatch.setenv("CONSOLE_LOG_LEVEL", "loud")
    chosen = Ports.free()
    stack = Stack("test", tmp_path / "stack", chosen, viewers=Viewers())
    with socket.create_server((ports.LOOPBACK, chosen.payments)), pytest.raises(Problem) as raised:
        stack.up()
    lines = str(raised.value).splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["EVENT_SOURCE", "PROVIDER_DECLINE_RATIO", "CONSOLE_LOG_LEVEL"]
    assert f"Port {chosen.payments}" in lines[0]
    assert [path.name for path in stack.root.rglob("*") if path.is_file()] == ["lock"]


@pytest.mark.parametrize("change", [Stack.up, Stack.start, Stack.restart])
def test_a_running_stack_refuses_wrong_settings_before_it_starts_or_stops_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Stack, list[str]], object]
) -> None:
    stack = Stack("test", tmp_path / "stack", Ports.free(), viewers=Viewers())
    stack.up(["gateway"])
    try:
        before = stack.supervisor.processes()
        monkeypatch.setenv("STOREFRONT_LOG_LEVEL", "loud")
        with pytest.raises(Problem, match="STOREFRONT_LOG_LEVEL"):
            change(stack, ["storefront"])
        assert stack.supervisor.processes().keys() == before.keys()
        assert {name for name in before if stack.supervisor.is_up(name)} == {"gateway"}
    finally:
        stack.reset()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder with a space that every user can enter. In other folders, root's Postgres would use a shelter."""
    folder = Path(tempfile.mkdtemp(prefix="quick bite ", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_stack_runs_in_a_folder_with_a_space(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = open_folder / "docs"
    docs.mkdir()
    docs.joinpath("index.html").write_text("the page")
    monkeypatch.setattr(nginx, "DOCS", docs)
    stack = Stack("test", open_folder / "stack", Ports.free())
    stack.up(["postgres", "kafka", "gateway"])
    try:
        for path in ("/docs", "/docs/index.html"):
            with urllib.request.urlopen(f"http://127.0.0.1:{stack.ports.gateway}{path}") as page:
                assert page.read() == b"the page"
        assert (stack.root / "postgres" / f".s.PGSQL.{stack.ports.postgres}").is_socket()
        assert (stack.root / "gateway" / "identities").is_dir()
    finally:
        stack.reset()


def test_a_stopped_program_stays_stopped_until_it_is_started(tmp_path: Path) -> None:
    stack = Stack("test", tmp_path / "stack", Ports.free())
    stack.up(["gateway"])
    try:
        first = stack.pid("gateway")
        stack.start(["gateway"])
        assert stack.pid("gateway") == first
        stack.stop(["gateway"])
        assert stack.supervisor.processes()["gateway"]["statename"] == "STOPPED"
        assert not stack.gateway.is_ready()
        stack.start(["gateway"])
        assert stack.gateway.is_ready()
        for change in (stack.stop, stack.start):
            with pytest.raises(Problem, match=r"Unknown: delivery\. This stack has: postgres, kafka, .*gateway"):
                change(["gateway", "delivery"])
        assert stack.gateway.is_ready()
        assert bootstrap.is_running(stack.root)
    finally:
        stack.reset()
    assert not bootstrap.is_running(stack.root)


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


@pytest.fixture
def small_disk(open_folder: Path) -> Iterator[Path]:
    """A disk of 4 MB. Only root can mount it, and not in every container."""
    disk = open_folder / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=4m,mode=755", "tmpfs"]
    if subprocess.run(["mount", *options, str(disk)], check=False, capture_output=True).returncode:
        pytest.skip("this user cannot mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def copied_project(folder: Path) -> Path:
    """The files that `make up` needs until it has installed everything."""
    for name in ("local", "requirements", "gateway"):
        shutil.copytree(bootstrap.PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def full_project(small_disk: Path) -> Path:
    """A project on a disk without any free space."""
    project = copied_project(small_disk)
    with suppress(OSError), (project / "rest").open("wb", buffering=0) as rest:
        while True:
            rest.write(bytes(4096))
    return project


@pytest.fixture
def closed_project(open_folder: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A project where this user may not write. Root may write everywhere, except to a disk that is read-only."""
    if os.geteuid() == 0:
        project = copied_project(request.getfixturevalue("small_disk"))
        subprocess.run(["mount", "-o", "remount,ro", str(project)], check=True)
    else:
        project = copied_project(open_folder)
        project.chmod(0o555)
    yield project
    if os.geteuid() != 0:
        project.chmod(0o755)


def complaint(project: Path, *arguments: str) -> str:
    """The error that a command prints in a copy of the project. It must fail."""
    command, environment = [sys.executable, "-m", *arguments], {**os.environ, "PYTHONPATH": str(bootstrap.PROJECT)}
    done = subprocess.run(command, cwd=project, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    return done.stderr


def test_an_installation_on_a_disk_that_becomes_full_ends_with_a_line_that_names_the_disk(small_disk: Path) -> None:
    *_, line = complaint(copied_project(small_disk), "local.bootstrap", "run").splitlines()
    assert re.fullmatch(rf".*No space left on device.*: free some space on the disk of {small_disk}, and .*", line)


def test_initdb_on_a_full_disk_ends_with_a_line_that_names_the_disk(small_disk: Path) -> None:
    with pytest.raises(Problem, match=rf"^initdb failed: .*No space left on device.* disk of {small_disk}.*$"):
        Postgres(small_disk / "postgres", 1).prepare()


@pytest.mark.parametrize("command", [("local.bootstrap", "run"), ("local", "up", "--only", "gateway")])
def test_a_command_on_a_full_disk_ends_with_a_line_that_names_the_disk(
    full_project: Path, command: tuple[str, ...]
) -> None:
    *_, line = complaint(full_project, *command).splitlines()
    assert re.fullmatch(rf".*No space left on device: free some space on the disk of {full_project}, and .*", line)


@pytest.mark.parametrize("command", [("local.bootstrap", "run"), ("local", "up")])
def test_a_command_in_a_closed_folder_ends_with_a_line_that_names_it(
    closed_project: Path, command: tuple[str, ...]
) -> None:
    reason = rf".* (Read-only file system|Permission denied): '{closed_project}/\.local.*'"
    advice = f"allow this user to write in {closed_project}, or move QuickBite to another folder."
    assert re.fullmatch(rf"{reason}: {advice}\n", complaint(closed_project, *command))
