"""`python -m users` runs the whole service in one process; `--only api,relay` runs some of it."""

from shared import service
from users.app import create_app
from users.config import Settings

if __name__ == "__main__":
    service.run(create_app, Settings, "users")
