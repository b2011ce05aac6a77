"""Pages for browsers: the headers of every answer, and how a form is read.

What must stay true: a form counts only if it comes from a page of the same site.
"""

import asyncio
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from multidict import MultiDictProxy

from ..errors import Forbidden, Invalid

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


def check_origin(request: web.Request) -> None:
    """Raise `Forbidden` if a POST does not come from a page of this site.

    Browsers send at least one of these headers with a POST, and no page of another site can change them.
    """
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    hosts = {request.headers.get("Host"), request.headers.get("X-Forwarded-Host")}
    if site is None and origin is None:
        raise Forbidden("the request has no Origin; nothing was done")
    if site not in {None, "same-origin"} or (origin is not None and urlsplit(origin).netloc not in hosts):
        raise Forbidden("the request comes from another site; nothing was done")


async def form(request: web.Request) -> MultiDictProxy[Any]:
    """The fields of a form, within bounds of size and time. Raises `Invalid`."""
    if request.content_type != "application/x-www-form-urlencoded":
        raise Invalid("a form is expected")
    if (request.content_length or 0) > _FORM_BYTES:
        raise Invalid("the form is too large")
    try:
        async with asyncio.timeout(_FORM_SECONDS):
            return await request.post()
    except (TimeoutError, ValueError, ConnectionError):
        raise Invalid("the form cannot be read") from None


def address(request: web.Request) -> str:
    """The client's address. The gateway sets X-Real-IP and replaces what the client sent."""
    return request.headers.get("X-Real-IP", request.remote or "")[:64]


def is_https(request: web.Request) -> bool:
    """True if the browser uses HTTPS. Then its cookies are sent over HTTPS only."""
    return request.secure or request.headers.get("X-Forwarded-Proto") == "https"
