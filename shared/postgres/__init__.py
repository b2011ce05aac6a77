"""Postgres: connections, transactions, key locks, group commit."""
