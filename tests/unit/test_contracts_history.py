"""Every committed version of every event is compared with the one before: a committed version counts as published."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from contracts.catalogue import EVENTS
from documents import events as documents
from documents import folder
from documents.compatibility import breaks

ROOT = folder.PROJECT
FOLDER = f"docs/{documents.SCHEMAS}"
SETTLED: dict[str, str] = {}  # an accepted break, as this test reports it, and why no reader failed
GIT = shutil.which("git") or ""
# In a hook, git sets variables for its own repository, and would use no other.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


class NoHistory(Exception):
    """Git is missing or does not know these files."""


def git(root: Path, *arguments: str) -> str:
    if not GIT:
        raise NoHistory("there is no git")
    command = [GIT, "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=ENVIRONMENT, check=False)  # noqa: S603
    if done.returncode:
        raise NoHistory(done.stderr.strip() or f"git {arguments[0]} failed")
    return done.stdout


def clone(root: Path) -> None:
    """Raise `NoHistory` if `root` is no clone, such as an unpacked archive inside another repository."""
    if Path(git(root, "rev-parse", "--show-toplevel").strip()).resolve() != root.resolve():
        raise NoHistory("this is not a clone")


def schemas(root: Path, revision: str) -> dict[str, Any]:
    """All schemas of a revision by event name; empty if the revision has none."""
    found = {}
    for line in git(root, "ls-tree", revision, f"{FOLDER}/").splitlines():
        blob, path = line.split()[2:]
        if path.endswith(documents.SUFFIX):
            found[Path(path).name.removesuffix(documents.SUFFIX)] = content(root, blob)
    return found


@cache
def content(root: Path, blob: str) -> Any:
    return json.loads(git(root, "cat-file", "blob", blob))


def changes(root: Path) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Every commit that changed a schema, with the schemas before and after it."""
    for line in git(root, "log", "--format=%h %p", "--", FOLDER).splitlines():
        commit, *parents = line.split()
        for parent in parents:
            yield commit, schemas(root, parent), schemas(root, commit)


def broken(root: Path) -> list[str]:
    return [
        f"{found}, in {commit}"
        for commit, old, new in changes(root)
        for found in breaks(old, new)
        if found not in SETTLED
    ]


@pytest.fixture
def root() -> Path:
    try:
        clone(ROOT)
        git(ROOT, "rev-parse", "--verify", "HEAD")
    except NoHistory as reason:
        pytest.skip(f"events are not compared with older versions: {reason}")
    return ROOT


def test_the_contracts_break_no_reader_of_the_last_commit(root: Path) -> None:
    now = {event.__name__: documents.schema(event) for event in EVENTS}
    found = [found for found in breaks(schemas(root, "HEAD"), now) if found not in SETTLED]
    assert not found, "only add fields; for another meaning, add another event type; see documents/compatibility.py"


def test_no_commit_broke_a_reader(root: Path) -> None:
    assert broken(root) == []
    if git(root, "rev-parse", "--is-shallow-repository").strip() == "true":
        pytest.skip("a shallow clone: versions before its first commit are not compared")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A new repository, in which a test can commit."""
    if not GIT:
        pytest.skip("there is no git")
    git(tmp_path, "init", "--quiet")
    (tmp_path / "README.md").write_text("A shop")
    commit(tmp_path)
    return tmp_path


def commit(root: Path, **events: dict[str, Any] | None) -> None:
    """Commit these schemas; None removes one."""
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    for name, schema in events.items():
        path = root / FOLDER / f"{name}{documents.SUFFIX}"
        path.unlink() if schema is None else path.write_text(json.dumps(schema))
    git(root, "add", "--all")
    who = ("-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false")
    git(root, *who, "commit", "--quiet", "--no-verify", "--message", "A change")


def fields(*names: str) -> dict[str, Any]:
    return {"type": "object", "properties": {name: {"type": "integer"} for name in names}}


def test_added_fields_and_events_pass(repository: Path) -> None:
    commit(repository, Paid=fields("a"))
    commit(repository, Paid=fields("a", "b"), Shipped=fields("a"))
    assert len(list(changes(repository))) == 2
    assert broken(repository) == []


def test_an_old_break_is_found_even_if_it_was_fixed(repository: Path) -> None:
    commit(repository, Paid=fields("a", "b"))
    commit(repository, Paid=fields("a"))
    commit(repository, Paid=fields("a", "b"))
    (repository / "README.md").write_text("Another shop")
    commit(repository)
    assert [line.split(", in ")[0] for line in broken(repository)] == ["Paid.b: the field is gone"]


def test_a_removed_or_renamed_event_is_found(repository: Path) -> None:
    commit(repository, Paid=fields("a"))
    commit(repository, Paid=None, Payed=fields("a"))
    assert [line.split(", in ")[0] for line in broken(repository)] == ["Paid: the event is gone"]


def test_documents_moved_from_another_folder_are_compared_from_then_on(repository: Path) -> None:
    (repository / "elsewhere").mkdir()
    (repository / "elsewhere" / f"Paid{documents.SUFFIX}").write_text(json.dumps(fields("a", "b")))
    commit(repository)
    (repository / FOLDER).rmdir()
    (repository / "elsewhere").rename(repository / FOLDER)
    commit(repository)
    assert broken(repository) == []
    commit(repository, Paid=fields("a"))
    assert len(broken(repository)) == 1


def test_a_shallow_clone_compares_the_commits_that_it_has(
    repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    commit(repository, Paid=fields("a", "b"))
    commit(repository, Paid=fields("a"))
    shallow = tmp_path_factory.mktemp("clones") / "shallow"
    git(repository, "clone", "--quiet", "--depth=1", repository.as_uri(), str(shallow))
    assert broken(shallow) == []
    assert broken(repository)


def test_an_archive_inside_another_repository_is_no_clone(repository: Path) -> None:
    with pytest.raises(NoHistory, match="not a clone"):
        clone(repository / "docs")


def test_an_archive_alone_is_no_clone(tmp_path: Path) -> None:
    with pytest.raises(NoHistory):
        clone(tmp_path)
