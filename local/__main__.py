"""The command line of the embedded stack: `make up` and the other targets call it if no Docker engine answers."""

import logging
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from contracts.access import READER
from local import backup, config, entry, env_file, nginx, restore, rotation, services, stack
from local.aspire import Aspire
from local.console import Viewers
from local.problem import Problem, disk_problem
from shared.process import readable

RESTART = "Services keep the code and the settings with which they started; to change that: make restart"

app = typer.Typer(add_completion=False, no_args_is_help=True, help="The whole stack on this machine, without Docker.")


@app.command()
def up(
    only: Annotated[str, typer.Option(help="Programs and jobs to start, separated by commas. Default: all.")] = "",
) -> None:
    """Start everything that is not running, and return when it is ready."""
    chosen = _wanted_stack()
    if config.load().admin_password == entry.DEFAULT_PASSWORD:
        typer.echo(f"Warning: admin's password is `{entry.DEFAULT_PASSWORD}`. ADMIN_PASSWORD=... make up sets another.")
    started = chosen.up([name for name in only.split(",") if name])
    typer.echo(f"Started {', '.join(started)}." if started else f"Already running. {RESTART}")
    if not only:
        typer.echo(_welcome(chosen.ports))
        if "aspire" in chosen.names:
            typer.echo(f"The Aspire dashboard: http://127.0.0.1:{config.load().aspire_port}")


@app.command()
def restart(
    names: Annotated[list[str] | None, typer.Argument(help="Services. Default: all.")] = None,
) -> None:
    """Start services again, one after the other, with the code that is in this folder now and the settings of now."""
    typer.echo(f"Restarted {', '.join(_running_stack().restart(names or []))}.")


@app.command()
def stop(names: Annotated[list[str], typer.Argument(help="Programs.")]) -> None:
    """Stop programs, until `start` or `up` starts them again."""
    _running_stack().stop(names)
    typer.echo(f"Stopped {', '.join(names)}.")


@app.command()
def start(names: Annotated[list[str], typer.Argument(help="Programs.")]) -> None:
    """Start programs that were stopped, and return when they are ready."""
    _running_stack().start(names)
    typer.echo(f"Started {', '.join(names)}.")


@app.command()
def down() -> None:
    """Stop everything and keep the data."""
    _stack().down()


@app.command()
def reset() -> None:
    """Stop everything and delete the data."""
    _stack().reset()


@app.command(name="backup")
def make_backup(
    folder: Annotated[Path | None, typer.Argument(help="A new folder. Default: one in .local/backups.")] = None,
) -> None:
    """Write a backup of the database while the services run. It has secrets: keep the folder closed."""
    found = _running_stack()
    named = stack.HOME / "backups" / f"{found.name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    made = backup.make(found.database_url(), folder or named)
    typer.echo(f"Backup of {made.began_at:%Y-%m-%dT%H:%M:%SZ}: make restore FROM={made.folder}")


@app.command(name="restore")
def restore_backup(
    folder: Annotated[Path, typer.Argument(help="The folder of a backup.")],
    *,
    behind_hours: Annotated[float, typer.Option(help="How late consumers may have been when it was made.")] = 1.0,
) -> None:
    """Replace the database by a backup. Later changes are lost. A file beside the backup lists their events."""
    lost = restore.restore(_running_stack(), folder, behind=timedelta(hours=behind_hours))
    typer.echo(f"Restored. The events of what is lost: {lost}")


@app.command()
def ps() -> None:
    """List all programs and their states."""
    for name, process in _running_stack().supervisor.processes().items():
        age = f"{time.time() - process['start']:.0f} s" if process["pid"] else ""
        typer.echo(f"{name:12} {process['statename']:10} {process['pid'] or '':>8} {age:>10}")


