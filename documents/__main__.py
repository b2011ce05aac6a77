"""`python -m documents` writes the generated documents; with `--check` it writes nothing and fails if one differs."""

from typing import Annotated

import typer

from documents import folder

app = typer.Typer(add_completion=False)


@app.command()
def main(*, check: Annotated[bool, typer.Option(help="Write nothing; fail if a document differs.")] = False) -> None:
    """Write the files in docs/ and deploy/ that follow from the code."""
    if not check:
        folder.write(folder.PROJECT)
    elif found := folder.drift(folder.PROJECT):
        typer.echo("\n".join([*found, "Run `make docs`."]), err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
