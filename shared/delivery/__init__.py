"""The delivery toolkit: events leave through an outbox and arrive through an inbox, each with effect exactly once.

To publish, call `outbox.append` in the transaction of the change, and run a `relay.Relay`. To consume, run a
`consumer.Consumer` with a `handling.Handling`. `schema` creates the tables, `partitions.run` their day partitions.
"""
