"""The guard of all pages: the headers of every answer, the session, and the checks of every POST.

What must stay true: without an administrator's session, nothing but the login page and the static files is answered.
A POST is done only if it comes from a page of this console, in the session that the page was made for.
"""

import asyncio
import hmac
import sqlite3
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlsplit

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from multidict import MultiDictProxy

from console.journal import Action
from console.pages import frame
from console.pages.frame import ROOT, SESSION
from console.pages.sources import JOURNAL, SESSIONS
from shared.errors import Forbidden, Invalid, ServiceError, TooMany, Unauthenticated
from shared.web import problems, requests

log = structlog.get_logger()

COOKIE = "console"
LOGIN = f"{ROOT}/login"
STATIC = f"{ROOT}/static/"

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # with `no-referrer`, a browser sends `Origin: null` with a form
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_FORM_BYTES = 64 * 1024
_FORM_SECONDS = 3.0

FORM: web.RequestKey[Mapping[str, str]] = web.RequestKey("FORM")


@web.middleware
async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Admit a request, answer errors as pages, and set the headers."""
    try:
        response = await _admitted(request, handler)
    except ServiceError as error:
        response = _error(request, problems.of_error(error).status, error.detail)
        if isinstance(error, TooMany):
            response.headers["Retry-After"] = str(error.seconds)
    except web.HTTPException as error:
        response = error if error.status < 400 else _error(request, error.status, error.reason)
    except sqlite3.Error as error:
        log.exception("the console's own file failed", path=request.path)
        response = _error(request, 503, f"the console cannot store anything now: {type(error).__name__}")
    except Exception:
        log.exception("a page failed", path=request.path)
        response = _error(request, 500, "internal error; the log has the traceback")
    if not response.prepared:
        response.headers.update(HEADERS)
        response.headers.setdefault("Cache-Control", "no-store")
    return response


async def _admitted(request: web.Request, handler: Handler) -> web.StreamResponse:
    path = request.path
    if not path.startswith(ROOT):
        return await handler(request)
    found = request.app[SESSIONS].find(request.cookies.get(COOKIE, ""))
    if found is not None:
        request[SESSION] = found
    if request.method not in {"GET", "HEAD"}:
        await _check_post(request)
    elif found is None and path != LOGIN and not path.startswith(STATIC):
        return _to_login(request)
    return await handler(request)


async def _check_post(request: web.Request) -> None:
    """Raises `Forbidden`, `Unauthenticated` or `Invalid`. A refusal within a session is stored."""
    public = request.path == LOGIN
    if SESSION not in request and not public:
        raise Unauthenticated("log in first; nothing was done")
    try:
        _check_origin(request)
        form = await _form(request)
        if not public and not hmac.compare_digest(str(form.get("csrf", "")).encode(), request[SESSION].csrf.encode()):
            raise Forbidden("this page is of another session: load it again. Nothing was done")
    except ServiceError as error:
        await _store_refusal(request, error)
        raise
    request[FORM] = {name: str(form[name]) for name in form}


def _check_origin(request: web.Request) -> None:
    """Browsers send at least one of these headers with a POST, and no page of another site can change them."""
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    hosts = {request.headers.get("Host"), request.headers.get("X-Forwarded-Host")}
    if site is None and origin is None:
        raise Forbidden("the request has no Origin; nothing was done")
    if site not in {None, "same-origin"} or (origin is not None and urlsplit(origin).netloc not in hosts):
        raise Forbidden("the request comes from another site; nothing was done")


async def _form(request: web.Request) -> MultiDictProxy[Any]:
    if request.content_type != "application/x-www-form-urlencoded":
        raise Invalid("a form is expected")
    if (request.content_length or 0) > _FORM_BYTES:
        raise Invalid("the form is too large")
    try:
        async with asyncio.timeout(_FORM_SECONDS):
            return await request.post()
    except (TimeoutError, ValueError, ConnectionError):
        raise Invalid("the form cannot be read") from None


async def _store_refusal(request: web.Request, error: ServiceError) -> None:
    log.warning("a write was refused", path=request.path, reason=error.detail)
    if (session := request.get(SESSION)) is not None:
        journal, who = request.app[JOURNAL], session.username
        number = await journal.begin(Action(who, requests.origin(request), "refused write", subject=request.path))
        await journal.end(number, f"refused: {error.detail}")


def _to_login(request: web.Request) -> web.Response:
    if request.headers.get("HX-Request"):  # a part of a page that is open since yesterday
        return web.Response(status=401, headers={"HX-Redirect": LOGIN})
    wanted = "" if request.path in {ROOT, ROOT + "/"} else "?next=" + quote(request.path_qs, safe="")
    return web.Response(status=303, headers={"Location": LOGIN + wanted})


def _error(request: web.Request, status: int, detail: str) -> web.Response:
    title = HTTPStatus(status).phrase
    if not request.path.startswith(ROOT):
        return web.Response(status=status, text=title)
    return frame.page(request, "error.html", status=status, title=title, detail=detail)
