"""The whole stack on one machine without Docker: Postgres, Kafka, nginx and the services, from pip and Maven alone."""
