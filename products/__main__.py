"""`python -m products` runs the whole service in one process; `--only api,relay` runs some of it."""

from products.app import create_app
from products.config import Settings
from shared.process import run as runtime

if __name__ == "__main__":
    runtime.run(create_app, Settings, "products")
