"""The delivery toolkit: events leave through an outbox and arrive through an inbox, each with effect exactly once."""
