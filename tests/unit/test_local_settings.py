"""The settings of the embedded stack, and what is checked before it starts."""

import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from local import __main__ as local
from local import bootstrap, config, env_file, nginx, ports, stack, supervisor
from local.aspire import Aspire
from local.console import Viewers
from local.problem import Problem, disk_problem
from local.process import STACK_MARK
from local.services import SECRETS, services
from local.stack import KafkaOptions, Ports, Stack
from quickbite import config as quickbite
from quickbite.config import SERVICES

REQUIREMENTS = bootstrap.PROJECT / "requirements"


def environment(name: str) -> Mapping[str, str]:
    """The environment variables of a service."""
    (one,) = services({name: 2}, postgres=3, kafka=4, auth=5, secrets=Path("/secrets"))
    return one.program().environment


def pinned(name: str) -> dict[str, str]:
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==([^ \\]+)", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("KAFKA_PORT", "many", "KAFKA_PORT must be a number from 1 to 65533, and is 'many'."),
        ("ORDERS_PORT", "0", "ORDERS_PORT must be a number from 1 to 65533, and is '0'."),
        ("PORT_BASE", "70000", "PORT_BASE must be a number from 1 to 65400, and is '70000'."),
        ("LOG_LEVEL", "loud", "LOG_LEVEL must be DEBUG, INFO, WARNING or ERROR, and is 'loud'."),
        ("KAFKA_HEAP", "much", "KAFKA_HEAP must be a size such as 256m or 1g, and is 'much'."),
        ("SEE", "all", "SEE must be aspire or empty, and is 'all'."),
        ("AUTH_PORT", "8080", "orders and auth need port 8080: set ORDERS_PORT or AUTH_PORT."),
        ("ORDERS_PORT", "9093", "orders and kafka need port 9093: set ORDERS_PORT or KAFKA_PORT."),
    ],
)
def test_a_wrong_setting_is_one_sentence(name: str, value: str, sentence: str) -> None:
    assert config.read({name: value})[1] == [sentence]


@pytest.mark.parametrize("password", ["short", 'with "quotes"', "a comment ;here", "two\nlines"])
def test_an_unfit_password_is_not_shown(password: str) -> None:
    (sentence,) = config.read({"ADMIN_PASSWORD": password})[1]
    assert sentence.startswith("ADMIN_PASSWORD must be at least 8 characters")
    assert password not in sentence


def test_all_wrong_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA_PORT", "LOG_LEVEL", "ADMIN_PASSWORD"):
        monkeypatch.setenv(name, "bad")
    with pytest.raises(Problem) as raised:
        config.load()
    assert re.findall("^[A-Z_]+", str(raised.value), re.MULTILINE) == ["ADMIN_PASSWORD", "LOG_LEVEL", "KAFKA_PORT"]


@pytest.mark.parametrize("name", [field.name.upper() for field in fields(config.Settings)])
def test_an_empty_variable_counts_as_not_set(name: str) -> None:
    assert config.read({name: ""}) == (config.Settings(), [])


def test_log_levels_may_be_in_small_letters() -> None:
    assert config.read({"LOG_LEVEL": "warning"})[1] == []


def test_one_number_moves_all_ports_that_have_no_variable() -> None:
    moved, wrong = config.read({"PORT_BASE": "18000", "AUTH_PORT": "7000", "SEE": "aspire"})
    assert wrong == []
    assert moved.ports == {
        "orders": (18080,),
        "inventory": (18081,),
        "payments": (18082,),
        "auth": (7000,),
        "users": (18084,),
        "products": (18085,),
        "console": (18086,),
        "storefront": (18087,),
        "aspire": (18088, 18089, 18090),
        "gateway": (18000,),
        "gateway_tls": (18043,),
        "postgres": (18033,),
        "kafka": (18092, 18093),
    }


def test_the_commands_for_the_person_on_call_follow_the_moved_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT_BASE", "18000")
    monkeypatch.setenv("AUTH_PORT", "7000")
    moved, called = config.load(), quickbite.Settings()
    for name in SERVICES:
        assert called.address(name) == f"http://127.0.0.1:{moved.ports[name][0]}"


def test_the_settings_have_a_port_for_every_program_of_a_stack() -> None:
    names = {one.name for one in fields(Ports)}
    assert names == config.read({"GATEWAY_PORT": "80", "GATEWAY_TLS_PORT": "443"})[0].ports.keys()


OPEN = {"GATEWAY_HOST": "0.0.0.0"}  # noqa: S104 - the setting that is tested


