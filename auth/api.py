"""HTTP in: register, log in, refresh, log out; and for services, who a token is and how to verify it themselves."""

from typing import Annotated, Any, Literal

from aiohttp import web as aio
from pydantic import BaseModel, Field

from auth.domain import USERNAME
from auth.service import Keyring, Logins, Tokens
from shared.errors import Unauthenticated
from shared.web import requests as web
from shared.web.fields import Text, request_like
from shared.web.operations import Access, caller, operation

LOGINS = aio.AppKey("LOGINS", Logins)
KEYRING = aio.AppKey("KEYRING", Keyring)

routes = aio.RouteTableDef()


class Registration(BaseModel):
    """A new login."""

    model_config = request_like({"username": "ada", "password": "correct horse"})

    username: Annotated[str, Field(pattern=USERNAME)]
    password: Annotated[Text, Field(min_length=8, max_length=128)]


class Login(BaseModel):
    """What somebody says who they are."""

    model_config = request_like({"username": "ada", "password": "correct horse"})

    username: Annotated[Text, Field(max_length=128)]
    password: Annotated[Text, Field(max_length=128)]


class RefreshToken(BaseModel):
    """A refresh token, as the last login or refresh gave it."""

    model_config = request_like({"refresh_token": "the one from the last answer"})

    refresh_token: Annotated[Text, Field(max_length=512)]


class Registered(BaseModel):
    """The login is made; its profile follows in a moment."""

    id: int
    username: str


class LoggedIn(BaseModel):
    """An access token for a while, and a refresh token that is good once."""

    token: str
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the scheme's name
    expires_in: int
    refresh_token: str


class Keys(BaseModel):
    """A JWK set (RFC 7517)."""

    keys: list[dict[str, Any]]


@routes.post("/auth/register")
@operation(
    Access.PUBLIC,
    {201: Registered},
    body=Registration,
    problems=[409],
    headers={"Location": "Where the profile will be."},
)
async def register(request: aio.Request, wanted: Registration) -> aio.Response:
    """Make a login."""
    work = request.app[LOGINS].register(wanted.username, wanted.password)
    user_id = await web.within(work, web.seconds_left(request))
    return web.json(Registered(id=user_id, username=wanted.username), 201, Location=f"/users/{user_id}")


@routes.post("/auth/login")
@operation(Access.PUBLIC, {200: LoggedIn}, body=Login, problems=[401])
async def log_in(request: aio.Request, login: Login) -> aio.Response:
    """Log in."""
    work = request.app[LOGINS].log_in(login.username, login.password, _address(request))
    return _tokens(await web.within(work, web.seconds_left(request)))


@routes.post("/auth/refresh")
@operation(Access.PUBLIC, {200: LoggedIn}, body=RefreshToken, problems=[401])
async def refresh(request: aio.Request, sent: RefreshToken) -> aio.Response:
    """Get new tokens; the old refresh token is used up, and ends the session if it comes again."""
    return _tokens(await web.within(request.app[LOGINS].refresh(sent.refresh_token), web.seconds_left(request)))


@routes.post("/auth/logout")
@operation(Access.PUBLIC, {204: None}, body=RefreshToken)
async def log_out(request: aio.Request, sent: RefreshToken) -> aio.Response:
    """Log out; the gateway refuses the session's access tokens within seconds."""
    await web.within(request.app[LOGINS].log_out(sent.refresh_token), web.seconds_left(request))
    return aio.Response(status=204)


@routes.get("/auth/validate")
@operation(Access.USER, {204: None}, headers={"X-User-Id": "Whose token it is.", "X-User-Roles": "With commas."})
async def validate(request: aio.Request) -> aio.Response:
    """Tell whose access token this is, unless its session is over."""
    known = caller(request)
    if request.app[KEYRING].is_over(known.session_id):
        raise Unauthenticated("the session is over")
    return aio.Response(status=204, headers={"X-User-Id": known.user_id, "X-User-Roles": ",".join(sorted(known.roles))})


@routes.get("/auth/jwks.json")
@operation(Access.PUBLIC, {200: Keys})
async def keys(request: aio.Request) -> aio.Response:
    """Publish the keys that access tokens are verified with."""
    return web.json(request.app[KEYRING].published())


def _tokens(tokens: Tokens) -> aio.Response:
    answer = LoggedIn(token=tokens.access, expires_in=tokens.seconds, refresh_token=tokens.refresh)
    return web.json(answer, 200, **{"Cache-Control": "no-store"})


def _address(request: aio.Request) -> str:
    """Tell where the client is: the gateway, whose word replaces the client's, says so in X-Real-IP."""
    return request.headers.get("X-Real-IP", request.remote or "")
