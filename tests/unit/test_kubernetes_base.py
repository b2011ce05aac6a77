"""What is written by hand in `deploy/kubernetes/base/` has the settings of the other stacks."""

import os
import re
import subprocess
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml

from documents.kubernetes import network, workloads
from documents.kubernetes.parts import SERVICES, Process, all_processes, processes
from local import config, distribution, nginx
from migrations import config as migrations
from shared.process import configuration
from tests.unit.test_compose import CONTAINERS, ROOT, default, environment, made_values, template_names

BASE = ROOT / "deploy" / "kubernetes" / "base"


def container(file: str) -> Mapping[str, Any]:
    """The first container of the last manifest of a file."""
    *_, last = yaml.safe_load_all((BASE / file).read_text())
    found: Mapping[str, Any] = last["spec"]["template"]["spec"]["containers"][0]
    return found


def variables(file: str) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container(file)["env"]}


GATEWAY = variables("gateway.yaml")


def test_the_gateway_sets_all_variables_of_the_template_and_has_the_limits_of_compose() -> None:
    made = made_values("")
    assert template_names("nginx.conf") - made.keys() <= GATEWAY.keys()
    for name in config.Settings().limits:
        assert GATEWAY[name] == default(environment("gateway")[name])
    for name, port in SERVICES.items():
        assert GATEWAY[f"{name.upper()}_UPSTREAM"] == f"{name}:{port}"


def test_the_gateway_gets_its_files_from_the_image_also_when_it_starts_again(tmp_path: Path) -> None:
    *_, last = yaml.safe_load_all((BASE / "gateway.yaml").read_text())
    (copying,) = last["spec"]["template"]["spec"]["initContainers"]
    script = copying["command"][2].replace("/files", str(tmp_path))
    for _ in range(2):
        subprocess.run(["sh", "-ec", script], cwd=ROOT, check=True)  # noqa: S603, S607
    assert (tmp_path / "templates" / "nginx.conf.template").read_text() == nginx.TEMPLATE.read_text()
    assert os.access(tmp_path / "values.envsh", os.X_OK)
    assert (tmp_path / "docs" / "index.html").exists()
    assert (tmp_path / "events" / "asyncapi.json").exists()
    assert (tmp_path / "events" / "events" / "index.html").exists()
    copied = re.findall(r"^cp (?:-rT )?(\S+) ", script, re.MULTILINE)
    allowed = {line[1:].split("/")[0] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"}
    assert {path.split("/")[0] for path in copied} <= allowed


@pytest.mark.parametrize("name", ["console", "storefront"])
def test_pages_have_the_settings_of_compose(name: str) -> None:
    own, composed = variables(f"{name}.yaml"), environment(name)
    assert container(f"{name}.yaml")["command"] == CONTAINERS[name]["command"]
    changed = {"SECRETS_FOLDER", "KAFKA_BOOTSTRAP_SERVERS", "KAFKA_CA_FILE", "KAFKA_SASL_MECHANISM"}
    for variable in own.keys() - changed:
        assert own[variable] == default(composed[variable]), variable


def test_the_migrations_find_every_password_and_bring_up_what_compose_brings_up() -> None:
    (job,) = yaml.safe_load_all((BASE / "migrate.yaml").read_text())
    pod = job["spec"]["template"]["spec"]
    paths = {item["path"] for source in pod["volumes"][0]["projected"]["sources"] for item in source["secret"]["items"]}
    assert paths == {*migrations.FILES.values(), migrations.SUPERUSER}
    assert pod["containers"][0]["command"] == ["python", "-m", "migrations", "up"]
    local = yaml.safe_load((BASE.parent / "overlays" / "local" / "kustomization.yaml").read_text())
    assert "value: --seed" in str(local["patches"])
    assert CONTAINERS["migrate"]["command"] == ["python", "-m", "migrations", "up", "--seed"]


def test_postgres_and_kafka_have_the_settings_that_the_services_need() -> None:
    (cluster,) = yaml.safe_load_all((BASE / "postgres.yaml").read_text())
    composed = dict(argument.removeprefix("-c").split("=") for argument in CONTAINERS["db"]["command"][1:])
    parameters = cluster["spec"]["postgresql"]["parameters"]
    assert {name for name in parameters if composed[name] != parameters[name]} == {"max_connections"}
    initial = cluster["spec"]["bootstrap"]["initdb"]
    assert (initial["localeProvider"], initial["builtinLocale"], initial["encoding"]) == ("builtin", "C.UTF-8", "UTF8")
    (kafka,) = yaml.safe_load_all((BASE / "kafka.yaml").read_text())
    own = {name: str(value) for name, value in kafka["spec"]["kafka"]["config"].items()}
    assert own == {name: distribution.PROPERTIES[name] for name in own}
    assert own.keys() >= {"auto.create.topics.enable", "group.min.session.timeout.ms"}


def test_every_part_of_every_service_runs_once() -> None:
    for service in SERVICES:
        parts = [part for process in processes(service) for part in process.only]
        assert len(parts) == len(set(parts))
        assert {"api", "relay"} <= set(parts) <= set(configuration.PARTS)
        for part, module in (("consumer", "consumer"), ("worker", "worker")):
            assert (part in parts) == (ROOT / service / f"{module}.py").exists()


@pytest.mark.parametrize("process", all_processes(), ids=lambda process: process.name)
def test_a_process_starts_with_its_settings(process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings of the manifest are settings of the service, and it accepts them. It has every password it needs."""
    settings = import_module(f"{process.service}.config").Settings
    own = next(one for one in workloads.manifests()[process.service] if one["metadata"]["name"] == process.name)
    pod = own["spec"]["template"]["spec"]
    found = pod["containers"][0]
    for one in found["env"]:
        assert one["name"].lower() in settings.model_fields
        monkeypatch.setenv(one["name"], one["value"])
    monkeypatch.delenv("KAFKA_CA_FILE", raising=False)  # a file of the pod
    for source in pod["volumes"][0]["projected"]["sources"]:
        for item in source["secret"]["items"]:
            (tmp_path / item["path"]).write_text("a password from a file")
    monkeypatch.setenv("SECRETS_FOLDER", str(tmp_path))
    for line in (BASE / "settings.env").read_text().splitlines():
        monkeypatch.setenv(*line.split("=", 1))
    read = configuration.read(settings, process.service, found["command"][3:])
    assert tuple(read.only) == process.only
    assert (read.port, read.pool_size, read.host) == (process.port, process.pool_size, "0.0.0.0")  # noqa: S104
    assert read.database.endswith(f"&{urlencode({'password_file': str(tmp_path / 'database_password')})}")
    assert bool(read.kafka_password.get_secret_value()) == (not process.is_api)


def test_a_name_of_an_arrow_is_a_group_of_pods() -> None:
    known = network.PODS.keys() | network.ENGINES.keys() | network.OUTSIDE.keys()
    assert {name for one in network.arrows() for name in one[:2]} == known
    assert len(set(network.arrows())) == len(network.arrows())