@pytest.mark.parametrize(
    "password", ["", "password", "Short-pass1", "Password1234", "aaaaaaaaaaaaaaaa", "quickbite1234"]
)
def test_others_do_not_reach_a_gateway_whose_password_is_easy(monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    for name, value in (OPEN | ({"ADMIN_PASSWORD": password} if password else {})).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(
        Problem, match=r"^GATEWAY_HOST=0\.0\.0\.0 lets others reach .*: set ADMIN_PASSWORD to 12"
    ) as raised:
        config.load()
    assert "\n" not in str(raised.value)


def test_others_reach_a_gateway_whose_password_is_hard(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (OPEN | {"ADMIN_PASSWORD": "wet-lobster-77"}).items():
        monkeypatch.setenv(name, value)
    assert config.load().entry.host == OPEN["GATEWAY_HOST"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5"])
def test_on_loopback_every_password_is_good(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("GATEWAY_HOST", host)
    assert config.load().entry.host == host


@pytest.mark.parametrize("proxies", ["10.0.0.0/33", "proxy.example", "10.0.0.1/8"])
def test_a_wrong_network_of_proxies_is_reported(monkeypatch: pytest.MonkeyPatch, proxies: str) -> None:
    monkeypatch.setenv("TRUSTED_PROXIES", proxies)
    with pytest.raises(Problem, match=r"^TRUSTED_PROXIES must be networks such as"):
        config.load()


def test_a_stack_name_cannot_leave_its_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACK_NAME", "../../etc")
    with pytest.raises(Problem, match="STACK_NAME"):
        config.load()


def test_only_given_names_are_replaced_in_a_template() -> None:
    template = "listen ${GATEWAY_PORT}; set $host ${request_id} ${OTHER};"
    assert nginx.fill_in(template, {"GATEWAY_PORT": "80"}) == "listen 80; set $host ${request_id} ${OTHER};"


def test_only_orders_may_be_called_without_a_token() -> None:
    environments = {name: environment(name) for name in Ports().services}
    assert {name: found.get("REQUIRE_TOKEN", "true") for name, found in environments.items()} == dict.fromkeys(
        environments, "true"
    ) | {"orders": "false"}


def test_a_service_finds_its_database_and_the_keys_that_sign_tokens() -> None:
    found = environment("payments")
    assert found["DATABASE_URL"] == "postgresql://payments_user@127.0.0.1:3/quickbite"
    assert found["PROVIDER_DATABASE_URL"] == "postgresql://provider_user@127.0.0.1:3/quickbite"
    assert found["SECRETS_FOLDER"] == "/secrets/payments"
    assert found["AUTH_JWKS_URL"] == "http://127.0.0.1:5/auth/jwks.json"


def test_the_secrets_of_a_stack_are_in_no_file_but_their_own(tmp_path: Path) -> None:
    stack = Stack("test", tmp_path, Ports(), viewers=Viewers())
    stack._make_secrets()
    made = {name: (tmp_path / "secrets" / name).read_text() for name in SECRETS}
    assert len(set(made.values())) == len(made)
    assert not [name for name, value in made.items() if value in stack.supervisor.configuration]
    programs = [stack.program(name) for name in (*Ports().services, "postgres")] + [
        job.program() for job in stack._jobs
    ]
    assert not [one.name for one in programs for value in made.values() if value in f"{one.command} {one.environment}"]
    assert (
        stack.database_url() == f"postgresql://postgres:{made['postgres/postgres_password']}@127.0.0.1:5433/quickbite"
    )
    command, variables = stack.postgres.shell("orders_user", "a secret", "orders")
    assert "a secret" not in str(command)
    assert variables["PGPASSWORD"] == "a secret"


def test_a_service_can_be_started_by_hand_beside_the_stack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stack, "HOME", tmp_path / "a b")
    local.env("orders")
    lines = capsys.readouterr().out.splitlines()
    assert "export DATABASE_URL=postgresql://orders_user@127.0.0.1:5433/quickbite" in lines
    assert f"export SECRETS_FOLDER='{tmp_path}/a b/dev/secrets/orders'" in lines
    assert not [line for line in lines if "INSTANCE_ID" in line]  # the running one has it
    with pytest.raises(Problem, match="Not a service or a job: kafka"):
        local.env("kafka")


def test_parts_of_every_service_can_be_made_to_fail() -> None:
    assert {environment(name).get("FAILURE_FLAGS") for name in Ports().services} == {"true"}


def test_orders_places_canaries_only_if_a_console_looks_at_them() -> None:
    where = Ports()
    others = {"postgres": 3, "kafka": 4, "auth": 5, "secrets": Path("/secrets")}
    made = {console: services(where.services, **others, console=console) for console in (None, 6)}
    found = {
        console: [one.name for one in of if "CANARY_SECONDS" in one.program().environment]
        for console, of in made.items()
    }
    assert found == {None: [], 6: ["orders"]}


def test_only_auth_and_the_console_have_the_administrators_password_and_nobody_inherits_it(tmp_path: Path) -> None:
    stack = Stack("test", tmp_path, Ports(), admin_password="wet-lobster-77", viewers=Viewers())
    stack._make_secrets()
    known = {str(path.relative_to(stack.secrets)) for path in stack.secrets.rglob("*") if path.is_file()}
    has_it = {name for name in known if stack.secret(name) == "wet-lobster-77"}
    assert has_it == {"auth/admin_password", "console/console_admin_password"}
    assert "wet-lobster-77" not in stack.supervisor.configuration
    for name in ("auth", "console"):
        assert stack.program(name).environment["SECRETS_FOLDER"] == str(stack.secrets / name)
        assert not [variable for variable in stack.program(name).settings if variable.endswith("ADMIN_PASSWORD")]


def test_a_stack_keeps_its_administrators_password_until_another_one_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Stack("test", tmp_path, Ports(), admin_password="wet-lobster-77")._make_secrets()
    monkeypatch.setenv("ADMIN_PASSWORD", "")
    env_file.remember(tmp_path)
    assert os.environ["ADMIN_PASSWORD"] == "wet-lobster-77"
    monkeypatch.setenv("ADMIN_PASSWORD", "dry-lobster-88")
    env_file.remember(tmp_path)
    assert os.environ["ADMIN_PASSWORD"] == "dry-lobster-88"


def test_the_gateway_has_the_address_of_every_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = tmp_path / "template"
    chosen = Ports()
    template.write_text("\n".join(f"${{{name.upper()}_UPSTREAM}}" for name in chosen.services))
    monkeypatch.setattr(nginx, "TEMPLATE", template)
    gateway = Stack("test", tmp_path, chosen).gateway
    gateway.prepare()
    filled = (gateway.home / "nginx.conf").read_text()
    gateway.remove()
    assert filled.split() == [f"127.0.0.1:{port}" for port in chosen.services.values()]


def program(stack: Stack, name: str) -> dict[str, str]:
    return dict(stack.program(name).environment)


def test_a_stack_without_the_console_traces_nothing(tmp_path: Path) -> None:
    stack = Stack("test", tmp_path, Ports())
    assert "console" not in stack.names
    assert not [name for name in Ports().services for variable in program(stack, name) if variable.startswith("OTEL")]


def test_the_console_starts_after_the_services_and_before_the_gateway(tmp_path: Path) -> None:
    stack = Stack("test", tmp_path, Ports(), viewers=Viewers())
    assert stack.names[-3:] == ["storefront", "console", "gateway"]
    for name in Ports().services:
        assert program(stack, name)["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:8086/otlp"
    assert not [variable for variable in program(stack, "console") if variable.startswith("OTEL")]


def test_the_console_finds_the_stack_and_keeps_its_data_where_reset_deletes_it(tmp_path: Path) -> None:
    chosen = Ports(*range(1, 12))
    found = program(
        Stack("test", tmp_path, chosen, viewers=Viewers({"CONSOLE_FORWARD_OTLP_ENDPOINT": "http://x"})), "console"
    )
    services = ",".join(f"{name}=http://127.0.0.1:{port}" for name, port in chosen.services.items())
    assert found == {
        "PYTHONUNBUFFERED": "1",
        "CONSOLE_HOST": "127.0.0.1",
        "CONSOLE_PORT": str(chosen.console),
        "CONSOLE_DATA_FOLDER": f"{tmp_path}/console",
        "CONSOLE_SERVICES": services,
        "CONSOLE_AUTH_URL": f"http://127.0.0.1:{chosen.auth}",
        "CONSOLE_LOG_FOLDER": f"{tmp_path}/logs",
        "CONSOLE_SUPERVISOR_SOCKET": str(supervisor.socket(tmp_path)),
        "SECRETS_FOLDER": f"{tmp_path}/secrets/console",
        "CONSOLE_FORWARD_OTLP_ENDPOINT": "http://x",
    }


def test_the_storefront_finds_the_stack(tmp_path: Path) -> None:
    chosen = Ports(*range(1, 12))
    assert program(Stack("test", tmp_path, chosen, viewers=Viewers()), "storefront") == {
        "PYTHONUNBUFFERED": "1",
        "STOREFRONT_HOST": "127.0.0.1",
        "STOREFRONT_PORT": str(chosen.storefront),
        "STOREFRONT_ORDERS_URL": f"http://127.0.0.1:{chosen.orders}",
        "STOREFRONT_PRODUCTS_URL": f"http://127.0.0.1:{chosen.products}",
        "STOREFRONT_AUTH_URL": f"http://127.0.0.1:{chosen.auth}",
        "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{chosen.kafka}",
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_USERNAME": "reader",
        "SECRETS_FOLDER": f"{tmp_path}/secrets/reader",
        "STOREFRONT_SUPERVISOR_SOCKET": str(supervisor.socket(tmp_path)),
    }


def test_the_storefront_takes_its_own_settings_from_the_command_that_starts_it(tmp_path: Path) -> None:
    storefront = Stack("test", tmp_path, Ports(*range(1, 12)), viewers=Viewers()).program("storefront")
    assert storefront.settings == ["STOREFRONT_LOG_LEVEL"]


def test_a_further_user_of_kafka_stays_known_after_its_first_start(tmp_path: Path) -> None:
    first = Stack("test", tmp_path, Ports(), kafka=KafkaOptions(users=("shipping",)))
    password = first._kafka_passwords()["shipping"]
    later = Stack("test", tmp_path, Ports())
    assert later._kafka_passwords()["shipping"] == password
    found = later.environment("shipping")
    assert (found["KAFKA_USERNAME"], found["KAFKA_PASSWORD"]) == ("shipping", password)
    assert found["KAFKA_ADMIN_PASSWORD"] == later.secret("admin/kafka_password")
    with pytest.raises(Problem, match="Not a service or a job: billing"):
        later.environment("billing")


def test_make_up_runs_the_console_and_names_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "HOME", tmp_path)
    monkeypatch.setenv("CONSOLE_PORT", "1234")
    monkeypatch.setenv("GATEWAY_PORT", "1235")
    wanted = local._wanted_stack()
    assert program(wanted, "console")["CONSOLE_PORT"] == "1234"
    assert "http://127.0.0.1:1235/console/" in local._welcome(wanted.ports)
    assert "http://127.0.0.1:1234/console/" in local._welcome(wanted.ports)
    assert "http://127.0.0.1:1235/ " in local._welcome(wanted.ports)


def test_aspire_starts_before_the_console_which_forwards_traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "HOME", tmp_path)
    monkeypatch.setenv("SEE", "aspire")
    monkeypatch.setenv("ASPIRE_PORT", "2000")
    wanted = local._wanted_stack()
    assert wanted.names[-4:] == ["aspire", "storefront", "console", "gateway"]
    forward = program(wanted, "console")["CONSOLE_FORWARD_OTLP_ENDPOINT"]
    assert forward == "http://127.0.0.1:2002"
    assert f"--ASPIRE_DASHBOARD_OTLP_HTTP_ENDPOINT_URL={forward}" in wanted.program("aspire").command


def test_without_npm_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Problem, match=r"needs npm.*Install Node.js"):
        Aspire(tmp_path / "aspire", 2000, cache=tmp_path / "cache").prepare()


@pytest.mark.skipif(sys.platform != "linux", reason="SEE=aspire is for Linux")
def test_another_archive_of_aspire_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "npm").write_text('#!/bin/sh\necho evil > "$4/aspire.tgz"\n')
    (tmp_path / "npm").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Problem, match="another SHA-512"):
        Aspire(tmp_path / "aspire", 2000, cache=tmp_path / "cache").prepare()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["aspire-13.5.4.lock"]


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ('{"orders": 1, "gateway": 2}', Ports(orders=1, gateway=2)),  # an older stack, with fewer services
        ('{"orders": 1, "delivery": 2}', Ports(orders=1)),  # a newer one
        ('{"orders": 1', None),
    ],
)
def test_ports_saved_by_another_version_cause_no_error(tmp_path: Path, text: str, known: Ports | None) -> None:
    assert stack.saved_ports(tmp_path) is None
    (tmp_path / stack.PORTS_FILE).write_text(text)
    assert stack.saved_ports(tmp_path) == known


