"""Runs before `.venv` exists: checks Python and the settings, creates `.venv`, chooses the stack.

What must stay true: it uses only the standard library, and no syntax that an old Python rejects, because the check of
the version must run on an old Python. A `.venv` without its stamp file is unfinished, and is created again.

    python3 -m local.bootstrap run|local|dev             # install requirements/<name>.txt
    python3 -m local.bootstrap stack up                  # print compose or local, and say why if the target is up
    python3 -m local.bootstrap check compose|local       # check all that `make up` needs
    python3 -m local.bootstrap ports                     # print the ports as ORDERS_PORT=8080 and so on
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

from local import env_file
from local.problem import disk_problem

PROJECT = Path(__file__).resolve().parent.parent
VENV = PROJECT / ".venv"
STAMP = VENV / "installed.json"
LOG = PROJECT / ".local" / "install.log"
MARK = "QUICKBITE_STACK"  # as in local/process.py
UNFIT = r'["$\\:,;#\n\r]'  # the path of a file of supervisord, nginx, Kafka or Java cannot have these
NO_DOCKER = "No Docker engine with the compose plugin answers, so the embedded stack starts."
CONTAINS = {"run": ("run",), "local": ("local", "run"), "dev": ("dev", "local", "run")}


def main(wanted: str, detail: str = "") -> None:
    """Do what the first argument says. On failure, exit with a line for each problem."""
    env_file.load(PROJECT / ".env")
    if wanted == "stack":
        chosen, reason = stack()
        if detail == "up":
            sys.stderr.write(reason + "\n")
        sys.stdout.write(chosen + "\n")
        return
    if sys.version_info < (3, 11):  # noqa: UP036 - an older Python runs up to this line
        age = ".".join(map(str, sys.version_info[:2]))
        sys.exit(f"QuickBite needs Python 3.11 or newer, this is {age}. Choose a newer one: make up PYTHON=python3.11")
    if wanted in ("check", "ports"):
        found = check(detail)
        if wanted == "ports":
            sys.stdout.write("".join(f"{name.upper()}_PORT={numbers[0]}\n" for name, numbers in found.items()))
        return
    LOG.parent.mkdir(exist_ok=True)
    with LOG.with_name("install.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if needed(wanted):
            install(wanted)


def stack() -> "tuple[str, str]":
    """Return `compose` or `local`, and why: a running embedded stack, or else Docker, if it answers (5 s per call)."""
    name = os.environ.get("STACK_NAME") or "dev"
    if is_running(PROJECT / ".local" / name):
        return "local", f"The embedded stack {name} is running, so `make up` uses it. For Docker: make down first."
    for question in (["docker", "compose", "version"], ["docker", "version"]):
        try:
            done = subprocess.run(
                question, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=5, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return "local", NO_DOCKER
        if done.returncode:
            return "local", NO_DOCKER
    return "compose", "A Docker engine answers, so the stack runs in Docker. Without Docker: make up STACK=local"


def is_running(root: Path) -> bool:
    """True if a process of the embedded stack in `root` runs, also if only its supervisord has ended."""
    mark = f"{MARK}={root.resolve()}".encode()
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environment.read_bytes().split(b"\0"):
                return True
        except OSError:  # The process belongs to another user, or has ended.
            continue
    return False


def check(chosen: str) -> "dict[str, tuple[int, ...]]":
    """Check settings, folder and ports; exit with a line for each that is unfit. Returns the ports of all programs."""
    from local import config  # noqa: PLC0415 - an old Python cannot import it

    if chosen == "local":
        env_file.remember(PROJECT / ".local" / (os.environ.get("STACK_NAME") or "dev"))
    settings, wrong = config.read(os.environ)
    if chosen == "local":
        unfit = re.search(UNFIT, str(PROJECT))
        if unfit:
            wrong.append(f"The path {str(PROJECT)!r} has the character {unfit[0]!r}: move QuickBite to another folder.")
        if not is_running(PROJECT / ".local" / settings.stack_name):
            wrong += config.taken(settings)
    if wrong:
        sys.exit("\n".join(wrong))
    return settings.ports


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
        reason = disk_problem(LOG.read_text(), PROJECT) or f"{hint} The whole log: {LOG}"
        sys.exit(f"{title} failed: {reason}")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. The next run starts again from the beginning.")
    except OSError as error:
        found = disk_problem(str(error), PROJECT)
        if found:
            sys.exit(found)
        raise
