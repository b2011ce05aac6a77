"""Operations: the declaration of a route lists who may call it, what it reads and what it answers.

What must stay true: one declaration admits requests and describes the route in the OpenAPI document, so that document
and behaviour cannot differ.
"""

import hmac
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeAlias

from aiohttp import web
from pydantic import BaseModel

from ..errors import Forbidden, ServiceError, Unauthenticated
from . import audit, requests, tokens
from .tokens import Caller
from .verification import Verifier

VERIFIER = web.AppKey("VERIFIER", Verifier)
TOKEN_REQUIRED = web.AppKey("TOKEN_REQUIRED", bool)
LOOPBACK_SECRETS: web.AppKey[Callable[[], Collection[str] | None]] = web.AppKey("LOOPBACK_SECRETS")
"""Returns the secrets of which a request without a token needs one, or None if it needs none."""
KNOWN_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
_CALLER = web.RequestKey("caller", Caller)
_SCHEME = "bearer "
_READS = frozenset({"GET", "HEAD"})
_PORT = re.compile(r":[0-9]{1,5}$", re.ASCII)

RouteFunction: TypeAlias = Callable[..., Awaitable[web.StreamResponse]]
"""An aiohttp handler with two more arguments: the parsed body and the parsed query, if it declares them."""


class Access(Enum):
    """Who may call an operation. The values are words for the OpenAPI document."""

    PUBLIC = "anybody"
    TRUSTED = "anybody with a token, or anybody who reaches the port if the service runs with REQUIRE_TOKEN=false"
    USER = "anybody with a token"
    ADMIN = "administrators"
    SERVICES = "other services, at this service's own port: the gateway does not route here"


@dataclass(frozen=True)
class Operation:
    """A route's declaration. `answers` maps a status to the model of its body, or to None."""

    access: Access
    summary: str
    answers: Mapping[int, type[BaseModel] | None]
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    problems: Sequence[int] = ()
    idempotent: bool = False
    essential: bool = False
    """Never refused for lack of capacity."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of the answer, each with its description."""
    examples: Mapping[str, str] = field(default_factory=dict)
    """A good value of each parameter of the path that is not an id."""


def operation(  # noqa: PLR0913 - a declaration has many parts, each with its name
    access: Access,
    answers: Mapping[int, type[BaseModel] | None],
    *,
    body: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    problems: Sequence[int] = (),
    idempotent: bool = False,
    essential: bool = False,
    audited: bool | None = None,
    headers: Mapping[str, str] | None = None,
    examples: Mapping[str, str] | None = None,
) -> Callable[[RouteFunction], RouteFunction]:
    """Declare a route. Its function is called with the request, then the parsed body and the parsed query, if declared.

    Validators of the body find the caller in their context. `problems` lists statuses that do not follow from the rest
    of the declaration. `idempotent` operations accept an Idempotency-Key. An `essential` operation is never refused for
    lack of capacity. A caller who is not allowed is refused before the body is read.

    Calls are noted in the audit trail if they are `audited`. Default: those of administrators that change something. A
    refused token or caller is always noted.
    """

    def declare(handler: RouteFunction) -> RouteFunction:
        async def enforced(request: web.Request) -> web.StreamResponse:
            try:
                await _admit(request, access)
            except ServiceError as error:
                if isinstance(error, Forbidden) or _is_bad_token(request, error):
                    _note(request, type(error).__name__)
                raise
            is_act = access is Access.ADMIN and request.method not in _READS
            if not (is_act if audited is None else audited):
                return await admitted(request)
            outcome = "failed"
            try:
                response = await admitted(request)
                outcome = "done"
            except ServiceError as error:
                outcome = type(error).__name__
                raise
            finally:
                _note(request, outcome)
            return response

        async def admitted(request: web.Request) -> web.StreamResponse:
            parsed: list[BaseModel] = []
            if body is not None:
                parsed.append(await requests.body(request, body, caller=request[_CALLER]))
            if query is not None:
                parsed.append(requests.query(request, query))
            return await handler(request, *parsed)

        summary = (handler.__doc__ or "").partition("\n")[0]
        declared = Operation(
            access, summary, answers, body, query, problems, idempotent, essential, headers or {}, examples or {}
        )
        enforced.__dict__.update(operation=declared, __name__=handler.__name__, __doc__=handler.__doc__)
        return enforced

    return declare


