"""The settings of the embedded stack, and what is checked before it starts."""

import re
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from local import __main__ as local
from local import bootstrap, config, nginx, stack, supervisor
from local.aspire import Aspire
from local.console import Viewers
from local.problem import Problem
from local.services import services
from local.stack import Ports, Stack
from tests.builders import brokers_for

REQUIREMENTS = bootstrap.PROJECT / "requirements"


def environment(name: str) -> Mapping[str, str]:
    """The environment variables of a service."""
    (one,) = services({name: 2}, postgres=3, kafka=brokers_for, auth=5)
    return one.program().environment


def pinned(name: str) -> dict[str, str]:
    text = (REQUIREMENTS / f"{name}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==([^ \\]+)", text, re.MULTILINE))


def test_a_wrong_setting_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PORT", "many")
    with pytest.raises(Problem, match=r"^KAFKA_PORT=many: .*integer.*$"):
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
    assert found["DATABASE_URL"] == "postgresql://payments_user:payments@127.0.0.1:3/quickbite"
    assert found["PROVIDER_DATABASE_URL"] == "postgresql://provider_user:provider@127.0.0.1:3/quickbite"
    assert found["AUTH_JWKS_URL"] == "http://127.0.0.1:5/auth/jwks.json"


def test_parts_of_every_service_can_be_made_to_fail() -> None:
    assert {environment(name).get("FAILURE_FLAGS") for name in Ports().services} == {"true"}


def test_orders_places_canaries_only_if_a_console_looks_at_them() -> None:
    where = Ports()
    made = {
        console: services(where.services, postgres=3, kafka=brokers_for, auth=5, console=console)
        for console in (None, 6)
    }
    found = {
        console: [one.name for one in of if "CANARY_SECONDS" in one.program().environment]
        for console, of in made.items()
    }
    assert found == {None: [], 6: ["orders"]}


def test_of_the_services_only_auth_gets_the_administrators_password() -> None:
    assert [name for name in Ports().services if "ADMIN_PASSWORD" in environment(name)] == ["auth"]


def test_the_gateway_has_the_address_of_every_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = tmp_path / "template"
    chosen = Ports()
    template.write_text("\n".join(f"${{{name.upper()}_UPSTREAM}}" for name in chosen.services))
    monkeypatch.setattr(nginx, "TEMPLATE", template)
    (gateway,) = Stack("test", tmp_path, chosen)._groups["gateway"]
    gateway.prepare()
    filled = (tmp_path / "gateway" / "nginx.conf").read_text()
    assert filled.split() == [f"127.0.0.1:{port}" for port in chosen.services.values()]


def program(stack: Stack, name: str) -> dict[str, str]:
    return dict(stack.program(name).environment)


def test_a_stack_without_the_console_traces_nothing(tmp_path: Path) -> None:
    stack = Stack("test", tmp_path, Ports())
    assert "console" not in stack.names
    assert not [name for name in Ports().services for variable in program(stack, name) if variable.startswith("OTEL")]


def test_the_console_starts_after_the_services_and_before_the_gateway(tmp_path: Path) -> None:
    stack = Stack("test", tmp_path, Ports(), viewers=Viewers())
    assert stack.names[-3:] == ["products", "console", "gateway"]
    for name in Ports().services:
        assert program(stack, name)["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://127.0.0.1:8086/otlp"
    assert not [variable for variable in program(stack, "console") if variable.startswith("OTEL")]


def test_the_console_finds_the_stack_and_keeps_its_data_where_reset_deletes_it(tmp_path: Path) -> None:
    chosen = Ports(*range(1, 11))
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
        "CONSOLE_ADMIN_PASSWORD": "password",
        "CONSOLE_FORWARD_OTLP_ENDPOINT": "http://x",
    }


def test_make_up_runs_the_console_and_names_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "HOME", tmp_path)
    monkeypatch.setenv("CONSOLE_PORT", "1234")
    monkeypatch.setenv("GATEWAY_PORT", "1235")
    wanted = local._wanted_stack()
    assert program(wanted, "console")["CONSOLE_PORT"] == "1234"
    assert "http://127.0.0.1:1235/console/" in local._welcome(wanted.ports)
    assert "http://127.0.0.1:1234/console/" in local._welcome(wanted.ports)


def test_aspire_starts_before_the_console_which_forwards_traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack, "HOME", tmp_path)
    monkeypatch.setenv("SEE", "aspire")
    monkeypatch.setenv("ASPIRE_PORT", "2000")
    wanted = local._wanted_stack()
    assert wanted.names[-4:] == ["products", "aspire", "console", "gateway"]
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
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of a fake of Docker's client."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path / "docker"


@pytest.mark.parametrize(("answer", "chosen"), [("exit 0", "compose"), ("exit 1", "local")])
def test_compose_is_chosen_only_if_a_docker_engine_answers(docker: Path, answer: str, chosen: str) -> None:
    docker.write_text(f"#!/bin/sh\n{answer}\n")
    docker.chmod(stat.S_IRWXU)
    assert bootstrap.stack() == chosen


def test_the_embedded_stack_is_chosen_without_docker(docker: Path) -> None:
    assert not docker.exists()
    assert bootstrap.stack() == "local"


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
