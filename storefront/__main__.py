"""`python -m storefront` runs the storefront until SIGTERM."""

import sys

from shared.process import logs
from shared.web import serving
from storefront import app, config

if __name__ == "__main__":
    settings = config.read()
    logs.configure(settings.log_level, "storefront")
    sys.exit(serving.run(app.create_app(settings), settings.host, settings.port))
