"""A ring buffer of spans and log lines in SQLite: at most 500 MB or 24 hours, made for looking at, not for keeping."""
