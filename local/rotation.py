"""New secrets for a running stack, while it serves.

What must stay true: no request fails. Services read the file of a password at each new connection. Kafka reads its
users only when it starts, so it starts again: meanwhile events wait in the outboxes, and requests are served.
"""

import logging
import os
import subprocess
from collections.abc import Collection

from local import services
from local.files import locked
from local.problem import Problem
from local.process import Program
from local.services import python
from local.stack import Stack
from shared.process import secret

logger = logging.getLogger(__name__)

SIGNING_KEY = "signing-key"
CERTIFICATE = "gateway/certificate"
ADMIN = services.ADMIN_PASSWORDS[0]
_SECONDS = 120


def names(stack: Stack) -> list[str]:
    """The secrets that are made here: files below `secrets`, the key that signs tokens, the gateway's certificate."""
    files = {path.relative_to(stack.secrets).as_posix() for path in stack.secrets.glob("*/*_password")}
    return [*sorted(files - set(services.ADMIN_PASSWORDS)), SIGNING_KEY, CERTIFICATE]


def rotate(stack: Stack, chosen: Collection[str], admin_password: str = "") -> None:
    """Replace these secrets. A person chooses `admin_password`; all others are made here.

    Raises `Problem` if one is unknown; then nothing was replaced.
    """
    if unknown := set(chosen).difference((*names(stack), ADMIN)):
        raise Problem(f"Unknown: {', '.join(sorted(unknown))}. There are: all, {ADMIN}, {', '.join(names(stack))}")
    if ADMIN in chosen and admin_password in ("", stack.secret(ADMIN)):
        raise Problem(f"ADMIN_PASSWORD=... make rotate NAME={ADMIN}: say the new password")
    with locked(stack.root / "lock"):
        if databases := [name for name in chosen if name.endswith(("database_password", "postgres_password"))]:
            environment = stack.environment("migrate")
            _run(python("rotate", ["migrations", "rotate", *databases], environment))
        if users := [name for name in chosen if name.endswith("/kafka_password")]:
            for name in users:
                secret.renew(stack.secrets / name)
            stack.kafka.prepare()
            stack.supervisor.start_program("kafka")
            stack.wait_ready("kafka")
        auth = stack.program("auth")
        if SIGNING_KEY in chosen:
            _run(Program("rotate", [*auth.command, "rotate-keys"], auth.environment, auth.folder))
        if CERTIFICATE in chosen:
            stack.gateway.renew_certificate()
        if ADMIN in chosen:
            environment = {**auth.environment, "ADMIN_PASSWORD": admin_password}
            _run(Program("rotate", [*auth.command, "set-admin-password"], environment, auth.folder))
            stack.set_admin_password(admin_password)


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
