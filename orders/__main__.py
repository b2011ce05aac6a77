"""`python -m orders` runs the whole service in one process; `--only api,relay` runs some of it."""

from orders.app import create_app
from orders.config import Settings
from shared.process import run as runtime

if __name__ == "__main__":
    runtime.run(create_app, Settings, "orders")