@app.command()
def logs(
    name: Annotated[str, typer.Argument(help="The name of one program. Default: all.")] = "",
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f")] = False,
) -> None:
    """Print the last 50 lines of each log: for people on a terminal, else as they are."""
    folder = _stack().supervisor.log("any").parent
    files = sorted(folder.glob(f"{name or '*'}.log"))
    if not files:
        raise Problem(f"There is no log of {name or 'any program'} in {folder}.")
    tail = ["tail", "-n", "50", *(["-F"] if follow else []), *map(str, files)]
    if config.load().format == "json" or not sys.stdout.isatty():
        _become([*tail, "-q"])
    with subprocess.Popen([*tail, "-v"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None  # noqa: S101 - it is a pipe
        readable.show(child.stdout.fileno(), sys.stdout, colour=True)


@app.command()
def events() -> None:
    """Print every event from the beginning, with Kafka's own console consumer."""
    shown = ("timestamp", "partition", "offset", "key", "headers")
    choices = [argument for name in shown for argument in ("--formatter-property", f"print.{name}=true")]
    reader = "org.apache.kafka.tools.consumer.ConsoleConsumer"
    wanted = ("--include", r".*\.events", "--from-beginning", *choices)
    _become(_running_stack().kafka.tool(reader, *wanted, user=READER))


@app.command(context_settings={"ignore_unknown_options": True})
def quickbite(arguments: list[str]) -> None:
    """Run a command of `python -m quickbite` on this stack."""
    found = _running_stack()
    places = {f"{name.upper()}_PORT": str(port) for name, port in asdict(found.ports).items()}
    _become([sys.executable, "-m", "quickbite", *arguments], places | found.kafka_client(READER))


@app.command()
def rotate_keys() -> None:
    """Publish a new key, with which auth will soon sign tokens."""
    program = _running_stack().program("auth")
    _become([*program.command, "rotate-keys"], program.environment)


@app.command()
def rotate(names: Annotated[list[str], typer.Argument(help="Such as orders/database_password; or all.")]) -> None:
    """Replace secrets of the running stack with new ones. No request fails."""
    found = _running_stack()
    chosen = rotation.names(found) if names == ["all"] else names
    rotation.rotate(found, chosen, config.load().admin_password)
    typer.echo(f"Rotated {', '.join(chosen)}.")


@app.command()
def psql() -> None:
    """Open psql in the database as orders_user."""
    found = _running_stack()
    _become(*found.postgres.shell("orders_user", found.secret("orders/database_password"), "orders"))


@app.command()
def env(name: Annotated[str, typer.Argument(help="A service or a job, such as orders or migrate.")]) -> None:
    """Print the settings with which a service runs beside the stack: eval "$(python -m local env orders)"."""
    for variable, value in _stack().environment(name).items():
        typer.echo(f"export {variable}={shlex.quote(value)}")


def _stack() -> stack.Stack:
    """The running stack with its ports. If it is not running, the stack that the environment describes."""
    settings = config.load()
    saved = stack.saved_ports(_root(settings))
    return _make(settings, saved or _chosen_ports(settings))


def _running_stack() -> stack.Stack:
    found = _stack()
    if not found.supervisor.is_running():
        raise Problem(f"The stack {found.name} is not running: start it with `make up`.")
    return found


def _wanted_stack() -> stack.Stack:
    """The stack that the environment describes. A running gateway keeps the port that it found free when it started."""
    settings = config.load()
    saved = stack.saved_ports(_root(settings))
    return _make(settings, _chosen_ports(settings, saved))


def _make(settings: config.Settings, ports: stack.Ports) -> stack.Stack:
    return stack.Stack(
        settings.stack_name,
        _root(settings),
        ports,
        kafka=stack.KafkaOptions(settings.kafka_heap, settings.further_kafka_users),
        entry=settings.entry,
        admin_password=settings.admin_password,
        viewers=_viewers(settings),
    )


def _viewers(settings: config.Settings) -> Viewers:
    if settings.see != "aspire":
        return Viewers()
    aspire = Aspire(_root(settings) / "aspire", settings.aspire_port, cache=stack.HOME / "cache")
    return Viewers({"CONSOLE_FORWARD_OTLP_ENDPOINT": aspire.endpoint}, (aspire,))


def _root(settings: config.Settings) -> Path:
    return stack.HOME / settings.stack_name


def _chosen_ports(settings: config.Settings, saved: stack.Ports | None = None) -> stack.Ports:
    return stack.Ports(
        orders=settings.orders_port,
        inventory=settings.inventory_port,
        payments=settings.payments_port,
        auth=settings.auth_port,
        users=settings.users_port,
        products=settings.products_port,
        console=settings.console_port,
        storefront=settings.storefront_port,
        gateway=settings.gateway_port or (saved.gateway if saved else nginx.default_port()),
        gateway_tls=settings.gateway_tls_port or (saved.gateway_tls if saved else nginx.default_tls_port()),
        postgres=settings.postgres_port,
        kafka=settings.kafka_port,
    )


def _welcome(ports: stack.Ports) -> str:
    orders = f"http://127.0.0.1:{ports.orders}"
    gateway = f"http://127.0.0.1:{ports.gateway}"
    order = '{"userId":"u1","sku":"burger","quantity":2}'
    is_default = config.load().admin_password == entry.DEFAULT_PASSWORD
    shown = entry.DEFAULT_PASSWORD if is_default else "the password in ADMIN_PASSWORD"
    return f"""
  shop     {gateway}/    (order something, and see each step)
  orders   {orders}/v1/orders
  gateway  {gateway}    (admin / {shown})
  with TLS https://localhost:{ports.gateway_tls}
  the API  {gateway}/docs
  console  {gateway}/console/    (log in as admin; if the gateway is down: http://127.0.0.1:{ports.console}/console/)

Place an order, then ask for its result:

  curl -s {orders}/v1/orders -H 'content-type: application/json' -d '{order}'
  curl -s '{orders}/v1/orders/1?wait=10'

Or watch three orders, event by event: make demo
"""


def _become(command: list[str], environment: Mapping[str, str] | None = None) -> None:
    sys.stdout.flush()
    os.execvpe(command[0], command, {**os.environ, **(environment or {})})


class Terminal(logging.Handler):
    """Prints each step of the stack as one line."""

    def emit(self, record: logging.LogRecord) -> None:
        typer.echo(record.getMessage())


def main() -> None:
    """Run a command, with the settings of `.env`.

    A `Problem`, a full disk or a closed folder becomes a line on stderr and exit status 1.
    """
    env_file.load(services.PROJECT / ".env")
    env_file.remember(stack.HOME / (os.environ.get("STACK_NAME") or "dev"))
    logging.getLogger("local").setLevel(logging.INFO)
    logging.getLogger("local").addHandler(Terminal())
    try:
        app()
    except Problem as problem:
        sys.exit(str(problem))
    except OSError as error:
        if found := disk_problem(str(error), services.PROJECT):
            sys.exit(found)
        raise


if __name__ == "__main__":
    main()
