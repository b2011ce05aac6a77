"""Shelters: folders below /var/tmp that replace a folder which is closed to other users or has too long a path.

If root starts the stack, a program may run as an unprivileged user, who must be able to reach its files.
"""

import os
import shutil
import stat
from pathlib import Path

from local.files import digest
from local.problem import Problem

OPEN_FOLDER = Path("/var/tmp")  # noqa: S108 - `claim` checks owner and type


def reachable(folder: Path, version: str = "") -> Path:
    """Return `folder` if its parents are open, else a folder below /var/tmp.

    With a `version` of the contents, the folder itself must be open too, and each version gets its own folder there.
    Without one, the folder is given to the user, who may close it to others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return (
        folder
        if is_open(folder if version else folder.parent)
        else OPEN_FOLDER / f"quickbite-{digest(folder, version)}" / folder.name
    )


def short(folder: Path, limit_bytes: int) -> Path:
    """Return `folder`, or a folder below /var/tmp if its path is too long for a socket in it."""
    return folder if len(os.fsencode(folder)) <= limit_bytes else OPEN_FOLDER / f"quickbite-{digest(folder)}" / "run"


def is_open(path: Path) -> bool:
    """True if every user can pass through `path` and all its parents."""
    return all(folder.stat().st_mode & stat.S_IXOTH for folder in (path, *path.parents))


def claim(folder: Path) -> None:
    """Create the parent of a sheltered `folder`. Raises `Problem` if another user created it first."""
    if not _is_sheltered(folder):
        return
    folder.parent.mkdir(exist_ok=True)
    found = folder.parent.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise Problem(f"{folder.parent} belongs to another user: delete it.")
    folder.parent.chmod(0o755)


def remove(folder: Path) -> None:
    """Delete `folder`, and its parent if that is a shelter."""
    shutil.rmtree(folder.parent if _is_sheltered(folder) else folder, ignore_errors=True)


def _is_sheltered(folder: Path) -> bool:
    return folder.parent.parent == OPEN_FOLDER and folder.parent.name.startswith("quickbite-")
