"""Inventory: how many units of each sku are available, held or sold, and what each order has of them."""
