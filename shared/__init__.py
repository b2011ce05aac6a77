"""Code that all services share: the delivery toolkit (outbox, relay, inbox, consumer), HTTP, Postgres, processes."""
