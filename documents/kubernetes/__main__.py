"""`python -m documents.kubernetes` checks every overlay; with `--server` it also asks the API server of KUBECONFIG.

Without `--server` it needs no cluster. With it, nothing is changed in the cluster: the requests are dry runs. The
operators' kinds must be known there, and the namespace `quickbite` must exist.
"""

import subprocess
import sys
from typing import Annotated

import typer

from documents.kubernetes import rendering, rules
from documents.kubernetes.cluster import Cluster

app = typer.Typer(add_completion=False)


@app.command()
def main(*, server: Annotated[bool, typer.Option(help="Ask the API server of KUBECONFIG, too.")] = False) -> None:
    """Check every overlay. Exits with 1 if one is wrong."""
    found = []
    for name in rendering.NAMES:
        manifests = rendering.manifests(rendering.OVERLAYS / name)
        wrong = rules.complaints(Cluster(manifests), production=name == "production")
        wrong += refused(name) if server else []
        typer.echo(f"{name}: {len(manifests)} manifests, {len(wrong)} complaints")
        found += [f"{name}: {one}" for one in wrong]
    typer.echo("\n".join(found), err=True)
    raise typer.Exit(1 if found else 0)


def refused(name: str) -> list[str]:
    """What the API server answers to a dry run, line by line, except for manifests that it accepts."""
    order = [rendering.kubectl(), "apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-"]
    rendered = rendering.text(rendering.OVERLAYS / name)
    done = subprocess.run(order, input=rendered, capture_output=True, text=True, check=False)  # noqa: S603 - kubectl
    accepted = done.stdout.count("(server dry run)")
    sys.stderr.write(f"{name}: the API server accepts {accepted}\n")
    return [line for line in done.stderr.splitlines() if line] or ([] if done.returncode == 0 else ["kubectl failed"])


if __name__ == "__main__":
    app()
