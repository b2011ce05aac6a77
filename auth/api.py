"""HTTP in: register, log in, refresh, log out; and for other services, validate a token and publish the keys."""

from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, Field

from auth import service
from auth.domain import USERNAME
from auth.keyring import Keyring
from auth.service import Logins
from shared.errors import Unauthenticated
from shared.web import deadline, requests, responses
from shared.web.fields import Text, request_like
from shared.web.operations import WHOM, Access, caller, operation

LOGINS = web.AppKey("LOGINS", Logins)
KEYRING = web.AppKey("KEYRING", Keyring)

routes = web.RouteTableDef()


class RegisterUser(BaseModel):
    """A request to register."""

    model_config = request_like({"username": "ada", "password": "correct horse"})

    username: Annotated[str, Field(pattern=USERNAME)]
    password: Annotated[Text, Field(min_length=8, max_length=128)]


class Login(BaseModel):
    """A username and a password."""

    model_config = request_like({"username": "ada", "password": "correct horse"})

    username: Annotated[Text, Field(max_length=128)]
    password: Annotated[Text, Field(max_length=128)]


class RefreshToken(BaseModel):
    """The refresh token of the last login or refresh."""

    model_config = request_like({"refresh_token": "the one from the last answer"})

    refresh_token: Annotated[Text, Field(max_length=512)]


class RegisteredUser(BaseModel):
    """The new user. The profile follows in a moment."""

    id: int
    username: str


class Tokens(BaseModel):
    """An access token, how many seconds it is valid, and a refresh token that is valid once."""

    token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the scheme's name
    expires_in: int
    refresh_token: str


class KeySet(BaseModel):
    """A JWK set (RFC 7517)."""

    keys: list[dict[str, Any]]


@routes.post("/auth/register")
@operation(
    Access.PUBLIC,
    {201: RegisteredUser},
    body=RegisterUser,
    problems=[409],
    audited=True,
    headers={"Location": "The path of the profile."},
)
async def register(request: web.Request, wanted: RegisterUser) -> web.Response:
    """Register a user."""
    request[WHOM] = wanted.username
    work = request.app[LOGINS].register(wanted.username, wanted.password)
    user_id = await deadline.within(request, work)
    return responses.json(RegisteredUser(id=user_id, username=wanted.username), 201, Location=f"/users/{user_id}")


@routes.post("/auth/login")
@operation(Access.PUBLIC, {200: Tokens}, body=Login, problems=[401], audited=True)
async def log_in(request: web.Request, login: Login) -> web.Response:
    """Log in."""
    request[WHOM] = login.username
    work = request.app[LOGINS].log_in(login.username, login.password, requests.origin(request))
    return _tokens(await deadline.within(request, work))


@routes.post("/auth/refresh")
@operation(Access.PUBLIC, {200: Tokens}, body=RefreshToken, problems=[401], audited=True)
async def refresh(request: web.Request, sent: RefreshToken) -> web.Response:
    """Exchange a refresh token for new tokens. If the same token comes again, its session ends."""
    return _tokens(await deadline.within(request, request.app[LOGINS].refresh(sent.refresh_token)))


@routes.post("/auth/logout")
@operation(Access.PUBLIC, {204: None}, body=RefreshToken, audited=True)
async def log_out(request: web.Request, sent: RefreshToken) -> web.Response:
    """End the session. The gateway refuses its access tokens within seconds."""
    await deadline.within(request, request.app[LOGINS].log_out(sent.refresh_token))
    return web.Response(status=204)


@routes.get("/auth/validate")
@operation(
    Access.USER,
    {204: None},
    headers={"X-User-Id": "The user of the token.", "X-User-Roles": "The roles, separated by commas."},
)
async def validate(request: web.Request) -> web.Response:
    """Validate an access token and its session, for the gateway."""
    known = caller(request)
    if request.app[KEYRING].is_over(known.session_id):
        raise Unauthenticated("the session is over")
    return web.Response(status=204, headers={"X-User-Id": known.user_id, "X-User-Roles": ",".join(sorted(known.roles))})


@routes.get("/auth/jwks.json")
@operation(Access.PUBLIC, {200: KeySet})
async def keys(request: web.Request) -> web.Response:
    """The public keys that verify access tokens."""
    return responses.json(request.app[KEYRING].published())


def _tokens(tokens: service.Tokens) -> web.Response:
    answer = Tokens(token=tokens.access, expires_in=tokens.seconds, refresh_token=tokens.refresh)
    return responses.json(answer, 200, **{"Cache-Control": "no-store"})
