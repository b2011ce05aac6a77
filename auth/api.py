"""HTTP in: register, log in, refresh, log out, passwords, sessions, administrators.

For other services: validate a token, publish the keys and the sessions that ended.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, Field

from auth import audit, domain, service
from auth.domain import USERNAME, Sender
from auth.endings import Endings
from auth.keyring import Keyring
from auth.service import Logins
from contracts.users import read_id
from shared.errors import Unauthenticated
from shared.web import database, deadline, requests, responses
from shared.web.admission import ADMISSION
from shared.web.audit import TRAIL
from shared.web.fields import QUERY, Seconds, Text, answer_like, request_like
from shared.web.operations import Access, caller, operation
from shared.web.verification import EndedSessions

DEVICE = "device"
"""The cookie by which auth knows a device again, so that wrong passwords of others do not slow it down."""
_YEAR_SECONDS = 365 * 86_400

LOGINS = web.AppKey("LOGINS", Logins)
ENDINGS = web.AppKey("ENDINGS", Endings)
KEYRING = web.AppKey("KEYRING", Keyring)

_NOT_STORED = {"Cache-Control": "no-store"}

_SESSION_ID = "0f8fad5bd9cb469fa16570867728950e"
_SESSION = {
    "id": _SESSION_ID,
    "created_at": "2026-01-31T12:00:00.000000Z",
    "last_used_at": "2026-01-31T12:14:00.000000Z",
    "user_agent": "curl/8.5.0",
    "is_current": True,
}

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


class ChangePassword(BaseModel):
    """The old password and a new one."""

    model_config = request_like({"old_password": "correct horse", "new_password": "battery staple"})

    old_password: Annotated[Text, Field(max_length=128)]
    """The password until now."""
    new_password: Annotated[Text, Field(min_length=8, max_length=128)]
    """Another one. The commonest passwords are refused."""


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


class Session(BaseModel):
    """A login on a device, which is not over."""

    model_config = answer_like(_SESSION)

    id: str
    """The id of the session. Access tokens have it as `sid`."""
    created_at: datetime
    """When the user logged in."""
    last_used_at: datetime
    """When the tokens were refreshed last."""
    user_agent: str
    """How the device called itself at the login: the first 200 characters of its `User-Agent`."""
    is_current: bool
    """True for the session of this request."""


class SessionList(BaseModel):
    """The caller's sessions, at most 100."""

    model_config = answer_like({"sessions": [_SESSION]})

    sessions: list[Session]
    """Those that were used last come first."""


class After(BaseModel):
    """Which ended sessions to list."""

    model_config = QUERY

    after: Annotated[str, Field(pattern=r"^([0-9a-f]{8}-[0-9]{1,15})?$")] = ""
    """The `next` of the last answer."""
    wait: Annotated[float, Seconds(30)] = 0.0
    """How many seconds to wait for sessions that end after it."""


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
    work = request.app[LOGINS].register(wanted.username, wanted.password, _sender(request))
    user_id = await deadline.within(request, work)
    return responses.json(RegisteredUser(id=user_id, username=wanted.username), 201, Location=f"/users/{user_id}")


@routes.post("/auth/login")
@operation(
    Access.PUBLIC,
    {200: Tokens},
    body=Login,
    problems=[401],
    headers={
        "Set-Cookie": "A token of this device. Wrong passwords that others send do not slow down its next logins."
    },
)
async def log_in(request: web.Request, login: Login) -> web.Response:
    """Log in."""
    work = request.app[LOGINS].log_in(login.username, login.password, _sender(request))
    tokens = await deadline.within(request, work)
    return _with_device(request, _tokens(tokens), tokens.device)


@routes.post("/auth/visitor")
@operation(Access.PUBLIC, {200: VisitorToken}, problems=[403])
async def visit(request: web.Request) -> web.Response:
    """Get a token without a login, as a new user with no roles. Only if the setting `VISITORS` allows it."""
    token, seconds = request.app[LOGINS].visit()
    return responses.json(VisitorToken(token=token, expires_in=seconds), 200, **_NOT_STORED)


@routes.post("/auth/refresh")
@operation(Access.PUBLIC, {200: Tokens}, body=RefreshToken, problems=[401])
async def refresh(request: web.Request, sent: RefreshToken) -> web.Response:
    """Exchange a refresh token for new tokens. If the same token comes again, its session ends.

    For 10 s the same device may repeat the request, and gets the same refresh token, until it has used that.
    """
    work = request.app[LOGINS].refresh(sent.refresh_token, _sender(request))
    return _tokens(await deadline.within(request, work))


@routes.post("/auth/logout")
@operation(Access.PUBLIC, {204: None}, body=RefreshToken)
async def log_out(request: web.Request, sent: RefreshToken) -> web.Response:
    """End the session. Its access tokens are refused within seconds."""
    await deadline.within(request, request.app[LOGINS].log_out(sent.refresh_token, _sender(request)))
    return web.Response(status=204)


