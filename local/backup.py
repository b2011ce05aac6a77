"""A backup of the database in a folder, made and loaded with Postgres' own programs. It has secrets: keep it closed.

What must stay true: a folder without the suffix `.unfinished` is a complete backup, of one moment for all schemas.
Roles belong to the cluster and not to the database, so they are a file of their own, without passwords.
"""

import json
import os
import re
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from local.files import complete_folder
from local.postgres import BIN, PACKAGE
from local.problem import Problem, disk_problem

DATABASE, ROLES, FACTS = "quickbite.dump", "roles.sql", "backup.json"
_OF_THE_SUPERUSER = re.compile(r"^(CREATE|ALTER) ROLE postgres\b.*\n", re.MULTILINE)


@dataclass(frozen=True)
class Backup:
    """A backup in `folder`. It has every commit before `began_at` (UTC), and may have later ones."""

    folder: Path
    began_at: datetime

    @classmethod
    def of(cls, folder: Path) -> "Backup":
        """The backup in a folder. Raises `Problem` if there is none, or an unfinished one."""
        try:
            facts = json.loads((folder / FACTS).read_text())
        except FileNotFoundError:
            raise Problem(f"There is no complete backup in {folder}.") from None
        return cls(folder, datetime.fromisoformat(facts["began_at"]))


def make(url: str, folder: Path) -> Backup:
    """Write a backup of the database at `url` into a new folder, while its services run. Raises `Problem`.

    The server may be older than these programs, not newer.
    """
    if folder.exists():
        raise Problem(f"{folder} exists already.")
    made = Backup(folder, datetime.now(UTC))
    with complete_folder(folder) as fresh:
        fresh.chmod(0o700)
        _run("pg_dump", url, "--format=custom", f"--file={fresh / DATABASE}")
        roles = ["--roles-only", "--no-role-passwords", f"--file={fresh / ROLES}"]
        _run("pg_dumpall", url, *roles)
        (fresh / FACTS).write_text(json.dumps({"began_at": made.began_at.isoformat()}))
    return made


def load(made: Backup, url: str) -> None:
    """Load a backup into the empty database at `url`, all of it or nothing. Raises `Problem`.

    Roles that the cluster lacks are created; none gets a password.
    """
    roles = _OF_THE_SUPERUSER.sub("", (made.folder / ROLES).read_text())
    _run("psql", url, "--quiet", "--no-psqlrc", script=roles)  # roles may exist; a missing one stops the next program
    choices = ["--single-transaction", "--exit-on-error", str(made.folder / DATABASE)]
    _run("pg_restore", url, *choices)


def _run(program: str, url: str, *arguments: str, script: str = "") -> None:
    """Run a program. The password is no argument, because all users of the machine can see these."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    name, _, password = user.partition(":")
    bare = urlunsplit(parts._replace(netloc=f"{name}@{host}"))
    done = subprocess.run(
        [PACKAGE / BIN / program, f"--dbname={bare}", *arguments],
        input=script.encode(),
        env={**os.environ, "PGPASSWORD": unquote(password)},
        check=False,
        capture_output=True,
    )
    if done.returncode:
        output = done.stderr.decode(errors="replace").strip()
        raise Problem(f"{program} failed: {disk_problem(output, Path.cwd()) or output[-2000:]}")
