"""What every service needs and none owns: the delivery toolkit (outbox, relay, inbox, consumer), web, runtime."""
