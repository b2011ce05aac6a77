"""The books of the services about the same orders, and the differences between them."""

from aiohttp import web

from console.books import COMPARED
from console.pages import frame
from console.pages.sources import BOOKS

routes = web.RouteTableDef()


@routes.get("/console/books")
async def show(request: web.Request) -> web.Response:
    books = request.app[BOOKS]
    return frame.page(
        request,
        "books.html",
        here="books",
        books=books,
        last=books.last if books else None,
        compared=COMPARED,
    )
