"""Payments: what each order's customer was charged, and what went back; and the provider that holds the money."""
