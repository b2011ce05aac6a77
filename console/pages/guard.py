"""The guard of all pages: the headers of every answer, the session, and the checks of every POST.

What must stay true: without an administrator's session, nothing but the login page and the static files is answered.
A POST is done only if it comes from a page of this console, in the session that the page was made for.
"""

import hmac
import sqlite3
from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import quote

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from console.journal import Action
from console.pages import frame
from console.pages.frame import ROOT, SESSION
from console.pages.sources import JOURNAL, SESSIONS
from shared.errors import Forbidden, ServiceError, TooMany, Unauthenticated
from shared.web import pages, problems

log = structlog.get_logger()

COOKIE = "console"
LOGIN = f"{ROOT}/login"
STATIC = f"{ROOT}/static/"

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
        response.headers.update(pages.HEADERS)
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
        pages.check_origin(request)
        form = await pages.form(request)
        if not public and not hmac.compare_digest(str(form.get("csrf", "")).encode(), request[SESSION].csrf.encode()):
            raise Forbidden("this page is of another session: load it again. Nothing was done")
    except ServiceError as error:
        await _store_refusal(request, error)
        raise
    request[FORM] = {name: str(form[name]) for name in form}


async def _store_refusal(request: web.Request, error: ServiceError) -> None:
    log.warning("a write was refused", path=request.path, reason=error.detail)
    if (session := request.get(SESSION)) is not None:
        journal, who = request.app[JOURNAL], session.username
        number = await journal.begin(Action(who, pages.address(request), "refused write", subject=request.path))
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
