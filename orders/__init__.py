"""Orders: what customers asked for, what it costs, and whether it is PENDING, CONFIRMED or CANCELLED."""
