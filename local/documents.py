"""`python -m local.documents` writes what the services' own code says of their HTTP: OpenAPI, and the problem types."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated

import orjson
import typer

from local.nginx import UPSTREAMS
from local.services import PROJECT
from shared.web import openapi, problems

FOLDER = PROJECT / "docs"


def documents() -> dict[Path, str]:
    """Give every document, by its path."""
    found = {FOLDER / "openapi" / f"{name}.json": _openapi(name) for name in UPSTREAMS}
    return found | {FOLDER / "problems.md": _problems()}


def outdated() -> list[Path]:
    """List the files that do not say what the code says."""
    return [path for path, text in documents().items() if not path.exists() or path.read_text() != text]


def _openapi(name: str) -> str:
    settings = {"auth": {"admin_password": "a placeholder"}}.get(name, {})
    app = import_module(f"{name}.app").create_app(import_module(f"{name}.config").Settings(**settings))
    return orjson.dumps(app[openapi.DOCUMENT], option=orjson.OPT_INDENT_2).decode() + "\n"


def _problems() -> str:
    rows = [f"| `{p.name}` | {p.status} | {p.means} | {p.advice} |" for p in problems.ALL]
    return "\n".join(
        [
            "# Problem types",
            "",
            "Every error is `application/problem+json` (RFC 9457). Its `type` is `/problems/<name>`, which can be read",
            "at the gateway and at every service; `detail` is a sentence for people. Written by `make docs` from",
            "`shared/problems.py`.",
            "",
            "| type | status | means | what to do |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main(*, check: Annotated[bool, typer.Option(help="Change nothing; fail if a file is outdated.")] = False) -> None:
    """Write the documents, or check them."""
    if check:
        if found := outdated():
            names = ", ".join(str(path.relative_to(PROJECT)) for path in found)
            sys.exit(f"{names}: not what the code says. Mend it with `make docs`.")
        return
    for path, text in documents().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


if __name__ == "__main__":
    typer.run(main)
