"""`make same-image` builds the image of this commit twice, from nothing, and compares all files of both.

Compared are names, kinds, modes, owners and contents, but not times: a folder that Docker makes gets the time of the
build. `docker buildx build --output type=image,rewrite-timestamp=true` sets these too.
"""

import hashlib
import subprocess
import sys
import tarfile
from collections.abc import Iterator

BY_DOCKER = ("dev/", "etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/mtab", ".dockerenv", "proc/", "sys/")
"""What the engine adds to each container."""


def built(tag: str) -> dict[str, str]:
    """Build without a cache. Returns a line for each file of the image."""
    subprocess.run(["make", "--silent", "image", f"TAG={tag}", "MORE=--no-cache --quiet"], check=True)
    container = subprocess.run(["docker", "create", tag], check=True, capture_output=True, text=True).stdout.strip()
    try:
        with subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as export:
            return dict(_files(export))
    finally:
        subprocess.run(["docker", "rm", container], check=True, capture_output=True)


def _files(export: "subprocess.Popen[bytes]") -> Iterator[tuple[str, str]]:
    with tarfile.open(fileobj=export.stdout, mode="r|") as archive:
        for one in archive:
            if one.name.startswith(BY_DOCKER):
                continue
            content = archive.extractfile(one) if one.isfile() else None
            digest = hashlib.sha256(content.read()).hexdigest() if content else one.linkname
            yield one.name, f"{one.type!r} {one.mode:o} {one.uid}:{one.gid} {digest}"


def differences(first: dict[str, str], second: dict[str, str]) -> list[str]:
    names = sorted(first.keys() | second.keys())
    return [name for name in names if first.get(name) != second.get(name)]


if __name__ == "__main__":
    one, two = built("quickbite-same:1"), built("quickbite-same:2")
    found = differences(one, two)
    print("\n".join([*found, f"{len(one)} files, {len(found)} differ"]))
    sys.exit(bool(found))
