"""`python -m quickbite parked list`, and so on. An error is one line on stderr, and the exit code is 1."""

import sys

import typer

from quickbite import demo, order, outbox, parked, text
from quickbite.client import Failed

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Look into a running QuickBite, and repair it. ADMIN_PASSWORD or QUICKBITE_TOKEN says who you are.",
)
app.add_typer(parked.app, name="parked")
app.add_typer(outbox.app, name="outbox")
app.add_typer(order.app, name="order")
app.command()(demo.demo)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except Failed as error:
        typer.echo(text.line(error), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
