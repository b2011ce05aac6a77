"""The embedded stack: Postgres, Kafka, nginx and the services on one machine, without Docker, from pip and Maven."""
