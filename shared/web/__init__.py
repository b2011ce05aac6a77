"""HTTP for services: operations, their documents, problems, tokens."""
