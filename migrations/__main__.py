"""`python -m migrations up` brings every schema up to date; `--seed` adds the example catalogue and its stock.

`python -m migrations wait orders` returns when the schema of orders is up to date, for a pod that starts a service.
"""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import asyncpg
import typer
from alembic import command
from alembic.config import Config

from migrations import config, passwords, waiting
from migrations import seed as seeds
from shared.process import configuration

SECTIONS = ("admin", "orders", "inventory", "payments", "provider", "auth", "users", "products")
INI = Path(__file__).parent.parent / "alembic.ini"

app = typer.Typer(add_completion=False, help="Bring the database's schemas up, or take them down.")


@app.command()
def up(*, seed: Annotated[bool, typer.Option(help="Add the example catalogue and its stock.")] = False) -> None:
    """Set the passwords of the roles, and upgrade every section to its newest revision."""
    settings = config.Settings()
    url = settings.admin_url
    verifiers = {section: passwords.verifier(password) for section, password in settings.passwords().items()}
    try:
        asyncio.run(passwords.replace_former(url))
    except asyncpg.InvalidPasswordError:
        sys.exit(f"the superuser has another password: set ADMIN_DATABASE_URL, or write it to {config.SUPERUSER}")
    for section in SECTIONS:
        command.upgrade(Config(INI, ini_section=section), "head")
        if section == "admin":
            asyncio.run(passwords.set_all(url, verifiers))
    if seed:
        asyncio.run(seeds.run(url))
    asyncio.run(waiting.announce(url, [section for section in SECTIONS if section != "admin"]))


@app.command()
def wait(sections: list[str]) -> None:
    """Return when the schemas of these sections are new enough for this code. DATABASE_URL says where they are."""
    if unknown := set(sections).difference(SECTIONS[1:]):
        sys.exit(f"no such section: {', '.join(sorted(unknown))}")
    settings = configuration.load(waiting.Settings)
    asyncio.run(waiting.wait(settings.database, waiting.scripts(str(INI), sections)))


@app.command()
def rotate(
    names: Annotated[
        list[str] | None, typer.Argument(help="Such as orders/database_password. Default: list them.")
    ] = None,
) -> None:
    """Give roles new passwords, and write them to their files in SECRETS_FOLDER. No process needs a restart."""
    if not names:
        typer.echo("\n".join(config.ROLES))
        return
    settings = config.Settings()
    if unknown := set(names) - config.ROLES.keys():
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(config.ROLES)}")
    for name in sorted(names, key=lambda name: name == config.SUPERUSER):  # the superuser's own comes last
        asyncio.run(passwords.rotate(settings.admin_url, config.ROLES[name], Path(settings.secrets_folder, name)))


@app.command()
def down() -> None:
    """Downgrade every section to nothing. All data is lost."""
    for section in reversed(SECTIONS):
        command.downgrade(Config(INI, ini_section=section), "base")


if __name__ == "__main__":
    app()
