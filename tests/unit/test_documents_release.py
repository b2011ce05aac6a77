"""The notes and the version of a release."""

import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from documents import release
from documents.folder import PROJECT

CHANGES = """# Changes

## Unreleased

- A new thing.

## 0.2.0 - 2026-12-24

### Added

- A second thing.

## 0.1.0 - 2026-11-29

- A first thing.
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "CHANGELOG.md").write_text(CHANGES)
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.2.0"\n')
    return tmp_path


def git(folder: Path, *arguments: str) -> None:
    who = [
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@example.org",
        "-c",
        "commit.gpgsign=false",
        "-c",
        "tag.gpgsign=false",
    ]
    subprocess.run(["git", "-C", str(folder), *who, *arguments], check=True, capture_output=True)  # noqa: S603, S607


def commit(folder: Path) -> None:
    git(folder, "commit", "--allow-empty", "--message", "x")


def test_the_notes_are_the_section_of_the_version_and_its_image(project: Path) -> None:
    assert release.problems(project, "v0.2.0") == []
    assert release.text(project, "v0.2.0") == "### Added\n\n- A second thing.\n"
    assert release.text(project, "0.2.0", "shop@sha256:ab").endswith(
        "- A second thing.\n\n### Image\n\n`shop@sha256:ab`\n"
    )


@pytest.mark.parametrize(
    ("tag", "sentences"),
    [
        ("v0.1.0", ["pyproject.toml has the version 0.2.0, and not 0.1.0."]),
        (
            "v0.3.0",
            ["pyproject.toml has the version 0.2.0, and not 0.3.0.", "CHANGELOG.md has no section ## 0.3.0."],
        ),
        ("main", ["'main' is not a version such as 0.2.0."]),
        ("v0.2.0; id", ["'v0.2.0; id' is not a version such as 0.2.0."]),
    ],
)
def test_a_tag_that_does_not_match_the_project_is_no_release(project: Path, tag: str, sentences: list[str]) -> None:
    assert release.problems(project, tag) == sentences


def test_the_version_comes_from_the_last_tag(project: Path) -> None:
    git(project, "init", "--initial-branch=main")
    commit(project)
    assert release.described(project).startswith("0.0.0-g")
    git(project, "tag", "v0.2.0")
    git(project, "tag", "another")
    assert release.described(project) == "0.2.0"
    commit(project)
    assert release.described(project).startswith("0.2.0-1-g")


def test_the_version_of_this_project_has_notes() -> None:
    own = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert release.problems(PROJECT, own) == []


DIGEST = "sha256:" + 64 * "a"


def test_a_deploy_uses_the_overlay_with_the_image_by_digest(project: Path) -> None:
    (project / release.OVERLAYS / "staging").mkdir(parents=True)
    made = release.kustomization(project, project / ".local" / "deploy", "staging", f"registry.example/shop@{DIGEST}")
    assert yaml.safe_load(made) == {
        "resources": ["../../deploy/kubernetes/overlays/staging"],
        "images": [{"name": "quickbite", "newName": "registry.example/shop", "digest": DIGEST}],
    }


@pytest.mark.parametrize(
    ("name", "image", "sentence"),
    [
        ("absent", f"shop@{DIGEST}", "There is no deploy/kubernetes/overlays/absent"),
        ("", f"shop@{DIGEST}", "There is no deploy/kubernetes/overlays/"),
        ("staging", "shop:latest", "'shop:latest' is not an image by digest"),
        ("staging", "", "'' is not an image by digest"),
    ],
)
def test_a_deploy_without_overlay_or_digest_is_refused(project: Path, name: str, image: str, sentence: str) -> None:
    (project / release.OVERLAYS / "staging").mkdir(parents=True)
    with pytest.raises(ValueError, match=sentence):
        release.kustomization(project, project, name, image)


def test_the_outputs_of_a_pushed_image_are_its_digest_and_its_name(tmp_path: Path) -> None:
    (tmp_path / "image.json").write_text(f'{{"containerimage.digest": "{DIGEST}", "image.name": "shop:1"}}')
    done = CliRunner().invoke(release.app, ["outputs", str(tmp_path / "image.json"), "shop"])
    assert done.output == f"digest={DIGEST}\nimage=shop@{DIGEST}\n"
