"""Which TCP ports are free, asked by binding them: an orphan that answers there looks just like our own server."""

import http.client
import secrets
import socket

from local.problem import Problem

LOOPBACK = "127.0.0.1"
# Below Linux's and macOS's ephemeral ports: an outgoing connection cannot take one between our asking and our binding.
FIRST, LAST = 20_000, 32_000


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether this user can listen there."""
    return obstacle(port, host) is None


def obstacle(port: int, host: str) -> str | None:
    """Say why this user cannot listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            return "is for root alone: set {setting} to one above 1023"
        except OSError:
            return "is taken: stop what listens there, or set {setting} to another"
    return None


def is_answering(port: int) -> bool:
    """Whether something on loopback accepts a connection there."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def is_ok(port: int, path: str) -> bool:
    """Whether GET `path` on loopback answers 200."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def refuse_taken(name: str, host: str, wanted: tuple[int, ...]) -> None:
    """Raise `Problem` when this user cannot listen on one of them."""
    for port in wanted:
        if found := obstacle(port, host):
            raise Problem(f"Port {port}, which {name} needs, {found.format(setting=f'{name.upper()}_PORT')}.")


def free_block(count: int) -> int:
    """Find so many free ports in a row, and return the first."""
    for _ in range(100):
        first = FIRST + secrets.randbelow(LAST - FIRST - count)
        if all(is_free(first + offset) for offset in range(count)):
            return first
    raise Problem(f"No {count} free ports in a row between {FIRST} and {LAST}")
