"""Finds free TCP ports by binding them, because an orphan that answers on a port looks like our own server."""

import http.client
import secrets
import socket

from local.problem import Problem

LOOPBACK = "127.0.0.1"
EVERYWHERE = "0.0.0.0"  # noqa: S104 - for the gateway, the only public entry
# Below the ephemeral ports of Linux and macOS: no outgoing connection can take a port between our check and our bind.
FIRST, LAST = 20_000, 32_000


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """True if this user can listen there."""
    return obstacle(port, host) is None


def obstacle(port: int, host: str) -> str | None:
    """The reason why this user cannot listen there, with the placeholder `{setting}`, or None."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            return "can be used only by root: set {setting} to a port above 1023"
        except OSError:
            return "is taken: stop the program that listens there, or set {setting} to another port"
    return None


def is_answering(port: int) -> bool:
    """True if something on loopback accepts connections on this port."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


def is_ok(port: int, path: str) -> bool:
    """True if GET `path` on loopback answers 200."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def complaints(name: str, host: str, wanted: tuple[int, ...]) -> list[str]:
    """A sentence for each of the ports where this user cannot listen."""
    found = {port: obstacle(port, host) for port in wanted}
    setting = f"{name.upper()}_PORT"
    return [f"Port {port}, which {name} needs, {why.format(setting=setting)}." for port, why in found.items() if why]


def free_block(count: int) -> int:
    """Find `count` free ports in a row and return the first. Raises `Problem` after 100 tries."""
    for _ in range(100):
        first = FIRST + secrets.randbelow(LAST - FIRST - count)
        if all(is_free(first + offset) for offset in range(count)):
            return first
    raise Problem(f"No {count} free ports in a row between {FIRST} and {LAST}")
