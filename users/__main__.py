"""`python -m users` runs the whole service in one process; `--only api,relay` runs some of it."""

from shared.process import run as runtime
from users.app import create_app
from users.config import Settings

if __name__ == "__main__":
    runtime.run(create_app, Settings, "users")
