"""`python -m auth` runs the whole service in one process; two commands do one thing each.

`python -m auth rotate-keys` publishes a new signing key. `python -m auth set-admin-password` sets ADMIN_PASSWORD now.
"""

import asyncio
import sys

from auth.app import create_app, rotate_keys, set_admin_password
from auth.config import Settings
from shared import service
from shared.process import configuration

if __name__ == "__main__":
    if sys.argv[1:] == ["rotate-keys"]:
        settings = configuration.read(Settings, "auth", [])
        kid = asyncio.run(rotate_keys(settings))
        print(f"key {kid} is published, and signs after {settings.key_lead_seconds} s")
    elif sys.argv[1:] == ["set-admin-password"]:
        asyncio.run(set_admin_password(configuration.read(Settings, "auth", [])))
        print("admin has the password in ADMIN_PASSWORD")
    else:
        service.run(create_app, Settings, "auth")
