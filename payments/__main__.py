"""`python -m payments` runs the whole service in one process; `--only consumer,relay` runs some of it."""

from payments.app import create_app
from payments.config import Settings
from shared import service

if __name__ == "__main__":
    service.run(create_app, Settings, "payments")
