"""`python -m storefront` runs the storefront until SIGTERM."""

import sys

from shared.delivery.kafka import Brokers
from shared.process import logs
from shared.web import serving
from storefront import app, config

if __name__ == "__main__":
    settings, kafka = config.read()
    logs.configure(settings.log_level, "storefront")
    sys.exit(serving.run(app.create_app(settings, Brokers.of(kafka)), settings.host, settings.port))
