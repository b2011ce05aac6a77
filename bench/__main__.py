"""`python -m bench` runs all benchmarks, `python -m bench relay saga` only these two; each has its own servers."""

import importlib
from pathlib import Path
from typing import Annotated

import typer

from bench import report, servers

# benchmark: partitions of each topic. The shop runs with 4, like the local stack.
BENCHMARKS = {
    "create": 4,
    "http": 4,
    "gateway": 4,
    "relay": 12,
    "consumer": 12,
    "saga": 4,
    "secured": 4,
    "latency": 4,
    "poison": 4,
    "soak": 4,
    "overload": 4,
    "backlog": 4,
    "waiting": 4,
    "scale": 4,
    "delay": 4,
}


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Some of: {', '.join(BENCHMARKS)}. Default: all.")] = None,
    results: Annotated[Path | None, typer.Option(help="Write the figures into this file, as JSON.")] = None,
    partitions: Annotated[int, typer.Option(help="Partitions of each topic, if not the benchmark's own.")] = 0,
    version: Annotated[str, typer.Option(help="The version of the code, for this file.")] = "",
) -> None:
    """Run benchmarks one after the other. Nothing else should run on the machine."""
    unknown = set(names or ()) - BENCHMARKS.keys()
    if unknown:
        raise typer.BadParameter(f"unknown: {', '.join(unknown)}; known: {', '.join(BENCHMARKS)}")
    for name in names or BENCHMARKS:
        report.begin(name)
        with servers.running(partitions or BENCHMARKS[name]) as run:
            importlib.import_module(f"bench.{name}").main(run)
    if results:
        report.write(results, version)


if __name__ == "__main__":
    typer.run(main)
