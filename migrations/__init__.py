"""The schema's history: an `admin` section that makes roles and schemas, and a section per service.

The services never migrate themselves. A section runs as its service's role, so that it can touch its own schema only.
"""
