"""`python -m orders` runs the whole service in one process; `--only api,relay` runs some of it."""

from orders.app import create_app
from orders.config import Settings
from shared import service

if __name__ == "__main__":
    service.run(create_app, Settings, "orders")
