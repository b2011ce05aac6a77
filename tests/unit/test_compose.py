"""The stack in Docker has the processes and settings of the embedded stack, and an image with all they need."""

import ast
import os
import re
import ssl
import subprocess
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

from contracts.access import ADMIN, READER
from local import config, distribution, nginx, postgres, postgres_start, services
from local.console import Console, places
from local.entry import Entry
from local.stack import Ports, Stack
from migrations import config as config_of_migrations
from quickbite.config import Settings
from shared.process import secret

ROOT = services.PROJECT
COMPOSE = (ROOT / "compose.yaml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()

# These differ: each stack has its own addresses, and the copies of a container have different names. Only the embedded
# stack, which is for trying things, lets administrators make parts of a service fail.
DIFFERENT = {"HOST", "INSTANCE_ID", "PYTHONUNBUFFERED", "FAILURE_FLAGS"}
SERVICES = Ports().services
CONTAINERS: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
LGTM = CONTAINERS["lgtm"]


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


def test_kafka_logs_in_the_same_way() -> None:
    (mounted,) = [one for one in CONTAINERS["kafka"]["volumes"] if str(one).startswith("./")]
    outside, inside, _ = mounted.split(":")
    assert (ROOT / outside).samefile(distribution.LOG_SETTINGS)
    assert environment("kafka")["KAFKA_LOG4J_OPTS"] == f"-Dlog4j2.configurationFile={inside}"


def test_postgres_has_the_same_settings() -> None:
    name, *arguments = CONTAINERS["db"]["command"]
    settings = dict(argument.removeprefix("-c").split("=") for argument in arguments)
    assert name == "postgres"
    assert settings.pop("log_directory") == "/tmp"  # noqa: S108 - in the container
    tls = {settings.pop(f"ssl{name}") for name in ("", "_cert_file", "_key_file")}  # loopback has no TLS
    assert tls == {"on", "/tmp/certificate.pem", "/tmp/key.pem"}  # noqa: S108
    assert settings == {name: value for name, value in postgres.SETTINGS.items() if name != "listen_addresses"}


def test_postgres_logs_to_the_log_of_its_container() -> None:
    *shell, script, _ = CONTAINERS["db"]["entrypoint"]
    assert shell == ["sh", "-c"]
    assert f"exec {postgres_start.LOG}>&2\nfor kind in json log; do ln -sf /dev/fd/{postgres_start.LOG} " in script
    assert script.endswith('\nexec docker-entrypoint.sh "$$@"\n')


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_the_same_settings(name: str) -> None:
    others = {"postgres": 1, "kafka": 2, "auth": SERVICES["auth"], "console": 8086, "secrets": Path("/secrets")}
    (one,) = services.services({name: SERVICES[name]}, **others)
    embedded, composed = one.program().environment, {key: default(value) for key, value in environment(name).items()}
    assert embedded.keys() - DIFFERENT <= composed.keys()
    for variable in embedded.keys() & {"PORT", "REQUIRE_TOKEN", "TOPIC_PARTITIONS", "ADMIN_PASSWORD"}:
        assert composed[variable] == embedded[variable]
    assert composed["AUTH_JWKS_URL"] == "https://auth:8443/auth/jwks.json"
    assert composed["AUTH_CA_FILE"] == composed["KAFKA_CA_FILE"]
    traced = "OTEL_EXPORTER_OTLP_ENDPOINT"
    assert composed[traced] == embedded[traced].replace("127.0.0.1", "console")
    for url in (embedded["DATABASE_URL"], composed["DATABASE_URL"]):
        assert url.startswith(f"postgresql://{name}_user@")
    assert embedded["SECRETS_FOLDER"] == f"/secrets/{name}"


def test_the_same_secrets_are_made() -> None:
    *shell, script = CONTAINERS["secrets"]["command"]
    assert shell == ["sh", "-ec"]
    made, *others = script.replace("\\\n", "").splitlines()
    assert made.split() == ["python", "-m", secret.__name__, "/secrets", *services.SECRETS, "loopback/secret"]
    assert others == [
        "python -m shared.process.certificates /secrets db kafka auth",
        "python -m contracts.access /secrets",
    ]
    renewal = CONTAINERS["renewal"]["command"]
    assert " ".join(renewal) == f"{others[0]} --every 12"
    assert CONTAINERS["secrets"]["volumes"] == ["secrets:/secrets"]
    assert CONTAINERS["migrate"]["volumes"] == ["secrets:/secrets:ro"]


def test_every_process_reaches_kafka_as_the_same_user_as_in_the_embedded_stack_and_with_tls() -> None:
    users = {name: name for name in SERVICES} | {"topics": ADMIN, "storefront": READER, "tools": READER}
    for name, user in users.items():
        found = environment(name)
        assert (found["KAFKA_USERNAME"], found["KAFKA_SECURITY_PROTOCOL"]) == (user, "SASL_SSL")
        assert seen_by(name).items() >= {found["SECRETS_FOLDER"]: user, "/run/ca": "ca"}.items()
        assert found["KAFKA_CA_FILE"] == "/run/ca/ca.pem"
    assert {name for name, found in CONTAINERS.items() if "KAFKA_USERNAME" in (found.get("environment") or {})} == {
        *users
    }
    (_, job) = services.jobs(1, 2, Path("/secrets"))
    assert job.environment["KAFKA_USERNAME"] == ADMIN
    assert job.environment["KAFKA_ACLS"] == environment("topics")["KAFKA_ACLS"] == "true"


def test_every_address_of_the_database_wants_its_certificate() -> None:
    urls = [
        value
        for found in CONTAINERS.values()
        for value in (found.get("environment") or {}).values()
        if str(value).startswith("postgresql://")
    ]
    assert len(urls) == len(SERVICES) + 3
    for url in urls:
        assert re.search(r"@db:5432/quickbite\?sslmode=verify-full&sslrootcert=/(run|secrets)/ca/ca\.pem$", url), url


def seen_by(container: str) -> dict[str, str]:
    """The folders of the volume of secrets that a container sees, by where it sees them."""
    mounts = [one for one in CONTAINERS[container].get("volumes", []) if isinstance(one, dict)]
    assert all((one["type"], one["source"], one["read_only"]) == ("volume", "secrets", True) for one in mounts)
    return {one["target"]: one["volume"]["subpath"] for one in mounts}


def test_a_container_sees_only_its_own_secrets_and_starts_after_they_are_made() -> None:
    seen = {name: found for name in CONTAINERS if (found := seen_by(name).get("/run/secrets"))}
    own = {name: name for name in (*SERVICES, "kafka")}
    assert seen == own | {"db": "postgres", "topics": ADMIN, "storefront": READER, "tools": READER}
    whole = [
        name
        for name, found in CONTAINERS.items()
        if any(str(v).startswith("secrets:") for v in found.get("volumes", []))
    ]
    assert whole == ["secrets", "renewal", "rotate", "migrate"]
    for name in SERVICES:
        assert environment(name)["SECRETS_FOLDER"] == "/run/secrets"
    assert CONTAINERS["db"]["depends_on"] == {"secrets": {"condition": "service_completed_successfully"}}


def test_no_password_of_the_database_is_in_the_file() -> None:
    assert not re.search(r"_DB_PASSWORD|POSTGRES_PASSWORD:|postgresql://\w+:", COMPOSE)


@pytest.mark.parametrize("name", SERVICES)
def test_both_stacks_take_the_same_settings_of_a_service_from_the_environment(name: str) -> None:
    (one,) = services.services({name: SERVICES[name]}, postgres=1, kafka=2, auth=3, secrets=Path("/secrets"), console=4)
    found = {variable for variable, value in CONTAINERS[name]["environment"].items() if value is None}
    assert found == set(one.program().settings)


def test_failure_flags_are_switched_on_in_no_container() -> None:
    assert "FAILURE_FLAGS" not in COMPOSE


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_reached_at_its_port_from_this_machine_and_by_the_gateway(name: str) -> None:
    port, gateway = SERVICES[name], section("gateway")
    published = f"127.0.0.1:${{{name.upper()}_PORT:-{port}}}:"
    if name == "orders":  # behind the gateway, because it needs no token there
        assert "ports" not in CONTAINERS[name]
        assert published + environment("gateway")["LISTEN_LOOPBACK"] in CONTAINERS["gateway"]["ports"]
    else:
        assert CONTAINERS[name]["ports"] == [f"{published}{port}"]
    assert environment("gateway")[f"{name.upper()}_UPSTREAM"] == f"{name}:{port}"
    assert f"{name}: {{condition: service_healthy}}" in gateway


def test_the_gateway_notices_a_changed_address_of_any_service() -> None:
    found = re.search(r"getent ahosts ([a-z ]+)\)", section("gateway"))
    assert found
    assert found[1].split() == list(SERVICES)


def test_the_same_jobs_run() -> None:
    for job in services.jobs(1, 2, Path("/secrets")):
        assert f"command: [python, -m, {', '.join(job.arguments)}]" in section(job.name)


def test_both_gateways_set_all_variables_of_the_template() -> None:
    names = template_names("nginx.conf")
    own = Stack("test", ROOT / ".local" / "none", Ports()).gateway.values
    assert names == own.keys() == names & (environment("gateway").keys() | made_values("").keys())
    assert set(config.Settings().limits) <= names
    assert template_names("loopback.conf") <= environment("gateway").keys() | made_values("").keys()


def template_names(name: str) -> set[str]:
    text = (nginx.TEMPLATE.parent / name).read_text()
    return set(re.findall(r"\$\{([A-Z_]+)\}", re.sub("^#.*", "", text, flags=re.MULTILINE)))


def made_values(proxies: str, certificate: str = "/dev/null") -> dict[str, str]:
    """The values that gateway/values.envsh makes in the container, with some paths of this machine instead."""
    with TemporaryDirectory() as folder:
        secret, routes = Path(folder, "secret"), Path(folder, "routes")
        secret.write_text("s3cret former\n")
        # As Linux writes it for a container in Docker's network 172.18.0.0/16.
        routes.write_text("Iface\tDestination\tGateway\neth0\t000012AC\t00000000\neth0\t00000000\t010012AC\n")
        known = {
            "TRUSTED_PROXIES": proxies,
            "TLS_CERTIFICATE": certificate,
            "TLS_KEY": certificate,
            "OWN_FOLDER": folder,
        }
        known |= {"LOOPBACK_SECRET_FILE": str(secret), "ROUTES": str(routes), "PATH": os.environ["PATH"]}
        script = f". {ROOT}/gateway/values.envsh >&2; env"
        done = subprocess.run(["/bin/sh", "-ec", script], env=known, check=True, capture_output=True, text=True)  # noqa: S603
        found = {name: value.strip() for name, _, value in (line.partition("=") for line in done.stdout.splitlines())}
        if certificate == "/dev/null":
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(found["TLS_CERTIFICATE"], found["TLS_KEY"])
            assert Path(found["TLS_KEY"]).stat().st_mode & 0o777 == 0o600
        return found


@pytest.mark.parametrize("proxies", ["", "10.0.0.0/8", "10.0.0.0/8,192.0.2.1/32, 2001:db8::/32"])
def test_the_container_makes_the_values_that_the_embedded_stack_has(proxies: str) -> None:
    made, own = made_values(proxies), Entry(proxies=proxies).values
    assert {name: made[name] for name in ("REAL_IP", "TRUSTED")} == {name: own[name] for name in ("REAL_IP", "TRUSTED")}
    assert (made["MACHINE"], made["LOOPBACK_SECRET"], made["HSTS"]) == ("172.18.0.1", "s3cret", "")


def test_a_mounted_certificate_is_used_and_browsers_remember_to_use_tls(tmp_path: Path) -> None:
    own = tmp_path / "own.pem"
    own.write_text("a certificate")
    made = made_values("", str(own))
    assert (made["TLS_CERTIFICATE"], made["TLS_KEY"], made["HSTS"]) == (str(own), str(own), nginx.ONE_YEAR)


def test_docker_runs_the_script_that_makes_the_values() -> None:
    volumes = CONTAINERS["gateway"]["volumes"]
    assert "./gateway/values.envsh:/docker-entrypoint.d/15-values.envsh:ro" in volumes
    assert os.access(ROOT / "gateway" / "values.envsh", os.X_OK)  # the entrypoint leaves out what is not executable


def published() -> list[str]:
    return [port for found in CONTAINERS.values() for port in found.get("ports", [])]


def test_only_tls_at_the_gateway_can_be_opened_to_others() -> None:
    assert [port for port in published() if not port.startswith("127.0.0.1:")] == [
        "${GATEWAY_HOST:-127.0.0.1}:${GATEWAY_TLS_PORT:-443}:8443"
    ]


def test_only_the_services_reach_postgres_and_kafka() -> None:
    networks = {name: set(found["networks"]) for name, found in CONTAINERS.items()}
    assert {name for name, found in networks.items() if found == {"micro-net"}} == {
        *("db", "kafka", "secrets", "migrate", "topics", "renewal", "rotate")
    }
    assert {name for name, found in networks.items() if found == {"micro-net", "front"}} == {
        *(*SERVICES, "storefront", "tools")
    }
    assert {name for name, found in networks.items() if found == {"front"}} == {"gateway", "console", "lgtm"}


def test_orders_believes_only_the_gateway_about_loopback() -> None:
    own, gateway = CONTAINERS["orders"], CONTAINERS["gateway"]
    secret = gateway["environment"]["LOOPBACK_SECRET_FILE"]
    assert own["environment"]["LOOPBACK_SECRET_FILE"] == secret
    assert own["environment"]["REQUIRE_TOKEN"] == "false"
    where = str(Path(secret).parent)
    assert {name: where for name in CONTAINERS if "loopback" in seen_by(name).values()} == {
        name: target for name in ("orders", "gateway") for target, of in seen_by(name).items() if of == "loopback"
    }


def test_every_container_has_bounds() -> None:
    for name, found in CONTAINERS.items():
        assert re.fullmatch(r"(\$\{[A-Z_]+:-)?\d+[mg]\}?", found["mem_limit"]), name
        assert 0 < found["pids_limit"] <= 1024, name
    assert [path for path in CONTAINERS["gateway"]["tmpfs"] if "size=" not in path] == []


def test_every_container_is_restricted_and_its_log_is_bounded() -> None:
    for name, found in CONTAINERS.items():
        assert found["security_opt"] == ["no-new-privileges:true"], name
        assert found["cap_drop"] == ["ALL"], name
        assert int(found["logging"]["options"]["max-file"]) * int(found["logging"]["options"]["max-size"][:-1]) <= 30
        assert default(str(found.get("read_only", "false"))).lower() == str(name not in {"db", "kafka", "lgtm"}).lower()


# The image


def test_one_container_builds_the_image_and_nobody_asks_a_registry_for_it() -> None:
    ours = {name: found for name, found in CONTAINERS.items() if found["image"] == "quickbite"}
    jobs = [job.name for job in services.jobs(1, 2, Path("/secrets"))]
    assert ours.keys() == {*SERVICES, *jobs, "secrets", "renewal", "rotate", "console", "storefront", "tools"}
    assert [name for name, found in CONTAINERS.items() if "build" in found] == ["migrate"]
    assert {found["pull_policy"] for found in ours.values()} == {"never"}
    for name in SERVICES:  # so `up` of one service builds it
        assert "migrate" in CONTAINERS[name]["depends_on"]


@pytest.mark.parametrize("name", [*SERVICES, "console", "storefront"])
def test_changed_code_is_copied_to_where_the_container_has_it(name: str) -> None:
    rules = CONTAINERS[name]["develop"]["watch"]
    assert {rule["path"] for rule in rules} == {"shared", name} | (set() if name == "console" else {"contracts"})
    assert {rule["action"] for rule in rules} == {"sync+restart"}
    assert [rule["target"] for rule in rules] == [f"/app/{rule['path']}" for rule in rules]
    assert {rule["path"] for rule in rules} <= copied()


def recipes(stack: str) -> dict[str, str]:
    text = (ROOT / "Makefile").read_text().replace("\\\n", "")
    return dict(re.findall(rf"^([a-z-]+)-{stack} = (.*)$", text, re.MULTILINE))


def test_both_stacks_have_all_commands_and_those_of_docker_need_no_python_here() -> None:
    assert recipes("local").keys() == recipes("compose").keys()
    needs = re.compile(r"(?<!command -v )\$\((PYTHON|RUN|LOCAL|BOOTSTRAP)\)")
    only_if_there = r"\$\(if \s*\$\(shell command -v \$\(PYTHON\)\),[^,)]*\([^)]*\)[^)]*\)"
    made = {name: re.sub(only_if_there, "", text) for name, text in recipes("compose").items()}
    assert [name for name, text in made.items() if needs.search(text)] == []


def test_every_secret_of_docker_has_its_command(tmp_path: Path) -> None:
    docker, log = tmp_path / "docker", tmp_path / "log"
    docker.write_text(f'#!/bin/sh\necho "$*" >>{log}\n')
    docker.chmod(0o755)
    (tmp_path / "sleep").symlink_to("/bin/true")
    secrets = {*services.SECRETS, "loopback/secret", "gateway/certificate", "signing-key", "auth/admin_password"}
    seen = dict.fromkeys(secrets, "")
    for name in secrets:
        log.write_text("")
        command = ["make", "-s", "-C", str(ROOT), "rotate", "STACK=compose", f"NAME={name}"]
        environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        subprocess.run(command, env=environment, check=True, capture_output=True)  # noqa: S603
        seen[name] = log.read_text()
    databases = {name for name in secrets if name.endswith(("database_password", "postgres_password"))}
    users = {name for name in secrets if name.endswith("kafka_password")}
    run = "compose run --rm --no-deps -T rotate"
    for name in databases:
        assert seen[name] == f"{run} python -m migrations rotate {name}\n"
    for name in users:
        assert f"renew /secrets {name}; " in seen[name]
        assert seen[name].endswith("compose restart kafka\n")
    assert [word for word in ("overlap", "HUP", "settle") if word in seen["loopback/secret"]] == [
        "overlap",
        "HUP",
        "settle",
    ]
    assert "/tmp/certificate.pem" in seen["gateway/certificate"]  # noqa: S108 - in the container
    assert seen["signing-key"] == "compose exec auth python -m auth rotate-keys\n"
    assert seen["auth/admin_password"] == "compose exec --env ADMIN_PASSWORD auth python -m auth set-admin-password\n"
    assert set(config_of_migrations.ROLES) == databases


def test_a_command_in_a_container_finds_all_services(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in CONTAINERS["tools"]["environment"].items():
        monkeypatch.setenv(variable, default(value or ""))
    settings = Settings()
    assert [settings.address(name) for name in SERVICES] == [f"http://{name}:{port}" for name, port in SERVICES.items()]
    assert settings.address("gateway") == f"http://gateway:{environment('gateway')['LISTEN']}"
    assert settings.place("kafka") == environment("orders")["KAFKA_BOOTSTRAP_SERVERS"]


# The console

SETTINGS = ("CONSOLE_ALERTS_FILE", "CONSOLE_ALERT_WEBHOOK_URL", "CONSOLE_FORWARD_OTLP_ENDPOINT", "CONSOLE_LOG_LEVEL")
"""The variables that the console reads and the stack does not set."""


def test_the_console_has_the_settings_of_the_embedded_stack() -> None:
    embedded = Console(ROOT, 8086, places(SERVICES, Path("x"), Path("x"), Path("x"))).program()
    found: dict[str, str] = CONTAINERS["console"]["environment"]
    assert [*CONTAINERS["console"]["command"][1:]] == [*embedded.command[1:]]
    assert embedded.environment.keys() - found.keys() == {
        *("PYTHONUNBUFFERED", "CONSOLE_LOG_FOLDER"),  # The image sets the first. Docker keeps the logs.
        "CONSOLE_SUPERVISOR_SOCKET",  # Here Docker starts a killed process again.
        "SECRETS_FOLDER",  # In Docker, the password is a variable.
    }
    assert found["CONSOLE_PORT"] == found["PORT"] == embedded.environment["CONSOLE_PORT"]
    taken = {variable for variable, value in found.items() if value is None} | {"CONSOLE_FORWARD_OTLP_ENDPOINT"}
    assert taken == set(embedded.settings) == set(SETTINGS)
    assert found["CONSOLE_ADMIN_PASSWORD"] == environment("auth")["ADMIN_PASSWORD"]
    assert default(found["CONSOLE_ADMIN_PASSWORD"]) == Settings().admin_password
    assert found["CONSOLE_AUTH_URL"] == f"http://auth:{SERVICES['auth']}"
    assert found["CONSOLE_SERVICES"] == ",".join(f"{name}=http://{name}:{port}" for name, port in SERVICES.items())


def test_the_console_depends_on_nothing_and_nothing_on_the_console() -> None:
    assert CONTAINERS["console"]["depends_on"] == []
    assert not [name for name, found in CONTAINERS.items() if "console" in found.get("depends_on", [])]
    template = nginx.TEMPLATE.read_text()
    assert "${CONSOLE_UPSTREAM}" not in "".join(re.findall(r"upstream .*", template))  # resolved when nginx starts


def test_the_console_may_write_only_its_data() -> None:
    console = CONTAINERS["console"]
    assert (default(console["read_only"]), console["tmpfs"]) == ("true", ["/tmp"])  # noqa: S108 - in the container
    assert console["volumes"] == [f"console_data:{console['environment']['CONSOLE_DATA_FOLDER']}"]
    assert "install -d -o 10001 -g 10001 /data /secrets " in DOCKERFILE
    assert "USER 10001:10001" in DOCKERFILE


# The storefront


def test_the_storefront_has_the_settings_of_the_embedded_stack() -> None:
    embedded = services.storefront(8087, SERVICES, 9092, Path("/secrets"), Path("x")).program()
    found: dict[str, str] = CONTAINERS["storefront"]["environment"]
    assert [*CONTAINERS["storefront"]["command"][1:]] == [*embedded.command[1:]]
    assert embedded.environment.keys() - found.keys() == {
        "PYTHONUNBUFFERED",  # The image sets it.
        "STOREFRONT_SUPERVISOR_SOCKET",  # Here Docker stops and starts processes.
    }
    assert found["STOREFRONT_PORT"] == found["PORT"] == embedded.environment["STOREFRONT_PORT"]
    for name in services.STOREFRONT_ASKS:
        assert found[f"STOREFRONT_{name.upper()}_URL"] == f"http://{name}:{SERVICES[name]}"


def test_the_storefront_depends_on_no_service_and_nothing_on_the_storefront() -> None:
    assert CONTAINERS["storefront"]["depends_on"].keys() == {"kafka"}
    assert not [name for name, found in CONTAINERS.items() if "storefront" in found.get("depends_on", [])]


def test_both_stacks_have_visitors() -> None:
    (auth,) = services.services({"auth": 1}, postgres=1, kafka=2, auth=1, secrets=Path("/secrets"))
    assert environment("auth")["VISITORS"] == auth.program().environment["VISITORS"] == "true"


# The profile `observability`


def document(name: str) -> Any:
    return yaml.safe_load((ROOT / "deploy" / "lgtm" / name).read_text())


def test_an_image_for_observability_has_a_version_and_runs_only_on_request() -> None:
    assert re.fullmatch(r"grafana/otel-lgtm:\d+\.\d+\.\d+", default(LGTM["image"]))
    assert LGTM["profiles"] == ["observability"]
    forward = CONTAINERS["console"]["environment"]["CONSOLE_FORWARD_OTLP_ENDPOINT"]
    assert forward == "${CONSOLE_FORWARD_OTLP_ENDPOINT:-${COMPOSE_PROFILES:+http://lgtm:4318}}"


def mounted() -> dict[str, str]:
    """The files and folders of this repository in the container, by their path there."""
    pairs = (volume.removesuffix(":ro").split(":") for volume in LGTM["volumes"] if volume.startswith("./"))
    return {inside: outside for outside, inside in pairs}


def test_all_mounted_files_of_observability_exist_and_are_read_only() -> None:
    assert [name for name in mounted().values() if not (ROOT / name).exists()] == []
    assert {volume[-3:] for volume in LGTM["volumes"] if volume.startswith((".", "/"))} == {":ro"}


def test_prometheus_scrapes_every_service_and_the_console_and_reads_the_rules() -> None:
    prometheus = document("prometheus.yaml")
    assert set(prometheus["rule_files"]) <= mounted().keys()
    (job,) = prometheus["scrape_configs"]
    found = {config["labels"]["service"]: config["targets"] for config in job["static_configs"]}
    assert found == {name: [f"{name}:{port}"] for name, port in (SERVICES | {"console": Ports().console}).items()}


def test_grafana_finds_the_dashboards_and_what_they_read() -> None:
    (provider,) = document("dashboards.yaml")["providers"]
    assert provider["options"]["path"] in mounted()
    assert {source["uid"] for source in document("datasources.yaml")["datasources"]} == {"prometheus", "tempo", "loki"}
    for source in document("datasources.yaml")["datasources"]:
        assert source["type"] == source["uid"]


def test_the_collector_reads_the_logs_of_exactly_these_containers() -> None:
    collector = document("collector.yaml")
    assert LGTM["environment"]["OTELCOL_EXTRA_ARGS"].removeprefix("--config=file:") in mounted()
    reader = collector["receivers"]["file_log/containers"]
    assert "file_log/containers" in collector["service"]["pipelines"]["logs"]["receivers"]
    assert "/var/lib/docker/containers:/var/lib/docker/containers:ro" in LGTM["volumes"]
    labels = CONTAINERS["orders"]["logging"]["options"]["labels"].split(",")
    assert [label for label in labels if f'attrs["{label}"]' in str(reader["operators"])] == labels
    assert f'!= "{yaml.safe_load(COMPOSE)["name"]}"' in str(reader["operators"])


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
    assert allowed == copied() | {"alembic.ini", "requirements/run.txt", "docs/asyncapi.json", "docs/events"}
