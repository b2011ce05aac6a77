"""`python -m shipping` runs the whole service in one process; `--only api,relay` runs some of it."""

from shared import service

from .app import NAME, create_app
from .config import Settings

if __name__ == "__main__":
    service.run(create_app, Settings, NAME)
