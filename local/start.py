"""Becomes a program, with the settings of the command that started the program last.

    python -IS local/start.py settings/payments.json /bin/python -m payments

supervisord gives its programs the environment with which supervisord itself was started, perhaps days ago. So
`make restart` writes the settings to a file.
"""

import json
import os
import sys
from pathlib import Path


def main(settings: str, *command: str) -> None:
    """Set or remove each variable of the file, and become `command`. The process keeps its id."""
    for name, value in json.loads(Path(settings).read_text()).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
