"""`python -m migrations up` brings every schema up to date; `--seed` adds the example catalogue and its stock."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from alembic import command
from alembic.config import Config

from migrations import config
from migrations import seed as seeds

SECTIONS = ("admin", "orders", "inventory", "payments", "provider", "auth", "users", "products")
INI = Path(__file__).parent.parent / "alembic.ini"

app = typer.Typer(add_completion=False, help="Bring the database's schemas up, or take them down.")


@app.command()
def up(*, seed: Annotated[bool, typer.Option(help="Add the example catalogue and its stock.")] = False) -> None:
    """Upgrade every section to its newest revision."""
    for section in SECTIONS:
        command.upgrade(Config(INI, ini_section=section), "head")
    if seed:
        asyncio.run(seeds.run(config.Settings().admin_database_url))


@app.command()
def down() -> None:
    """Downgrade every section to nothing. All data is lost."""
    for section in reversed(SECTIONS):
        command.downgrade(Config(INI, ini_section=section), "base")


if __name__ == "__main__":
    app()
