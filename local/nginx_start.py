"""Becomes nginx, without root's rights.

    python -IS local/nginx_start.py daemon 127.0.0.1:80,127.0.0.1:443 /bin/nginx arguments    # an empty user: our own

Only root may listen on low ports, and nginx gives up root's rights only in the children of a master. So this program
opens the sockets. nginx takes them from its variable NGINX, as if it replaced an older nginx. The process keeps its id.
"""

import os
import pwd
import resource
import socket
import sys
from pathlib import Path


def main(user: str, addresses: str, *command: str) -> None:
    """Replace this process by `command`. If there is a user, first open the sockets, and give up root's rights.

    The working directory must be the folder of nginx.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # two files a request
    for left in Path().glob("*.sock"):  # a killed nginx leaves them, and would not start again
        left.unlink()
    if user:
        os.environ["NGINX"] = "".join(f"{_listen(address)};" for address in addresses.split(","))
        entry = pwd.getpwnam(user)
        os.fchown(sys.stdout.fileno(), entry.pw_uid, entry.pw_gid)  # only the owner of a pipe may open it
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    os.execv(command[0], command)


def _listen(address: str) -> int:
    """A socket that listens on `host:port`, as a file descriptor for nginx."""
    host, _, port = address.rpartition(":")
    listener = socket.create_server((host, int(port)), backlog=4096)
    listener.setblocking(False)
    os.set_inheritable(listener.fileno(), True)
    return listener.detach()


if __name__ == "__main__":
    main(*sys.argv[1:])
