"""The toolkit works without the rest: another project can copy `shared/`, rename it and leave `web/` out."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.conftest import ROOT

UNUSED = ("aiohttp", "alembic", "jwt", "uvloop", "_pytest", "pytest")
IMPORT_ALL = """
import importlib, pkgutil, sys
for name in ("delivery", "postgres", "process"):
    package = importlib.import_module(f"toolkit.{name}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
print(*sorted(sys.modules))
"""


def test_delivery_needs_no_aiohttp_no_service_and_not_the_name_shared(tmp_path: Path) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    for installed in Path(sysconfig.get_path("purelib")).iterdir():
        if not installed.name.startswith(UNUSED) and installed.suffix != ".pth":
            (packages / installed.name).symlink_to(installed)
    ignored = shutil.ignore_patterns("web", "service.py", "__pycache__")
    shutil.copytree(ROOT / "shared", packages / "toolkit", ignore=ignored)
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.append({str(packages)!r}){IMPORT_ALL}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)  # noqa: S603
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert {"toolkit.delivery.relay", "toolkit.delivery.schema", "toolkit.delivery.kafka.publisher"} <= loaded
    assert not loaded & {"aiohttp", "shared", "contracts", "orders", "inventory", "payments", "auth", "users"}
