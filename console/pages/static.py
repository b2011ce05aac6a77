"""The static files: vendored scripts, whose SHA-256 is in `SUMS`, and the console's own style and script."""

from hashlib import sha256

from aiohttp import web

from console.pages.frame import FOLDER
from console.pages.guard import STATIC

TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}

routes = web.RouteTableDef()

_FILES = {
    file.name: (file.read_bytes(), TYPES[file.suffix[1:]])
    for file in sorted((FOLDER / "static").iterdir())
    if file.suffix[1:] in TYPES
}
_TAGS = {name: f'"{sha256(content).hexdigest()[:16]}"' for name, (content, _) in _FILES.items()}


@routes.get(STATIC + "{name}")
async def show(request: web.Request) -> web.Response:
    found = _FILES.get(request.match_info["name"])
    if found is None:
        raise web.HTTPNotFound
    tag = _TAGS[request.match_info["name"]]
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("If-None-Match") == tag:
        return web.Response(status=304, headers=headers)
    content, type_ = found
    return web.Response(body=content, content_type=type_, charset="utf-8", headers=headers)
