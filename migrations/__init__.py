"""The history of the schemas: a section `admin` that creates roles and schemas, and a section per service.

The services never migrate themselves. A section runs as the owner of its schema, so it can change only this schema.
"""
