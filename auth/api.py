"""HTTP in: register, log in, refresh, log out; and for other services, validate a token and publish the keys."""

from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, Field

from auth.domain import USERNAME
from auth.keyring import Keyring
from auth.service import Logins, Tokens
from shared.errors import Unauthenticated
from shared.web import deadline, responses
from shared.web.fields import Text, request_like
from shared.web.operations import Access, caller, operation

LOGINS = web.AppKey("LOGINS", Logins)
KEYRING = web.AppKey("KEYRING", Keyring)

routes = web.RouteTableDef()


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
async def register(request: web.Request, wanted: Registration) -> web.Response:
    """Make a login."""
    work = request.app[LOGINS].register(wanted.username, wanted.password)
    user_id = await deadline.within(work, deadline.seconds_left(request))
    return responses.json(Registered(id=user_id, username=wanted.username), 201, Location=f"/users/{user_id}")


@routes.post("/auth/login")
@operation(Access.PUBLIC, {200: LoggedIn}, body=Login, problems=[401])
async def log_in(request: web.Request, login: Login) -> web.Response:
    """Log in."""
    work = request.app[LOGINS].log_in(login.username, login.password, _address(request))
    return _tokens(await deadline.within(work, deadline.seconds_left(request)))


@routes.post("/auth/refresh")
@operation(Access.PUBLIC, {200: LoggedIn}, body=RefreshToken, problems=[401])
async def refresh(request: web.Request, sent: RefreshToken) -> web.Response:
    """Get new tokens; the old refresh token is used up, and ends the session if it comes again."""
    return _tokens(
        await deadline.within(request.app[LOGINS].refresh(sent.refresh_token), deadline.seconds_left(request))
    )


@routes.post("/auth/logout")
@operation(Access.PUBLIC, {204: None}, body=RefreshToken)
async def log_out(request: web.Request, sent: RefreshToken) -> web.Response:
    """Log out; the gateway refuses the session's access tokens within seconds."""
    await deadline.within(request.app[LOGINS].log_out(sent.refresh_token), deadline.seconds_left(request))
    return web.Response(status=204)


@routes.get("/auth/validate")
@operation(Access.USER, {204: None}, headers={"X-User-Id": "Whose token it is.", "X-User-Roles": "With commas."})
async def validate(request: web.Request) -> web.Response:
    """Tell whose access token this is, unless its session is over."""
    known = caller(request)
    if request.app[KEYRING].is_over(known.session_id):
        raise Unauthenticated("the session is over")
    return web.Response(status=204, headers={"X-User-Id": known.user_id, "X-User-Roles": ",".join(sorted(known.roles))})


@routes.get("/auth/jwks.json")
@operation(Access.PUBLIC, {200: Keys})
async def keys(request: web.Request) -> web.Response:
    """Publish the keys that access tokens are verified with."""
    return responses.json(request.app[KEYRING].published())


def _tokens(tokens: Tokens) -> web.Response:
    answer = LoggedIn(token=tokens.access, expires_in=tokens.seconds, refresh_token=tokens.refresh)
    return responses.json(answer, 200, **{"Cache-Control": "no-store"})


def _address(request: web.Request) -> str:
    """The client's address. The gateway sets X-Real-IP and replaces what the client sent."""
    return request.headers.get("X-Real-IP", request.remote or "")