@pytest.mark.parametrize("name", ["run", "local", "dev"])
def test_a_requirements_lock_has_hashes_and_no_addresses(name: str) -> None:
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    assert text.count("--hash=sha256:") >= len(pinned(name)) > 20
    assert not re.search(r"://|--index|--find-links|@ ", text)


def test_the_requirements_locks_agree() -> None:
    run, local, dev = map(pinned, ("run", "local", "dev"))
    assert run.items() <= local.items() <= dev.items()


@pytest.mark.parametrize("name", ["run", "local", "dev"])
def test_a_requirements_lock_has_all_requested_packages(name: str) -> None:
    asked = re.findall(r"^[a-z0-9-]+", (REQUIREMENTS / f"{name}.in").read_text(), re.MULTILINE)
    assert {one for one in asked if one != "-r"} <= pinned(name).keys()


def test_an_old_python_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 18))
    with pytest.raises(SystemExit, match=r"^QuickBite needs Python 3.11 or newer, this is 3.9. .*PYTHON=.*$"):
        bootstrap.main("local")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the project."""
    monkeypatch.setattr(bootstrap, "PROJECT", tmp_path)
    return tmp_path


@pytest.fixture
def docker(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a fake of Docker's client."""
    monkeypatch.setenv("PATH", str(project))
    return project / "docker"


