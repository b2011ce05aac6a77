"""Examples. Each folder is a service that can be copied and run alone."""
