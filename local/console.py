"""The operator's console: `python -m console`, with its data below `root`, where `reset` deletes it.

What must stay true: no other program needs it. The stack runs also if it dies.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from local import ports, services
from local.process import Engine, Program


@dataclass(frozen=True)
class Viewers:
    """The storefront, the console with further settings, and other viewers, which start before them."""

    settings: Mapping[str, str] = field(default_factory=dict)
    others: tuple[Engine, ...] = ()


class Console:
    """A console on `port`, ready when GET /readyz answers 200.

    `stack` is where it finds the stack: the console's settings by the names of their variables.
    """

    name = "console"
    host = ports.LOOPBACK

    def __init__(self, root: Path, port: int, stack: Mapping[str, str]) -> None:
        self.root, self.ports = root.resolve(), (port,)
        own = {"CONSOLE_HOST": self.host, "CONSOLE_PORT": str(port), "CONSOLE_DATA_FOLDER": str(self.root)}
        self._environment = own | dict(stack)

    def prepare(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)

    def program(self) -> Program:
        return services.python(self.name, [self.name], self._environment, services.taken(self.name))

    def is_ready(self) -> bool:
        return ports.is_ok(self.ports[0], "/readyz")


def places(chosen: Mapping[str, int], logs: Path, supervisor: Path, secrets: Path) -> dict[str, str]:
    """The settings with which a console finds the services on the `chosen` ports, their logs, and supervisord's socket.

    It compares the books of the services as the administrator, whose password is a file below `secrets`.
    """
    urls = {name: f"http://{ports.LOOPBACK}:{port}" for name, port in chosen.items()}
    return {
        "CONSOLE_SERVICES": ",".join(f"{name}={url}" for name, url in urls.items()),
        "CONSOLE_AUTH_URL": urls["auth"],
        "CONSOLE_LOG_FOLDER": str(logs),
        "CONSOLE_SUPERVISOR_SOCKET": str(supervisor),
        "SECRETS_FOLDER": str(secrets / "console"),
    }
