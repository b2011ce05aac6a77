"""One process: configuration, logs, its tasks and its end."""
