"""`python -m console` runs the console until SIGTERM."""

import sys

from console import app, config
from shared.process import logs

if __name__ == "__main__":
    settings = config.read()
    logs.configure(settings.log_level, "console")
    sys.exit(app.run(settings))