@routes.post("/auth/password")
@operation(Access.USER, {204: None}, body=ChangePassword, problems=[403, 404, 409])
async def change_password(request: web.Request, change: ChangePassword) -> web.Response:
    """Change the caller's own password. Their other sessions end."""
    user_id, session_id = _own_id(request), domain.read_session_id(caller(request).session_id)
    passwords = (change.old_password, change.new_password)
    work = request.app[LOGINS].change_password(user_id, session_id, *passwords, _sender(request))
    return _with_device(request, web.Response(status=204), await deadline.within(request, work))


@routes.get("/auth/sessions")
@operation(Access.USER, {200: SessionList}, problems=[404])
async def sessions(request: web.Request) -> web.Response:
    """List the caller's own sessions."""
    user_id, current = _own_id(request), caller(request).session_id
    found = await database.reading(request, lambda conn: service.sessions(conn, user_id))
    shown = [
        Session(
            id=one.id.hex,
            created_at=one.created_at,
            last_used_at=one.last_used_at,
            user_agent=one.user_agent,
            is_current=one.id.hex == current,
        )
        for one in found
    ]
    return responses.json(SessionList(sessions=shown))


@routes.delete("/auth/sessions/{session}")
@operation(Access.USER, {204: None}, examples={"session": _SESSION_ID})
async def end_session(request: web.Request) -> web.Response:
    """End one of the caller's own sessions. Its access tokens are refused within seconds."""
    user_id, session_id = _own_id(request), domain.read_session_id(request.match_info["session"])
    with audit.decision(request.app[TRAIL], "end session", _sender(request), user_id, user_id):
        await database.writing(request, (), lambda conn: service.end_session(conn, user_id, session_id))
    return web.Response(status=204)


@routes.put("/auth/admins/{user_id}")
@operation(Access.ADMIN, {204: None}, audited=False)  # it notes more itself
async def make_administrator(request: web.Request) -> web.Response:
    """Make a user an administrator. Their next token has the role."""
    by, user_id = _own_id(request), requests.path_id(request, "user_id")
    with audit.decision(request.app[TRAIL], "give role admin", _sender(request), by, user_id):
        await database.writing(request, (), lambda conn: service.make_administrator(conn, by, user_id))
    return web.Response(status=204)


@routes.delete("/auth/admins/{user_id}")
@operation(Access.ADMIN, {204: None}, problems=[409], audited=False)  # it notes more itself
async def dismiss_administrator(request: web.Request) -> web.Response:
    """Take the administrator's role from a user, and end their sessions. The last administrator keeps it."""
    by, user_id = _own_id(request), requests.path_id(request, "user_id")
    with audit.decision(request.app[TRAIL], "take role admin", _sender(request), by, user_id):
        await database.writing(request, (), lambda conn: service.dismiss_administrator(conn, by, user_id))
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
    if request.app[ENDINGS].is_over(known.session_id):
        raise Unauthenticated("the session is over")
    return web.Response(status=204, headers={"X-User-Id": known.user_id, "X-User-Roles": ",".join(sorted(known.roles))})


@routes.get("/auth/jwks.json")
@operation(Access.PUBLIC, {200: KeySet})
async def keys(request: web.Request) -> web.Response:
    """The public keys that verify access tokens."""
    return responses.json(request.app[KEYRING].published())


@routes.get("/auth/ended")
@operation(Access.SERVICES, {200: EndedSessions}, query=After)
async def ended(request: web.Request, query: After) -> web.Response:
    """List the sessions that ended after the last answer, and wait until there are some."""
    with request.app[ADMISSION].resting():
        return responses.json(await request.app[ENDINGS].follow(query.after, query.wait))


def _tokens(tokens: service.Tokens) -> web.Response:
    answer = Tokens(token=tokens.access, expires_in=tokens.seconds, refresh_token=tokens.refresh)
    return responses.json(answer, 200, **_NOT_STORED)


def _with_device(request: web.Request, answer: web.Response, token: str) -> web.Response:
    """Set the cookie of the device. A page cannot read it, and only a page of this site causes it to be sent."""
    is_secure = requests.is_https(request)
    answer.set_cookie(
        DEVICE, token, max_age=_YEAR_SECONDS, path="/auth", httponly=True, samesite="Strict", secure=is_secure
    )
    return answer


def _sender(request: web.Request) -> Sender:
    """Where the request comes from."""
    device, user_agent = request.cookies.get(DEVICE, ""), request.headers.get("User-Agent", "")
    return Sender(_clean(requests.address(request), 64), _clean(device, 128), _clean(user_agent, 200))


def _clean(text: str, length: int) -> str:
    """The beginning of a header. Bytes that are no UTF-8 become question marks, because Postgres cannot store them."""
    return text[:length].encode(errors="replace").decode()


def _own_id(request: web.Request) -> int:
    user_id = read_id(caller(request).user_id)
    if user_id is None:
        raise service.UserNotFound
    return user_id
