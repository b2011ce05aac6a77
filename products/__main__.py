"""`python -m products` runs the whole service in one process; `--only api,relay` runs some of it."""

from products.app import create_app
from products.config import Settings
from shared import service

if __name__ == "__main__":
    service.run(create_app, Settings, "products")
