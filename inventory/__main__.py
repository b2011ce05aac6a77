"""`python -m inventory` runs the whole service in one process; `--only relay,consumer` runs some of it."""

from inventory.app import create_app
from inventory.config import Settings
from shared.process import run as runtime

if __name__ == "__main__":
    runtime.run(create_app, Settings, "inventory")
