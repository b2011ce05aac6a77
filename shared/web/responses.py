"""Successful answers. Errors are answered by `problems.py`."""

from uuid import UUID

import orjson
from aiohttp import web
from pydantic import BaseModel


def json(value: object, status: int = 200, **headers: str) -> web.Response:
    """Answer with JSON. `value` is a pydantic model, or anything that orjson can serialize, or has UUIDs of asyncpg."""
    text = value.model_dump_json() if isinstance(value, BaseModel) else orjson.dumps(value, default=_plain)
    return web.Response(
        status=status,
        body=text if isinstance(text, bytes) else text.encode(),
        content_type="application/json",
        headers=headers,
    )


def _plain(value: object) -> str:
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"a {type(value).__name__} is not JSON")
