"""The next release of payments handles OrderNoted."""

from payments import consumer
from payments.app import create_app
from payments.config import Settings
from shared import service
from tests.acceptance.releases.contract import OrderNoted, on_order_noted

if __name__ == "__main__":
    before = consumer.handlers
    consumer.handlers = lambda worker: before(worker) | {OrderNoted: on_order_noted}
    service.run(create_app, Settings, "payments")
