"""The Aspire dashboard, one more viewer of traces: `SEE=aspire make up`. It comes from npm, unchanged.

What must stay true: an archive with another checksum is never unpacked, and nothing is written outside `cache` and
`root`.
"""

import base64
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from local import ports
from local.files import complete_folder, locked
from local.problem import Problem
from local.process import Program

logger = logging.getLogger(__name__)

PACKAGE, VERSION = "@microsoft/aspire-cli-linux-x64", "13.5.4"
SHA512 = "8PWeRHM1+QwQB2wxDnfPsimi3EW01r04b4DjX0jIDE78SlfJabwVfYArW/48vDzYvPzKSRye6DIPVAsCFoXjBA=="
DOWNLOAD_SECONDS, UNPACK_SECONDS = 600, 120
# Without ICU, .NET starts only with both: the dashboard asks for cultures by their names.
CULTURE = {
    "DOTNET_SYSTEM_GLOBALIZATION_INVARIANT": "1",
    "DOTNET_SYSTEM_GLOBALIZATION_PREDEFINED_CULTURES_ONLY": "false",
}
QUIET = {"ASPIRE_CLI_TELEMETRY_OPTOUT": "1", "DOTNET_CLI_TELEMETRY_OPTOUT": "1"}


class Aspire:
    """A dashboard on `port`, open to everybody on loopback. It takes OTLP over gRPC and HTTP on the next two ports."""

    name = "aspire"
    host = ports.LOOPBACK

    def __init__(self, root: Path, port: int, *, cache: Path) -> None:
        self.root, self.ports = root.resolve(), (port, port + 1, port + 2)
        self._files = cache.resolve() / f"aspire-{VERSION}"

    @property
    def endpoint(self) -> str:
        """Where it takes OTLP over HTTP."""
        return f"http://{self.host}:{self.ports[2]}"

    def prepare(self) -> None:
        """Download it if that was never done (127 MB). Raises `Problem`."""
        self.root.mkdir(parents=True, exist_ok=True)
        with locked(self._files.with_name(f"{self._files.name}.lock")):
            if not self._files.exists():
                _install(self._files)

    def program(self) -> Program:
        page, grpc, http = (f"http://{self.host}:{port}" for port in self.ports)
        settings = {
            "ASPNETCORE_URLS": page,
            "ASPIRE_DASHBOARD_OTLP_ENDPOINT_URL": grpc,
            "ASPIRE_DASHBOARD_OTLP_HTTP_ENDPOINT_URL": http,
            "ASPIRE_DASHBOARD_UNSECURED_ALLOW_ANONYMOUS": "true",
            "ASPIRE_DASHBOARD_API_ENABLED": "true",
        }
        command = [str(self._files / "managed" / "aspire-managed"), "dashboard"]
        command += [f"--{name}={value}" for name, value in settings.items()]
        return Program(self.name, command, {**CULTURE, **QUIET, "HOME": str(self.root)}, self.root)

    def is_ready(self) -> bool:
        return ports.is_ok(self.ports[0], "/api/telemetry/traces")


def _install(target: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise Problem("SEE=aspire needs npm, which downloads the dashboard. Install Node.js, or start without SEE.")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Problem("SEE=aspire runs only on Linux with an x86-64 processor. Start without SEE.")
    logger.info("Downloading the Aspire dashboard (only once) ...")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        archive = _download(npm, folder)
        with tarfile.open(archive) as packed:
            packed.extract("package/bin/aspire", folder, filter="data")
        setup = [str(folder / "package" / "bin" / "aspire"), "setup", "--non-interactive", "--install-path", name]
        _run(setup, folder, UNPACK_SECONDS, HOME=name)
        (managed,) = folder.glob("versions/*/managed")
        with complete_folder(target) as fresh:
            managed.rename(fresh / "managed")


def _download(npm: str, folder: Path) -> Path:
    """Download the archive with npm and its settings, such as a mirror. Raises `Problem` if it is another file."""
    _run([npm, "pack", f"{PACKAGE}@{VERSION}", "--pack-destination", str(folder)], folder, DOWNLOAD_SECONDS)
    (archive,) = folder.glob("*.tgz")
    if base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() != SHA512:
        raise Problem(f"npm downloaded {archive.name} with another SHA-512 than the one in local/aspire.py.")
    return archive


def _run(command: list[str], folder: Path, seconds: int, **changes: str) -> None:
    environment = {**os.environ, **CULTURE, **QUIET, **changes}
    try:
        subprocess.run(command, cwd=folder, env=environment, check=True, timeout=seconds, capture_output=True)
    except subprocess.CalledProcessError as error:
        end = error.stderr.decode(errors="replace").strip()[-500:]
        raise Problem(f"{Path(command[0]).name} could not install the Aspire dashboard: {end}") from error
    except subprocess.TimeoutExpired as error:
        raise Problem(f"{Path(command[0]).name} did not install the Aspire dashboard in {seconds} s.") from error
