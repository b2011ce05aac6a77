"""The operator's console: is the shop healthy, where is an order, what is parked, and who did what."""
