"""What a route is for: who may call it, what it reads and what it answers, said once and both enforced and published.

What must stay true: `shared/openapi.py` describes an operation from the very declaration that lets requests in, so
the document cannot promise what the code does not do.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from aiohttp import web as aio
from pydantic import BaseModel

from shared.errors import Forbidden, Unauthenticated
from shared.web import requests as web
from shared.web import tokens
from shared.web.tokens import Caller
from shared.web.verification import Verifier

VERIFIER = aio.AppKey("VERIFIER", Verifier)
TOKEN_REQUIRED = aio.AppKey("TOKEN_REQUIRED", bool)
_CALLER = aio.RequestKey("caller", Caller)
_SCHEME = "bearer "

Handler: TypeAlias = Callable[..., Awaitable[aio.StreamResponse]]


class Access(Enum):
    """Who may call an operation."""

    PUBLIC = "anybody"
    TRUSTED = "whoever has a token, or can reach the port of a service that asks for none"
    USER = "whoever has a token"
    ADMIN = "administrators"


@dataclass(frozen=True)
class Operation:
    """A route's declaration; `answers` are models, or None without a body, by status."""

    access: Access
    summary: str
    answers: Mapping[int, type[BaseModel] | None]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    problems: Sequence[int] = ()
    idempotent: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of the answer, with what each says."""


def operation(
    access: Access,
    answers: Mapping[int, type[BaseModel] | None],
    *,
    body: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    problems: Sequence[int] = (),
    idempotent: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Callable[[Handler], Handler]:
    """Declare a handler, which is called with the request, then the body and then the query, where it has them.

    The body's validators find the caller in their context. `problems` are the statuses beyond those that follow from
    the rest; `idempotent` is one that takes an Idempotency-Key. Whoever may not call is refused before anything is
    read.
    """

    def declare(handler: Handler) -> Handler:
        async def enforced(request: aio.Request) -> aio.StreamResponse:
            request[_CALLER] = await _admit(request, access)
            parsed: list[BaseModel] = []
            if body is not None:
                parsed.append(await web.body(request, body, caller=request[_CALLER]))
            if query is not None:
                parsed.append(web.query(request, query))
            return await handler(request, *parsed)

        summary = (handler.__doc__ or "").partition("\n")[0]
        declared = Operation(access, summary, answers, body, query, problems, idempotent, headers or {})
        enforced.__dict__.update(operation=declared, __name__=handler.__name__, __doc__=handler.__doc__)
        return enforced

    return declare


def caller(request: aio.Request) -> Caller:
    """Tell who calls; in a public operation it is nobody."""
    return request[_CALLER]


def declared(handler: Any) -> Operation | None:
    """Give what a route's handler was declared as."""
    found = getattr(handler, "operation", None)
    return found if isinstance(found, Operation) else None


async def _admit(request: aio.Request, access: Access) -> Caller:
    """Let the caller in. Raises `Unauthenticated` or `Forbidden`, or `Unavailable` while no keys are known."""
    if access is Access.PUBLIC:
        return _NOBODY
    sent = request.headers.getall("Authorization", [])
    if not sent and access is Access.TRUSTED and not request.app[TOKEN_REQUIRED]:
        return tokens.TRUSTED
    found = await request.app[VERIFIER].verify(bearer(sent))
    if access is Access.ADMIN and not found.is_admin:
        raise Forbidden("this is for administrators")
    return found


def bearer(sent: Sequence[str]) -> str:
    """Take the token from the Authorization headers. Raises `Unauthenticated`."""
    if not sent:
        raise Unauthenticated("a token is required: Authorization: Bearer <token>")
    if len(sent) > 1 or not sent[0].lower().startswith(_SCHEME):
        raise Unauthenticated("Authorization must be `Bearer <token>`, once")
    return sent[0][len(_SCHEME) :].strip()


_NOBODY = Caller("")
