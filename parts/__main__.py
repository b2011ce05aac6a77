"""`python -m parts sbom` writes the list of all parts, `python -m parts audit` asks for their known weaknesses."""

from pathlib import Path
from typing import Annotated

import typer

from parts import audit, locks, sbom

app = typer.Typer(add_completion=False, no_args_is_help=True)
DEFAULT = locks.PROJECT / ".local" / "sbom.json"


@app.command(name="sbom")
def write(output: Annotated[Path, typer.Argument(help="The file to write.")] = DEFAULT) -> None:
    """Write a CycloneDX document (JSON) with every part of QuickBite that others made."""
    made = sbom.document()
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(sbom.as_json(made))
    typer.echo(f"{output}: {len(made.components)} components")


@app.command(name="audit")
def ask(
    osv_url: Annotated[str, typer.Option(help="Ask this service, which speaks the protocol of OSV.")] = "",
) -> None:
    """Ask an index for known weaknesses of the locked Python packages. Fails if there is one."""
    found = audit.audit(locks.files(), osv_url)
    typer.echo("\n".join(found.lines))
    raise typer.Exit(1 if found.weaknesses else 0)


if __name__ == "__main__":
    app()
