"""Generates the documents in `docs/` that follow from the code: OpenAPI, problem types, JSON Schemas, AsyncAPI."""
