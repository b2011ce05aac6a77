"""Payments: what was charged and refunded for each order, and a simulated payment provider."""
