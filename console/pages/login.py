"""Log in and out."""

from aiohttp import web

from console.journal import Action
from console.pages import frame
from console.pages.frame import ROOT
from console.pages.guard import COOKIE, FORM, LOGIN
from console.pages.sources import JOURNAL, SESSIONS
from console.sessions import SECONDS
from shared.errors import ServiceError, TooMany
from shared.web import problems, requests

routes = web.RouteTableDef()


@routes.get(LOGIN)
async def show(request: web.Request) -> web.Response:
    return frame.page(request, "login.html", next=request.query.get("next", ""), problem="")


@routes.post(LOGIN)
async def log_in(request: web.Request) -> web.Response:
    form, address = request[FORM], requests.origin(request)
    username, wanted = form.get("username", "")[:128], form.get("next", "")
    try:
        cookie = await request.app[SESSIONS].log_in(username, form.get("password", "")[:128], address)
    except ServiceError as error:
        status = problems.of_error(error).status
        answer = frame.page(request, "login.html", next=wanted, problem=error.detail, status=status)
        if isinstance(error, TooMany):
            answer.headers["Retry-After"] = str(error.seconds)
        return answer
    number = await request.app[JOURNAL].begin(Action(username, address, "log in"))
    await request.app[JOURNAL].end(number, "done")
    answer = frame.back_to(_own(wanted))
    https = request.secure or request.headers.get("X-Forwarded-Proto") == "https"
    answer.set_cookie(COOKIE, cookie, path=ROOT, httponly=True, samesite="Strict", secure=https, max_age=int(SECONDS))
    return answer


@routes.post(ROOT + "/logout")
async def log_out(request: web.Request) -> web.Response:
    session = frame.session(request)
    number = await request.app[JOURNAL].begin(Action(session.username, requests.origin(request), "log out"))
    await request.app[SESSIONS].log_out(session)
    await request.app[JOURNAL].end(number, "done")
    answer = frame.back_to(LOGIN)
    answer.del_cookie(COOKIE, path=ROOT)
    return answer


def _own(wanted: str) -> str:
    """The page that was asked for before the login, if it is one of this console."""
    return wanted if wanted.startswith(ROOT + "/") and wanted.isprintable() and "\\" not in wanted else ROOT + "/"
