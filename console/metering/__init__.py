"""Metrics of the last two hours, alert rules over them, and the webhook that reports alerts."""