def _is_bad_token(request: web.Request, error: ServiceError) -> bool:
    """A token was sent and refused. A request without any is no attack, and there are many."""
    return isinstance(error, Unauthenticated) and "Authorization" in request.headers


def _note(request: web.Request, outcome: str) -> None:
    resource = request.match_info.route.resource
    by = request.get(_CALLER, _NOBODY)
    request.app[audit.TRAIL].note(
        f"{request.method} {resource.canonical if resource else request.path}",
        outcome,
        who=by.user_id or ("(no token needed)" if by is tokens.TRUSTED else ""),
        whom=" ".join(request.match_info.values()),
        address=requests.address(request),
        id_=request[requests.ID],
    )


def caller(request: web.Request) -> Caller:
    """The caller of a declared operation. In a public operation it has no user id and no role."""
    return request[_CALLER]


def keep_private(request: web.Request, response: web.StreamResponse) -> None:
    """Forbid caches to keep the answer of an operation that needs a token, unless the answer has its own rule."""
    operation = declared(request.match_info.handler)
    if operation and operation.access is not Access.PUBLIC:
        response.headers.setdefault("Cache-Control", "no-store")


def with_either_ending(routes: web.RouteTableDef) -> list[web.RouteDef]:
    """The same routes with a slash at the end, or without the one that they have."""
    found = [route for route in routes if isinstance(route, web.RouteDef) and declared(route.handler)]
    return [web.RouteDef(r.method, _other_ending(r.path), r.handler, r.kwargs) for r in found]


def _other_ending(path: str) -> str:
    return path.rstrip("/") if path.endswith("/") else f"{path}/"


def declared(handler: Any) -> Operation | None:
    """The declaration of a route's function, or None."""
    found = getattr(handler, "operation", None)
    return found if isinstance(found, Operation) else None


async def _admit(request: web.Request, access: Access) -> None:
    """Identify the caller. Raises `Unauthenticated`, `Forbidden`, or `Unavailable` while no keys are known."""
    sent = request.headers.getall("Authorization", [])
    if access in {Access.PUBLIC, Access.SERVICES}:
        request[_CALLER] = _NOBODY
    elif not sent and access is Access.TRUSTED and _is_from_loopback(request):
        _refuse_pages(request)
        request[_CALLER] = tokens.TRUSTED
    else:
        request[_CALLER] = found = await request.app[VERIFIER].verify(bearer(sent))
        if access is Access.ADMIN and not found.is_admin:
            raise Forbidden("this is for administrators")


def _is_from_loopback(request: web.Request) -> bool:
    """True if only this machine reaches the port, or if the proxy that listens on loopback has added its secret."""
    if request.app[TOKEN_REQUIRED]:
        return False
    if (secrets := request.app[LOOPBACK_SECRETS]()) is None:
        return True
    given = request.headers.get("X-Loopback-Secret", "").encode(errors="surrogateescape")
    return any(hmac.compare_digest(given, secret.encode()) for secret in secrets)


def _refuse_pages(request: web.Request) -> None:
    """Raises `Forbidden` for a request without a token that a web page of a foreign origin may have caused.

    Such a page can reach a port on loopback, by its number or by a name of its own that leads there (DNS rebinding).
    """
    host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
    if _PORT.sub("", host) not in KNOWN_HOSTS:
        raise Forbidden(f"without a token, Host must be one of {', '.join(sorted(KNOWN_HOSTS))}")
    if origin is not None and origin.partition("://")[2] != host:
        raise Forbidden("without a token, a page of another origin is refused")


def bearer(sent: Sequence[str]) -> str:
    """The token in the Authorization headers. Raises `Unauthenticated`."""
    if not sent:
        raise Unauthenticated("a token is required: Authorization: Bearer <token>")
    if len(sent) > 1 or not sent[0].lower().startswith(_SCHEME):
        raise Unauthenticated("Authorization must be `Bearer <token>`, once")
    return sent[0][len(_SCHEME) :].strip()


_NOBODY = Caller("")
