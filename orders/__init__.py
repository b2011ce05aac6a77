"""Orders: what customers ordered, what it costs, and whether the order is PENDING, CONFIRMED or CANCELLED."""
