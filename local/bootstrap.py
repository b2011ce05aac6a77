"""Runs before `.venv` exists: checks the Python version, creates `.venv`, chooses the stack.

What must stay true: it uses only the standard library, and no syntax that an old Python rejects, because the check of
the version must run on an old Python. A `.venv` without its stamp file is unfinished, and is created again.

    python3 local/bootstrap.py run|local|dev    # install requirements/<name>.txt
    python3 local/bootstrap.py stack            # print compose or local
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
VENV = PROJECT / ".venv"
STAMP = VENV / "installed.json"
LOG = PROJECT / ".local" / "install.log"
CONTAINS = {"run": ("run",), "local": ("local", "run"), "dev": ("dev", "local", "run")}


def main(wanted: str) -> None:
    """Install requirements or print the stack. On failure, exit with one line."""
    if wanted == "stack":
        sys.stdout.write(stack() + "\n")
        return
    if sys.version_info < (3, 11):  # noqa: UP036 - an older Python runs up to this line
        age = ".".join(map(str, sys.version_info[:2]))
        sys.exit(f"QuickBite needs Python 3.11 or newer, this is {age}. Choose a newer one: make up PYTHON=python3.11")
    LOG.parent.mkdir(exist_ok=True)
    with LOG.with_name("install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if needed(wanted):
            install(wanted)


def stack() -> str:
    """Return `compose` if a Docker engine with the compose plugin answers (5 s per call), else `local`."""
    for question in (["docker", "compose", "version"], ["docker", "version"]):
        try:
            done = subprocess.run(
                question, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=5, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return "local"
        if done.returncode:
            return "local"
    return "compose"


def needed(wanted: str) -> bool:
    """True if `.venv` lacks these requirements, was created in another folder, or lost its interpreter."""
    stamp = json.loads(STAMP.read_text()) if STAMP.exists() else {}
    return stamp.get(wanted) != key(wanted) or not (VENV / "bin" / "python").exists()


def key(name: str) -> str:
    """The hash of all that `.venv` depends on: the lock file and the path of `.venv`."""
    return hashlib.sha256(lock_file(name).read_bytes() + bytes(VENV)).hexdigest()


def lock_file(name: str) -> Path:
    """The file with the exact versions and their hashes."""
    return PROJECT / "requirements" / f"{name}.txt"


def install(wanted: str) -> None:
    """Create or update `.venv`. The stamp file does not exist until the end, so an interrupted run is detected."""
    if STAMP.exists() and (VENV / "bin" / "python").exists():
        STAMP.unlink()
    else:
        shutil.rmtree(VENV, ignore_errors=True)
        run("Creating .venv", [sys.executable, "-m", "venv", str(VENV)], "is Python's venv module installed?")
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "--no-user", "--require-hashes"]
    count = len(re.findall("^[a-z0-9]", lock_file(wanted).read_text(), re.MULTILINE))
    run(
        f"Installing {count} Python packages",
        [*command, "--disable-pip-version-check", "-r", str(lock_file(wanted))],
        "is the package index reachable? pip's own settings apply, such as PIP_INDEX_URL.",
    )
    STAMP.write_text(json.dumps({name: key(name) for name in CONTAINS[wanted]}))


def run(title: str, command: "list[str]", hint: str) -> None:
    """Run a command. Its output goes to the log, its progress to the terminal. If it fails, exit with one line."""
    environment = dict(os.environ, PIP_RETRIES=os.environ.get("PIP_RETRIES", "2"), PYTHONUNBUFFERED="1")
    sys.stderr.write(f"{title} ...\n")
    done = 0
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    with LOG.open("w") as log, child:
        for line in child.stdout or ():
            log.write(line)
            if line.startswith("Collecting ") and sys.stderr.isatty():
                done += 1
                sys.stderr.write(f"\r\033[K  {done} {line.split()[1]}")
    if done:
        sys.stderr.write("\r\033[K")
    if child.returncode:
        sys.exit(f"{title} failed: {hint} The whole log: {LOG}")


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The next run starts again from the beginning.")
