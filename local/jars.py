"""Kafka's jars, exactly those of jgo.lock.toml: a file with another SHA-256 is never on the class path."""

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import requests
import truststore
from jgo.config import GlobalSettings
from jgo.constants import MAVEN_CENTRAL_URL
from jgo.env import LockFile
from jgo.maven import MavenContext

from local.problem import Problem

if TYPE_CHECKING:
    from jgo.env import LockedDependency

LOCK = Path(__file__).with_name("jgo.lock.toml")


def fetch(folder: Path) -> None:
    """Put every locked jar into `folder`. Downloads the jars that are not in the Maven cache. Raises `Problem`.

    It asks for each file by its exact coordinates. No POM is read, so Maven's mediation cannot choose another version.
    """
    folder.mkdir(parents=True, exist_ok=True)
    truststore.inject_into_ssl()  # trust the certificates that this machine trusts, also for a mirror of its own
    maven = _maven()
    with ThreadPoolExecutor(max_workers=8) as pool:
        for done in [pool.submit(_fetch_one, maven, locked, folder) for locked in _locked()]:
            done.result()


def names() -> list[str]:
    """The file names of the jars in the order of the lock file, which is the order of the class path."""
    return [f"{locked.artifactId}-{locked.version}.jar" for locked in _locked()]


def checksums() -> list[str]:
    """The SHA-256 of each jar, in the same order."""
    return [locked.sha256 or "" for locked in _locked()]


def _locked() -> list["LockedDependency"]:
    return LockFile.load(LOCK).dependencies


def _maven() -> MavenContext:
    settings = GlobalSettings.load()
    return MavenContext(
        repo_cache=settings.repo_cache,
        remote_repos={"central": MAVEN_CENTRAL_URL, **settings.repositories},
        timeout=60,
    )


def _fetch_one(maven: MavenContext, locked: "LockedDependency", folder: Path) -> None:
    artifact = maven.project(locked.groupId, locked.artifactId).at_version(locked.version).artifact()
    try:
        source = artifact.resolve()
    except (requests.RequestException, RuntimeError) as error:
        message = (
            f"Cannot download {artifact.filename}: is Maven Central reachable? ~/.config/jgo.conf can set a mirror."
        )
        raise Problem(message) from error
    if hashlib.sha256(source.read_bytes()).hexdigest() != locked.sha256:
        source.unlink()  # Usually an interrupted download: the next attempt downloads the file again.
        raise Problem(f"{source} did not have the SHA-256 in {LOCK.name}, and was deleted: try again.")
    shutil.copyfile(source, folder / source.name)