def answer(docker: Path, script: str) -> None:
    docker.write_text(f"#!/bin/sh\n{script}\n")
    docker.chmod(stat.S_IRWXU)


@pytest.mark.parametrize(
    ("script", "chosen", "reason"),
    [("exit 0", "compose", "A Docker engine answers"), ("exit 1", "local", "No Docker engine")],
)
def test_compose_is_chosen_only_if_a_docker_engine_answers(
    docker: Path, script: str, chosen: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer(docker, script)
    bootstrap.main("stack", "up")
    printed = capsys.readouterr()
    assert printed.out == f"{chosen}\n"
    assert printed.err.startswith(reason)


def test_the_embedded_stack_is_chosen_without_docker(docker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not docker.exists()
    bootstrap.main("stack", "down")
    assert capsys.readouterr() == ("local\n", "")


@pytest.fixture
def running(project: Path) -> Iterator[Path]:
    """The folder of an embedded stack with one process."""
    root = project / ".local" / "dev"
    child = subprocess.Popen([sys.executable, "-c", "input()"], env={STACK_MARK: str(root)}, stdin=subprocess.PIPE)
    yield root
    child.communicate()


def test_a_running_embedded_stack_wins_over_docker(
    docker: Path, running: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(docker, "exit 0")
    chosen, reason = bootstrap.stack()
    assert chosen == "local"
    assert reason.startswith(f"The embedded stack {running.name} is running")
    monkeypatch.setenv("STACK_NAME", "other")
    assert bootstrap.stack()[0] == "compose"


def test_before_the_first_download_all_problems_are_named_at_once(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server((ports.LOOPBACK, 0)) as other:
        taken = other.getsockname()[1]
        monkeypatch.setenv("PAYMENTS_PORT", str(taken))
        monkeypatch.setenv("LOG_LEVEL", "loud")
        monkeypatch.setenv("ADMIN_PASSWORD", "short")
        with pytest.raises(SystemExit) as ended:
            bootstrap.main("check", "local")
    for expected in ("LOG_LEVEL must", "ADMIN_PASSWORD must", f"Port {taken}, which payments needs, is taken"):
        assert expected in str(ended.value)
    assert list(project.iterdir()) == []


def test_a_running_stack_may_use_its_ports(running: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "taken", lambda _: ["a port is taken"])
    bootstrap.main("check", "local")
    monkeypatch.setenv("STACK_NAME", "other")
    with pytest.raises(SystemExit, match="a port is taken"):
        bootstrap.main("check", "local")


@pytest.mark.parametrize("character", list('"$\\:,;#\n'))
def test_a_folder_that_a_program_cannot_use_is_refused(
    project: Path, character: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "taken", lambda _: [])
    bootstrap.main("check", "local")
    monkeypatch.setattr(bootstrap, "PROJECT", project / f"a{character}b")
    with pytest.raises(SystemExit, match=r"^The path .* move QuickBite to another folder\.$"):
        bootstrap.main("check", "local")


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", f"PYTHON={sys.executable}", *arguments]
    return subprocess.run(
        command, cwd=REQUIREMENTS.parent, env=os.environ | environment, check=False, capture_output=True, text=True
    )


def test_the_check_needs_no_package() -> None:
    command = [sys.executable, "-S", "-m", "local.bootstrap", "check", "compose"]  # -S: without site-packages
    subprocess.run(command, cwd=REQUIREMENTS.parent, check=True)


@pytest.mark.parametrize("target", ["stop", "start"])
def test_make_stops_and_starts_one_program_of_both_stacks(target: str) -> None:
    for name, container in (("payments", "payments"), ("postgres", "db")):
        assert make("-n", target, f"NAME={name}", "STACK=local").stdout.rstrip().endswith(f"local {target} {name}")
        assert make("-n", target, f"NAME={name}", "STACK=compose").stdout == f"docker compose {target} {container}\n"
    assert f"make {target} NAME=payments" in make("-n", target, "STACK=local").stderr


def test_make_gives_the_moved_ports_to_docker_compose_and_prints_them() -> None:
    printed = make("--eval=show: ; @env", "show", "PORT_BASE=18000", ORDERS_PORT="7000", POSTGRES_PORT="").stdout
    assert {"ORDERS_PORT=7000", "POSTGRES_PORT=18033", "GATEWAY_PORT=18000"} <= set(printed.splitlines())
    assert "http://127.0.0.1:7000/v1/orders" in printed
    assert "http://127.0.0.1:18000/docs" in printed
    assert make("help", PORT_BASE="many").returncode


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "Collecting x\n  ERROR: Could not install: [Errno 28] No space left on device\nmore",
            r"ERROR: Could not install: \[Errno 28\] No space left on device: free some space on the disk of /.*",
        ),
        (
            str(OSError(30, os.strerror(30), "/a/.local")),
            r"\[Errno 30\] Read-only file system: '/a/.local': allow this user to write in /, or move .*",
        ),
    ],
)
def test_a_full_disk_or_a_closed_folder_is_one_line_that_names_it(text: str, line: str) -> None:
    found = disk_problem(text, Path("/"))
    assert found
    assert re.fullmatch(line, found)


def test_a_full_disk_of_temporary_files_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/proc")  # it never has free space
    found = disk_problem("[Errno 2] No usable temporary directory found in ['/proc']", Path("/"))
    assert found
    assert "free some space on the disk of /proc" in found


def test_no_other_error_is_blamed_on_the_disk() -> None:
    assert disk_problem("Connection refused", Path("/")) is None


@pytest.fixture
def venv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A virtual environment that is complete according to its stamp."""
    for name in ("run", "local", "dev"):
        (tmp_path / "requirements").mkdir(exist_ok=True)
        (tmp_path / "requirements" / f"{name}.txt").write_text("pytest==1")
    venv = tmp_path / ".venv"
    monkeypatch.setattr(bootstrap, "PROJECT", tmp_path)
    monkeypatch.setattr(bootstrap, "VENV", venv)
    monkeypatch.setattr(bootstrap, "STAMP", venv / "installed.json")
    monkeypatch.setattr(bootstrap, "run", lambda *_: (venv / "bin").mkdir(parents=True, exist_ok=True))
    bootstrap.install("dev")
    (venv / "bin" / "python").touch()
    return venv


def test_installed_requirements_are_not_installed_again(venv: Path) -> None:
    assert venv.exists()
    assert not bootstrap.needed("dev")
    assert not bootstrap.needed("local")


@pytest.mark.parametrize("missing", ["installed.json", "bin/python"])
def test_an_incomplete_environment_is_created_again(venv: Path, missing: str) -> None:
    (venv / missing).unlink()
    assert bootstrap.needed("dev")


def test_a_new_lock_is_installed(venv: Path) -> None:
    venv.with_name("requirements").joinpath("dev.txt").write_text("pytest==2")
    assert bootstrap.needed("dev")
    assert not bootstrap.needed("local")


def test_a_failed_installation_leaves_no_stamp(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        sys.exit("no network")

    monkeypatch.setattr(bootstrap, "run", fail)
    venv.with_name("requirements").joinpath("dev.txt").write_text("pytest==2")
    with pytest.raises(SystemExit):
        bootstrap.install("dev")
    assert bootstrap.needed("local")


def test_a_file_env_sets_what_the_environment_does_not_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"ORDERS_PORT": "1", "AUTH_PORT": ""})
    env_file.load(tmp_path / "missing")
    (tmp_path / "env").write_text(
        '# a comment\n#USERS_PORT=9\n\nORDERS_PORT=2\nAUTH_PORT = 3\nADMIN_PASSWORD="a = b"\n'
    )
    env_file.load(tmp_path / "env")
    assert os.environ == {"ORDERS_PORT": "1", "AUTH_PORT": "3", "ADMIN_PASSWORD": "a = b"}
