"""The stack in Docker has the processes and settings of the embedded stack, and an image with all they need."""

import ast
import re
from collections.abc import Iterator
from importlib.metadata import packages_distributions

import pytest

from local import distribution, nginx, postgres, services
from local.stack import Ports, Stack

ROOT = services.PROJECT
COMPOSE = (ROOT / "compose.yaml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()

# These differ: each stack has its own addresses, and the copies of a container have different names.
DIFFERENT = {"HOST", "INSTANCE_ID", "PYTHONUNBUFFERED"}
SERVICES = Ports().services


def section(name: str) -> str:
    """The text of a service or of an `x-…` block, with the blocks that it merges in."""
    found = re.search(rf"^( *){name}:.*\n((?:\1 .*\n|\n)+)", COMPOSE, re.MULTILINE)
    assert found, f"compose.yaml has no {name}"
    merged = "".join(section(anchor) for anchor in anchors(found[2]))
    return found[2] + merged


def anchors(text: str) -> Iterator[str]:
    for alias in re.findall(r"\*([a-z-]+)$", text, re.MULTILINE):
        found = re.search(rf"^(x-[a-z-]+): &{alias}$", COMPOSE, re.MULTILINE)
        assert found, f"compose.yaml has no &{alias}"
        yield found[1]


def environment(name: str) -> dict[str, str]:
    return dict(re.findall(r'^ +([A-Z0-9_]+): *"?([^"\n]*)"?$', section(name), re.MULTILINE))


def default(text: str) -> str:
    """The text if the variable is not set: `this` in ${NAME:-this}."""
    return re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", text)


def copied() -> set[str]:
    return set(re.findall(r"^COPY ([a-z]+) \1$", DOCKERFILE, re.MULTILINE))


def imported() -> set[str]:
    files = [file for package in copied() for file in (ROOT / package).rglob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    whole = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    parts = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.split(".")[0] for name in whole | parts}


# Except the listeners: the broker in Docker has one more, for the host.
@pytest.mark.parametrize("name", sorted(name for name in distribution.PROPERTIES if "listener" not in name))
def test_kafka_has_the_same_properties(name: str) -> None:
    variable = f"KAFKA_{name.replace('.', '_').upper()}"
    assert environment("kafka")[variable] == distribution.PROPERTIES[name]


def test_postgres_has_the_same_settings() -> None:
    settings = dict(re.findall(r"-c, ([a-z_]+)=([^],]+)", section("db")))
    assert settings == {name: value for name, value in postgres.SETTINGS.items() if name != "listen_addresses"}


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_the_same_settings(name: str) -> None:
    (one,) = services.services({name: SERVICES[name]}, postgres=1, kafka=2, auth=SERVICES["auth"])
    embedded, composed = one.program().environment, {key: default(value) for key, value in environment(name).items()}
    assert embedded.keys() - DIFFERENT <= composed.keys()
    for variable in embedded.keys() & {"PORT", "REQUIRE_TOKEN", "TOPIC_PARTITIONS", "ADMIN_PASSWORD"}:
        assert composed[variable] == embedded[variable]
    assert composed["AUTH_JWKS_URL"] == embedded["AUTH_JWKS_URL"].replace("127.0.0.1", "auth")
    password = default(environment("migrate")[f"{name.upper()}_DB_PASSWORD"])
    for url in (embedded["DATABASE_URL"], composed["DATABASE_URL"]):
        assert url.startswith(f"postgresql://{name}_user:{password}@")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_reached_at_its_port_from_this_machine_and_by_the_gateway(name: str) -> None:
    port, gateway = SERVICES[name], section("gateway")
    assert f'ports: ["127.0.0.1:${{{name.upper()}_PORT:-{port}}}:{port}"]' in section(name)
    assert environment("gateway")[f"{name.upper()}_UPSTREAM"] == f"{name}:{port}"
    assert f"{name}: {{condition: service_healthy}}" in gateway


def test_the_gateway_notices_a_changed_address_of_any_service() -> None:
    found = re.search(r"getent ahosts ([a-z ]+)\)", section("gateway"))
    assert found
    assert found[1].split() == list(SERVICES)


def test_the_same_jobs_run() -> None:
    for job in services.jobs(1, 2):
        assert f"command: [python, -m, {', '.join(job.arguments)}]" in section(job.name)


def test_both_gateways_set_all_variables_of_the_template() -> None:
    names = set(re.findall(r"\$\{([A-Z_]+)\}", nginx.TEMPLATE.read_text().partition("worker_processes")[2]))
    own = Stack("test", ROOT / ".local" / "none", Ports()).gateway.values
    assert names == own.keys() == names & environment("gateway").keys()


def test_only_the_gateway_is_public() -> None:
    published = re.findall(r'^ +ports: \["(.+)"\]$', COMPOSE, re.MULTILINE)
    assert len(published) == COMPOSE.count("ports:") == 3 + len(SERVICES)
    assert [port for port in published if not port.startswith("127.0.0.1:")] == ["${GATEWAY_PORT:-80}:8080"]


def test_the_image_has_all_own_packages_that_its_code_imports() -> None:
    ours = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert imported() & ours <= copied()


def test_the_image_has_all_external_packages_that_its_code_imports() -> None:
    locked = (ROOT / "requirements" / "run.txt").read_text()
    installed = set(re.findall(r"^([a-z0-9-]+)==", locked, re.MULTILINE))
    known = packages_distributions()
    wanted = {known[name][0].lower().replace("_", "-") for name in imported() if name in known}
    assert wanted <= installed


def test_dockerignore_allows_exactly_the_files_that_the_image_copies() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert allowed == copied() | {"alembic.ini", "requirements/run.txt"}
