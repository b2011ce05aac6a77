"""`python -m local.images` writes today's digest of every image in `deploy/images.env` behind its tag.

A tag may be another image tomorrow; a digest never is. Needs a network, and `crane` or `docker buildx`.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).resolve().parent.parent / "deploy" / "images.env"
_LINE = re.compile(r"^(?P<name>[A-Z_]+)=(?P<image>[^@\s]+)(?:@(?P<digest>sha256:[0-9a-f]{64}))?$")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def read(file: Path = FILE) -> dict[str, str]:
    """The images by the names of their variables, with their digests if the file has them."""
    found = [_LINE.match(line) for line in file.read_text().splitlines()]
    return {one["name"]: one[0].partition("=")[2] for one in found if one}


def renew(file: Path = FILE) -> list[str]:
    """Ask the registries for the digest of each tag, and write them. Returns the lines that changed."""
    before = file.read_text().splitlines()
    after = [_with_digest(line) for line in before]
    file.write_text("\n".join([*after, ""]))
    return [new for old, new in zip(before, after, strict=True) if old != new]


def _with_digest(line: str) -> str:
    found = _LINE.match(line)
    return f"{found['name']}={found['image']}@{digest(found['image'])}" if found else line


def digest(image: str) -> str:
    """The digest of a tag, or of its list of platforms. Exits with a line if the registry does not answer."""
    crane = shutil.which("crane")
    asking = (
        [crane, "digest"]
        if crane
        else ["docker", "buildx", "imagetools", "inspect", "--format", "{{json .Manifest.Digest}}"]
    )
    done = subprocess.run([*asking, image], capture_output=True, text=True, check=False)
    found = _DIGEST.search(done.stdout)
    if done.returncode or not found:
        sys.exit(f"no digest of {image}: {done.stderr.strip()}")
    return found[0]


if __name__ == "__main__":
    changed = renew()
    sys.stdout.write("\n".join(changed or ["all digests are those of today"]) + "\n")
