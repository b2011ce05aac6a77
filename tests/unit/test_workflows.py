"""The workflows of CI do nothing that `make` cannot do, with the least rights, and with actions that cannot change."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from documents.folder import PROJECT

FOLDER = PROJECT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yaml"))
TARGETS = set(re.findall(r"^([a-z][a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
PROGRAMS = {"make", "git", "gh", "curl", "cosign", "install"}
"""What a step may run. All of them are on GitHub's machines, or an earlier step installs them."""
LOGIC = re.compile(r"[;|&`\n]|\$\(|\b(if|for|while)\b")
PINNED = re.compile(r"[\w./-]+@[0-9a-f]{40}")


def jobs(workflow: str) -> dict[str, dict[str, Any]]:
    """The jobs of a workflow, which is given as text."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(workflow)["jobs"]
    return found


def steps(workflow: str, key: str) -> list[str]:
    """The values of a key, such as `run`, in all jobs and steps."""
    found = [one[key] for job in jobs(workflow).values() for one in [job, *job.get("steps", [])] if key in one]
    return [str(value).strip() for value in found]


def complaints(workflow: str, targets: set[str]) -> list[str]:
    """What is wrong in a workflow, given as text."""
    found = [f"{command}: no plain command" for command in steps(workflow, "run") if not is_plain(command)]
    made = [command for command in steps(workflow, "run") if command.startswith("make ")]
    found += [f"{command}: no such target" for command in made if not targets_of(command) <= targets]
    used = [action for action in steps(workflow, "uses") if not action.startswith("./")]
    found += [f"{action}: no commit" for action in used if not PINNED.fullmatch(action)]
    for name, job in jobs(workflow).items():
        found += [] if isinstance(job.get("permissions"), dict) else [f"{name}: no permissions"]
        found += [] if "timeout-minutes" in job or "uses" in job else [f"{name}: no time limit"]
    if yaml.safe_load(workflow).get("permissions") != {}:
        found.append("the workflow gives permissions to all jobs")
    return found


def is_plain(command: str) -> bool:
    """True for one program that is allowed, without conditions, pipes or expressions of the workflow."""
    return command.split(maxsplit=1)[0] in PROGRAMS and "${{" not in command and not LOGIC.search(unquoted(command))


def unquoted(command: str) -> str:
    return re.sub("'[^']*'", "", command)


def targets_of(command: str) -> set[str]:
    words = shlex.split(unquoted(command).split(">", 1)[0])[1:]
    return {word for word in words if "=" not in word and not word.startswith("-")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_workflow_uses_make_and_pinned_actions_with_few_rights(file: Path) -> None:
    assert complaints(file.read_text(), TARGETS) == []


def test_every_local_workflow_that_is_called_exists() -> None:
    called = [action for file in FILES for action in steps(file.read_text(), "uses") if action.startswith("./")]
    assert called
    assert [path for path in called if not (PROJECT / path).exists()] == []


def test_every_workflow_is_described() -> None:
    page = (PROJECT / "docs" / "releases.md").read_text()
    assert set(re.findall(r"^\| `([a-z]+)` \| (?:each|a tag|called)", page, re.MULTILINE)) == {
        file.stem for file in FILES
    }


def test_each_action_has_one_commit_and_the_name_of_its_release() -> None:
    lines = [line.split("uses: ")[1] for file in FILES for line in file.read_text().splitlines() if "uses: " in line]
    commits = {tuple(line.split("@", 1)) for line in lines if "@" in line}
    assert len(commits) == len({action for action, _ in commits})
    assert [line for _, line in commits if not re.fullmatch(r"[0-9a-f]{40} # v\d+\.\d+\.\d+", line)] == []


GOOD = """
permissions: {}
jobs:
  one:
    timeout-minutes: 5
    permissions: {contents: read}
    steps:
      - uses: actions/checkout@0123456789012345678901234567890123456789 # v1.0.0
      - run: make check
"""


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("make check", "make cheque", "make cheque: no such target"),
        ("make check", "make check; true", "make check; true: no plain command"),
        ("make check", "make check ARGS=${{ github.head_ref }}", "no plain command"),
        ("make check", "pytest tests", "pytest tests: no plain command"),
        ("0123456789012345678901234567890123456789", "v1", "actions/checkout@v1: no commit"),
        ("permissions: {contents: read}", "env: {}", "one: no permissions"),
        ("timeout-minutes: 5", "env: {}", "one: no time limit"),
        ("permissions: {}\n", "", "the workflow gives permissions to all jobs"),
    ],
)
def test_each_fault_of_a_workflow_is_found(old: str, new: str, complaint: str) -> None:
    assert complaints(GOOD, {"check"}) == []
    assert complaint in " ".join(complaints(GOOD.replace(old, new, 1), {"check"}))
