"""Errors for the person at the terminal: lines that say what to do, never a traceback."""

import errno
import os
import shutil
from pathlib import Path

# Python and the programs use the C library's names of errors. Python has its own for a lack of temporary files.
FULL = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT), "No usable temporary directory")
CLOSED = (os.strerror(errno.EROFS), os.strerror(errno.EACCES))


class Problem(Exception):
    """The stack cannot do what was requested. The text is the whole message."""


def disk_problem(text: str, folder: Path) -> "str | None":
    """Return a line if an error or the output of a program reports that a file could not be written, else None.

    `folder` is where QuickBite writes. It also uses the folder of temporary files, and caches below the home folder.
    """
    for line in text.splitlines():
        if any(name in line for name in FULL):
            places = (str(folder), os.environ.get("TMPDIR") or "/tmp", os.environ.get("HOME") or "/")  # noqa: S108
            fullest = min(filter(os.path.isdir, places), key=lambda place: shutil.disk_usage(place).free)
            return f"{line.strip()}: free some space on the disk of {fullest}, and run the command again."
        if any(name in line for name in CLOSED):
            return f"{line.strip()}: allow this user to write in {folder}, or move QuickBite to another folder."
    return None
