"""`python -m documents.release`: what the Makefile needs to make a release and to bring it to a cluster.

What must stay true: a tag, pyproject.toml and CHANGELOG.md name the same version, or there is no release.
"""

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Annotated

import typer
import yaml

from documents.folder import PROJECT

app = typer.Typer(add_completion=False)
OVERLAYS = "deploy/kubernetes/overlays"
_IMAGE = re.compile(r"([^@\s]+)@(sha256:[0-9a-f]{64})")
_VERSION = re.compile(r"v?(\d+\.\d+\.\d+)")


@app.command()
def version() -> None:
    """Print the version: 0.2.0 at the tag v0.2.0, 0.2.0-3-gabc1234 three commits after it."""
    typer.echo(described(PROJECT))


@app.command()
def notes(
    tag: Annotated[str, typer.Argument(help="A version or its tag: 0.2.0 or v0.2.0.")],
    image: Annotated[str, typer.Option(help="The image of the release, by digest.")] = "",
) -> None:
    """Print the notes of a release. Exit with 1 if the project is not at this version."""
    if found := problems(PROJECT, tag):
        typer.echo("\n".join(found), err=True)
        raise typer.Exit(1)
    typer.echo(text(PROJECT, tag, image), nl=False)


@app.command()
def outputs(metadata: Path, image: str) -> None:
    """Print the digest of a pushed image, and the image by digest, as lines for CI."""
    digest = json.loads(metadata.read_text())["containerimage.digest"]
    typer.echo(f"digest={digest}\nimage={image}@{digest}")


@app.command()
def overlay(folder: Path, name: str, image: str) -> None:
    """Write a Kustomize folder: the overlay `name` with the image of a release."""
    try:
        made = kustomization(PROJECT, folder.resolve(), name, image)
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kustomization.yaml").write_text(made)


def kustomization(project: Path, folder: Path, name: str, image: str) -> str:
    """The overlay `name`, with an image by digest: a tag may move. Raises `ValueError`."""
    chosen, found = project / OVERLAYS / name, _IMAGE.fullmatch(image)
    if not name or not chosen.is_dir():
        raise ValueError(f"There is no {OVERLAYS}/{name}: make deploy OVERLAY=local IMAGE=…")
    if not found:
        raise ValueError(
            f"{image!r} is not an image by digest, such as registry.example/quickbite@sha256:… (64 digits)."
        )
    resource = os.path.relpath(chosen, folder)
    return yaml.safe_dump(
        {"resources": [resource], "images": [{"name": "quickbite", "newName": found[1], "digest": found[2]}]}
    )


def described(project: Path) -> str:
    """The version by the last tag, or 0.0.0 before the first tag."""
    command = ["git", "-C", str(project), "describe", "--tags", "--long", "--match", "v[0-9]*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        command = ["git", "-C", str(project), "describe", "--always", "--abbrev=7"]
        commit = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
        return f"0.0.0-g{commit}"
    tag, count, commit = done.stdout.strip().rsplit("-", 2)
    return plain(tag) + (f"-{count}-{commit}" if count != "0" else "")


def problems(project: Path, tag: str) -> list[str]:
    """Why there can be no release with this tag now: a sentence for each reason."""
    if not _VERSION.fullmatch(tag):
        return [f"{tag!r} is not a version such as 0.2.0."]
    wanted, found = plain(tag), []
    own = tomllib.loads((project / "pyproject.toml").read_text())["project"]["version"]
    if own != wanted:
        found.append(f"pyproject.toml has the version {own}, and not {wanted}.")
    if wanted not in sections(project):
        found.append(f"CHANGELOG.md has no section ## {wanted}.")
    return found


def text(project: Path, tag: str, image: str = "") -> str:
    """The section of a version in CHANGELOG.md, and its image."""
    body = sections(project)[plain(tag)]
    return f"{body}\n" + (f"\n### Image\n\n`{image}`\n" if image else "")


def sections(project: Path) -> dict[str, str]:
    """The sections of CHANGELOG.md, by version."""
    parts = re.split(r"^## +(\S+).*\n", (project / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def plain(tag: str) -> str:
    """The version of a tag."""
    return tag.removeprefix("v")


if __name__ == "__main__":
    app()
