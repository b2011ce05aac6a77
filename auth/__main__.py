"""`python -m auth` runs the whole service in one process; `python -m auth rotate-keys` publishes a new signing key."""

import asyncio
import sys

from auth.app import create_app, rotate_keys
from auth.config import Settings
from shared import service
from shared.process import configuration

if __name__ == "__main__":
    if sys.argv[1:] == ["rotate-keys"]:
        settings = configuration.read(Settings, "auth", [])
        kid = asyncio.run(rotate_keys(settings))
        print(f"key {kid} is published, and signs after {settings.key_lead_seconds} s")
    else:
        service.run(create_app, Settings, "auth")
