"""Kafka's jars, exactly those of jgo.lock.toml: a file with another SHA-256 never reaches the class path."""

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
    """Put every locked jar into `folder`, downloading those that the Maven cache lacks.

    Takes the files by their exact coordinates: no POM is read, so no mediation can choose another version.
    """
    folder.mkdir(parents=True, exist_ok=True)
    truststore.inject_into_ssl()  # whom this machine trusts, a mirror of its own included
    maven = _maven()
    with ThreadPoolExecutor(max_workers=8) as pool:
        for done in [pool.submit(_fetch_one, maven, locked, folder) for locked in _locked()]:
            done.result()


def names() -> list[str]:
    """List the jars' file names in the lock's order, which is the class path's."""
    return [f"{locked.artifactId}-{locked.version}.jar" for locked in _locked()]


def checksums() -> list[str]:
    """List what the jars are, in the same order."""
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
            f"Cannot download {artifact.filename}: is Maven Central reachable? A mirror goes into ~/.config/jgo.conf."
        )
        raise Problem(message) from error
    if hashlib.sha256(source.read_bytes()).hexdigest() != locked.sha256:
        source.unlink()  # An interrupted download, most often: the next attempt starts afresh.
        raise Problem(f"{source} was not the file that {LOCK.name} names, and is deleted: try again.")
    shutil.copyfile(source, folder / source.name)
