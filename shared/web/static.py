"""Static files of pages, read once. A browser that has a file asks for its tag only.

`vendored/` has the files of others that several processes use; `SUMS` has their SHA-256.
"""

from hashlib import sha256
from pathlib import Path

from aiohttp import web

VENDORED = Path(__file__).parent / "vendored"

_TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}


def routes(prefix: str, own: Path) -> web.RouteTableDef:
    """Serve the files of the folder `own`, and the vendored files, below the path `prefix`."""
    files = {
        file.name: (file.read_bytes(), _TYPES[file.suffix[1:]])
        for folder in (VENDORED, own)
        for file in folder.iterdir()
        if file.suffix[1:] in _TYPES
    }
    tags = {name: f'"{sha256(content).hexdigest()[:16]}"' for name, (content, _) in files.items()}
    table = web.RouteTableDef()

    @table.get(prefix + "{name}")
    async def show(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in files:
            raise web.HTTPNotFound
        headers = {"ETag": tags[name], "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == tags[name]:
            return web.Response(status=304, headers=headers)
        content, type_ = files[name]
        return web.Response(body=content, content_type=type_, charset="utf-8", headers=headers)

    return table
