"""New secrets for a running stack, while it serves.

What must stay true: no request fails. Services read the file of a password at each new connection. Kafka reads its
users only when it starts, so it starts again: meanwhile events wait in the outboxes, and requests are served.
"""

import logging
import os
import subprocess
from collections.abc import Collection

from local.files import locked
from local.problem import Problem
from local.process import Program
from local.services import python
from local.stack import Stack
from shared.process import secret

logger = logging.getLogger(__name__)

SIGNING_KEY = "signing-key"
_SECONDS = 120


def names(stack: Stack) -> list[str]:
    """The secrets that can be rotated, by their folder and file below `secrets`, and the key that signs tokens."""
    files = sorted(path.relative_to(stack.secrets).as_posix() for path in stack.secrets.glob("*/*_password"))
    return [*files, SIGNING_KEY]


def rotate(stack: Stack, chosen: Collection[str]) -> None:
    """Replace these secrets. Raises `Problem` if one is unknown; then nothing was replaced."""
    if unknown := set(chosen).difference(names(stack)):
        raise Problem(f"Unknown: {', '.join(sorted(unknown))}. There are: all, {', '.join(names(stack))}")
    with locked(stack.root / "lock"):
        if databases := [name for name in chosen if name.endswith(("/database_password", "postgres_password"))]:
            environment = stack.environment("migrate")
            _run(python("rotate", ["migrations", "rotate", *databases], environment))
        if users := [name for name in chosen if name.endswith("/kafka_password")]:
            for name in users:
                secret.renew(stack.secrets / name)
            stack.kafka.prepare()
            stack.supervisor.start_program("kafka")
            stack.wait_ready("kafka")
        if SIGNING_KEY in chosen:
            auth = stack.program("auth")
            _run(Program("rotate", [*auth.command, "rotate-keys"], auth.environment, auth.folder))


def _run(program: Program) -> None:
    environment = {**os.environ, **program.environment}
    done = subprocess.run(
        program.command,
        cwd=program.folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
    )
    if done.returncode:
        raise Problem(f"{' '.join(program.command[-2:])} failed: {done.stdout}{done.stderr}".strip())
    logger.info(done.stdout.strip())
