"""The list of all events and all topics of the shop. An event that is not listed here has no documents."""

from contracts import inventory, orders, payments, products, users

EVENTS = (
    orders.OrderCreated,
    orders.OrderConfirmed,
    orders.OrderCancelled,
    inventory.InventoryReserved,
    inventory.InventoryRejected,
    inventory.InventoryReleased,
    payments.PaymentSucceeded,
    payments.PaymentFailed,
    payments.PaymentRefunded,
    products.ProductCreated,
    products.ProductChanged,
    users.UserRegistered,
    users.UserDeleted,
)

TOPICS = (
    orders.TOPIC,
    inventory.TOPIC,
    payments.TOPIC,
    products.TOPIC,
    users.AUTH_TOPIC,
    users.USERS_TOPIC,
)
