"""One process: its configuration, its logs, its tasks and loops, and how it ends."""
