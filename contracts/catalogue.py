"""Every event and every topic of the shop, listed by hand: what is not here does not exist."""

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
