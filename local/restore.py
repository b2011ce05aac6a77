"""Puts a backup of Postgres in the place of the stack's database, while Kafka keeps its records.

`migrations/restored.py` says what must stay true.
"""

import logging
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from contracts.access import WRITES
from local import backup, services
from local.backup import Backup
from local.problem import Problem
from local.stack import Stack

logger = logging.getLogger(__name__)

BEHIND = timedelta(hours=1)
"""So late may a consumer have been at the moment of the backup."""
_PREPARE_SECONDS = 900.0


def restore(stack: Stack, folder: Path, *, behind: timedelta = BEHIND) -> Path:
    """Replace the database by the backup in `folder`. Returns the file with the events that are lost.

    The old database is kept beside the new one. Raises `Problem`.
    """
    made = Backup.of(folder)
    stack.stop([*WRITES, stack.postgres.name])
    logger.info("the database of before is kept in %s", stack.postgres.set_aside())
    stack.up([stack.postgres.name])
    backup.load(made, stack.database_url())
    stack.up(["migrate", "topics"])
    lost = folder.resolve() / f"lost-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.jsonl"
    _prepare(stack, made.began_at - behind, lost, f"restored from {folder.name}")
    stack.up(list(WRITES))
    return lost


def _prepare(stack: Stack, since: datetime, lost: Path, reason: str) -> None:
    """Run `python -m migrations restored`."""
    command = [sys.executable, "-m", "migrations", "restored", since.isoformat(), str(lost), "--reason", reason]
    environment = {**os.environ, **stack.environment("operations")}
    done = subprocess.run(
        command, cwd=services.PROJECT, env=environment, check=False, timeout=_PREPARE_SECONDS, stdin=subprocess.DEVNULL
    )
    if done.returncode:
        raise Problem("The services were not started: repeat `make restore` when the cause is mended.")
