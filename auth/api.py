"""HTTP in: register, log in, refresh, log out; and for other services, validate a token and publish the keys."""

from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, Field

from auth import service
from auth.domain import USERNAME
from auth.keyring import Keyring
from auth.service import Logins
from shared.errors import Unauthenticated
from shared.web import deadline, responses
from shared.web.fields import Text, answer_like, request_like
from shared.web.operations import Access, caller, operation

LOGINS = web.AppKey("LOGINS", Logins)
KEYRING = web.AppKey("KEYRING", Keyring)

_NOT_STORED = {"Cache-Control": "no-store"}

routes = web.RouteTableDef()


class RegisterUser(BaseModel):
    """A request to register."""

    model_config = request_like({"username": "ada", "password": "correct horse"})

    username: Annotated[str, Field(pattern=USERNAME)]
    """The name to log in with. It cannot change later."""
    password: Annotated[Text, Field(min_length=8, max_length=128)]
    """A password that only the user knows."""


class Login(BaseModel):
    """A username and a password. The example is the administrator of a local stack."""

    model_config = request_like({"username": "admin", "password": "password"})

    username: Annotated[Text, Field(max_length=128)]
    """The name of a registered user."""
    password: Annotated[Text, Field(max_length=128)]
    """The user's password."""


class RefreshToken(BaseModel):
    """The refresh token of the last login or refresh."""

    model_config = request_like({"refresh_token": "the refresh_token of the last login or refresh"})

    refresh_token: Annotated[Text, Field(max_length=512)]
    """The `refresh_token` of that answer. It is valid once."""


class RegisteredUser(BaseModel):
    """The new user. The profile follows in a moment."""

    model_config = answer_like({"id": 2, "username": "ada"})

    id: int
    """The id of the user."""
    username: str
    """The name to log in with."""


class VisitorToken(BaseModel):
    """An access token of a visitor."""

    model_config = answer_like({"token": "eyJhbGci…", "token_type": "Bearer", "expires_in": 3600})

    token: str
    """The access token: send it as `Authorization: Bearer <token>`."""
    token_type: Literal["Bearer"] = "Bearer"  # noqa: S105 - the scheme's name
    """The scheme of the `Authorization` header."""
    expires_in: int
    """For how many seconds the access token is valid."""


class Tokens(VisitorToken):
    """An access token, how many seconds it is valid, and a refresh token that is valid once."""

    model_config = answer_like(
        {"token": "eyJhbGci…", "token_type": "Bearer", "expires_in": 900, "refresh_token": "7.Zm9v…"}
    )

    refresh_token: str
    """A secret for POST /auth/refresh. It is valid once."""


class KeySet(BaseModel):
    """A JWK set (RFC 7517)."""

    model_config = answer_like(
        {"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "k1", "x": "11qYAYKx…"}]}
    )

    keys: list[dict[str, Any]]
    """The public keys. A token names its key by `kid`."""


@routes.post("/auth/register")
@operation(
    Access.PUBLIC,
    {201: RegisteredUser},
    body=RegisterUser,
    problems=[409],
    headers={"Location": "The path of the profile."},
)
async def register(request: web.Request, wanted: RegisterUser) -> web.Response:
    """Register a user."""
    work = request.app[LOGINS].register(wanted.username, wanted.password)
    user_id = await deadline.within(request, work)
    return responses.json(RegisteredUser(id=user_id, username=wanted.username), 201, Location=f"/users/{user_id}")


@routes.post("/auth/login")
@operation(Access.PUBLIC, {200: Tokens}, body=Login, problems=[401])
async def log_in(request: web.Request, login: Login) -> web.Response:
    """Log in."""
    work = request.app[LOGINS].log_in(login.username, login.password, _address(request))
    return _tokens(await deadline.within(request, work))


@routes.post("/auth/visitor")
@operation(Access.PUBLIC, {200: VisitorToken}, problems=[403])
async def visit(request: web.Request) -> web.Response:
    """Get a token without a login, as a new user with no roles. Only if the setting `VISITORS` allows it."""
    token, seconds = request.app[LOGINS].visit()
    return responses.json(VisitorToken(token=token, expires_in=seconds), 200, **_NOT_STORED)


@routes.post("/auth/refresh")
@operation(Access.PUBLIC, {200: Tokens}, body=RefreshToken, problems=[401])
async def refresh(request: web.Request, sent: RefreshToken) -> web.Response:
    """Exchange a refresh token for new tokens. If the same token comes again, its session ends."""
    return _tokens(await deadline.within(request, request.app[LOGINS].refresh(sent.refresh_token)))


@routes.post("/auth/logout")
@operation(Access.PUBLIC, {204: None}, body=RefreshToken)
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
    return responses.json(answer, 200, **_NOT_STORED)


def _address(request: web.Request) -> str:
    """The client's address. The gateway sets X-Real-IP and replaces what the client sent."""
    return request.headers.get("X-Real-IP", request.remote or "")
