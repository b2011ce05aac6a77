"""HTTP for services, on aiohttp: declared operations and their documents, deadlines, problems, access tokens."""
