"""`python -m inventory` runs the whole service in one process; `--only relay,consumer` runs some of it."""

from inventory.app import create_app
from inventory.config import Settings
from shared import service

if __name__ == "__main__":
    service.run(create_app, Settings, "inventory")
