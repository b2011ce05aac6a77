"""`python -m migrations up` brings every schema up to date; `--seed` adds the example catalogue and its stock.

`python -m migrations wait orders` returns when the schema of orders is up to date, for a pod that starts a service.
"""

import asyncio
import logging
import sys
from collections.abc import Coroutine
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import asyncpg
import typer
from alembic import command
from alembic.config import Config

from migrations import config, growth, passwords, restored, waiting
from migrations import seed as seeds
from shared.delivery import kafka
from shared.delivery.kafka import Brokers
from shared.process import configuration
from shared.process.configuration import KafkaSettings

SECTIONS = ("admin", "orders", "inventory", "payments", "provider", "auth", "users", "products")
INI = Path(__file__).parent.parent / "alembic.ini"

T = TypeVar("T")

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
def lanes(service: Annotated[str, typer.Argument(help="Such as orders.")], count: int) -> None:
    """Give the outbox of a service more lanes, while it runs. See docs/operations.md first."""
    _run(growth.add_lanes(config.Settings().admin_url, service, count))
    typer.echo(f"The outbox of {service} has {count} lanes.")


@app.command()
def partitions(count: int) -> None:
    """Give all topics more partitions, while the services run. Kafka is found as by `python -m contracts.topics`."""
    brokers = Brokers.of(configuration.load(KafkaSettings))
    changed = _run(growth.add_partitions(config.Settings().admin_url, brokers, count))
    typer.echo(f"{len(changed)} topics have {count} partitions now.")


@app.command(name="restored")
def after_a_restore(
    since: Annotated[str, typer.Argument(help="A time before the backup, with its zone: 2026-01-31T12:00:00Z.")],
    lost: Annotated[Path, typer.Argument(help="The file for the events that are lost.")],
    *,
    reason: Annotated[str, typer.Option(help="For the list of repairs.")] = "restored",
) -> None:
    """Prepare a restored database before its services start. See docs/operations.md first."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    moment = datetime.fromisoformat(since)
    if moment.tzinfo is None:
        sys.exit(f"{since} has no zone: 2026-01-31T12:00:00Z has one")
    brokers = Brokers.of(configuration.load(KafkaSettings))
    _run(restored.prepare(config.Settings().admin_url, brokers, moment, lost, reason))


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command to its end. If Postgres or Kafka refuses it, exit with a line: a consumer may run, or a writer."""
    try:
        return asyncio.run(work)
    except (OSError, asyncpg.PostgresError, kafka.Unavailable, growth.NotDrained) as error:
        sys.exit(f"not done: {error}")


@app.command()
def down() -> None:
    """Downgrade every section to nothing. All data is lost."""
    for section in reversed(SECTIONS):
        command.downgrade(Config(INI, ini_section=section), "base")


if __name__ == "__main__":
    app()
