"""`python -m bench` runs every benchmark, `python -m bench relay saga` some; each on servers of its own."""

import importlib
from typing import Annotated

import typer

from bench import servers

# name: partitions of a topic; the shop runs with 4, as the local stack does
BENCHMARKS = {"create": 4, "http": 4, "gateway": 4, "relay": 12, "consumer": 12, "saga": 4, "latency": 4}


def main(names: Annotated[list[str] | None, typer.Argument(help=f"Some of: {', '.join(BENCHMARKS)}.")] = None) -> None:
    """Run benchmarks one after the other; the machine should have nothing else to do."""
    unknown = set(names or ()) - BENCHMARKS.keys()
    if unknown:
        raise typer.BadParameter(f"there is no {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        with servers.running(BENCHMARKS[name]) as run:
            importlib.import_module(f"bench.{name}").main(run)


if __name__ == "__main__":
    typer.run(main)
