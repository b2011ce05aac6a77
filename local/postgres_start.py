"""Becomes Postgres, whose log collector then writes its log to this process's standard error.

    python -IS local/postgres_start.py nobody /bin/postgres arguments    # an empty user: the own one

The collector opens only files, so its file is a link to a file descriptor. It cannot be the standard error itself:
Postgres replaces that with a pipe to the collector, and a second collector would write to the pipe from which it reads.
Only the owner of a pipe may open it, so `user` becomes the owner. The process keeps its id.
"""

import os
import pwd
import sys

LOG = 9


def main(user: str, *command: str) -> None:
    """Give up root's rights if there is a user, and become `command`. The environment stays the same."""
    os.dup2(sys.stderr.fileno(), LOG)
    if user:
        entry = pwd.getpwnam(user)
        os.fchown(LOG, entry.pw_uid, entry.pw_gid)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
