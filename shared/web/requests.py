"""Parts of a request, read strictly: JSON body, query, path, headers."""

import asyncio
import re
from typing import TypeVar

import orjson
from aiohttp import web
from pydantic import BaseModel, ValidationError

from .. import tracing
from ..errors import Invalid
from . import deadline, fields

Model = TypeVar("Model", bound=BaseModel)

_ID = re.compile(r"[0-9]{1,19}", re.ASCII)
_KEY = re.compile(r"[\x20-\x7e]{1,255}", re.ASCII)


async def body(request: web.Request, model: type[Model], **context: object) -> Model:
    """Read a JSON object into `model`, within the request's deadline. Raises `Invalid` with the reason.

    Validators of the model get `context`. A `null` body is validated like `{}`, so the client learns which field is
    missing; if none is missing, `null` is still invalid.
    """
    try:
        async with asyncio.timeout(deadline.seconds_left(request)):
            value = orjson.loads(await request.read())
    except (orjson.JSONDecodeError, TimeoutError, ConnectionError, web.RequestPayloadError):  # all caused by the client
        raise Invalid(fields.INVALID_JSON) from None
    if not isinstance(value, dict | None):
        raise Invalid(fields.INVALID_JSON)
    try:
        found = model.model_validate(value or {}, context=context)
    except ValidationError as error:
        raise Invalid(fields.sentence(error, in_json=True)) from None
    if value is None:
        raise Invalid(fields.INVALID_JSON)
    return found


def query(request: web.Request, model: type[Model]) -> Model:
    """Read the query into `model`. If a name occurs twice, the first value counts. Raises `Invalid` with the reason."""
    found = {name: request.query[name] for name in request.query}
    try:
        return model.model_validate(found)
    except ValidationError as error:
        raise Invalid(fields.sentence(error, in_json=False)) from None


def path_id(request: web.Request, name: str = "id") -> int:
    """Read an id from the path: a positive 64-bit integer in ASCII digits. Raises `Invalid`."""
    raw = request.match_info[name]
    if not _ID.fullmatch(raw) or not 0 < int(raw) <= fields.MAX_ID:
        raise Invalid("invalid id")
    return int(raw)


def idempotency_key(request: web.Request) -> str | None:
    """The Idempotency-Key, or None. Raises `Invalid`."""
    keys = request.headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise Invalid("Idempotency-Key must be 1 to 255 printable ASCII characters, once")
    return keys[0]


def traceparent(request: web.Request) -> str | None:
    """The request's W3C traceparent, or None if it has none or an invalid one."""
    return tracing.valid(request.headers.get("traceparent"))
