"""Successful answers. Errors are answered by `problems.py`."""

import hashlib
from typing import cast
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


def shared(request: web.Request, value: object) -> web.Response:
    """Answer anybody with JSON that caches may store, if they ask each time whether it has changed (RFC 9111).

    The answer is 304 without a body if the client has it already.
    """
    response = json(value)
    tag = hashlib.sha256(cast("bytes", response.body)).hexdigest()[:32]
    if any(known.value in (tag, "*") for known in request.if_none_match or ()):
        response = web.Response(status=304)
    response.headers.update({"Cache-Control": "public, no-cache", "ETag": f'"{tag}"'})
    return response


def _plain(value: object) -> str:
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"a {type(value).__name__} is not JSON")
