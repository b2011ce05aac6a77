"""HTTP in: profiles, for their owners and for administrators. Each route parses, calls one use case and answers."""

from datetime import datetime
from typing import Annotated

from aiohttp import web
from pydantic import BaseModel, Field

from contracts.users import read_id
from shared import errors
from shared.web import database, requests, responses
from shared.web.fields import QUERY, Cursor, Limit, Text, answer_like, request_like
from shared.web.operations import Access, caller, operation
from users import domain, service, store
from users.domain import Profile

DisplayName = Annotated[Text, Field(max_length=128)]
Email = Annotated[str, Field(pattern=domain.EMAIL, max_length=254)]

_USER = {
    "id": 1,
    "username": "ada",
    "display_name": "Ada Lovelace",
    "email": "ada@example.com",
    "version": 2,
    "created_at": "2026-01-31T12:00:00Z",
    "updated_at": "2026-01-31T12:05:00Z",
}

routes = web.RouteTableDef()


class ChangeUser(BaseModel):
    """New values for a profile. A field that is left out stays; an empty text deletes the value."""

    model_config = request_like({"display_name": "Ada Lovelace", "email": "ada@example.com"})

    display_name: DisplayName = Field(default_factory=str)  # a factory, so that the document shows no default
    """The name that others see."""
    email: Email = Field(default_factory=str)
    """The address of the user."""


class User(BaseModel):
    """The profile of a user."""

    model_config = answer_like(_USER)

    id: int
    """The id of the user."""
    username: str
    """The name to log in with."""
    display_name: str
    """The name that others see. It may be empty."""
    email: str
    """The address of the user. It may be empty."""
    version: int
    """How often the profile was written."""
    created_at: datetime
    """When the profile was created."""
    updated_at: datetime
    """When the profile was changed last."""

    @classmethod
    def of(cls, profile: Profile) -> "User":
        return cls.model_validate(profile, from_attributes=True)


class UserPage(BaseModel):
    """Profiles in the order of ids."""

    model_config = answer_like({"users": [_USER], "next_cursor": None})

    users: list[User]
    """The profiles of this page."""
    next_cursor: str | None
    """The `cursor` of the next page, or null on the last page."""


class UserFilters(BaseModel):
    """Which profiles to list."""

    model_config = QUERY

    username: Text | None = None
    """Only the user with this name."""
    limit: Limit = 20
    """How many profiles a page has at most."""
    cursor: Cursor | None = None
    """The `next_cursor` of the page before."""


@routes.get("/users/me")
@operation(Access.USER, {200: User}, problems=[404])
async def me(request: web.Request) -> web.Response:
    """Read the caller's own profile."""
    user_id = _own_id(request)
    return responses.json(User.of(await database.reading(request, lambda conn: service.own(conn, user_id))))


@routes.get("/users/")
@operation(Access.ADMIN, {200: UserPage}, query=UserFilters)
async def index(request: web.Request, filters: UserFilters) -> web.Response:
    """List profiles in the order of ids, a page at a time."""
    after, limit = filters.cursor or 0, filters.limit
    profiles = await database.reading(request, lambda conn: store.page(conn, after, limit + 1, filters.username))
    shown = [User.of(profile) for profile in profiles[:limit]]
    return responses.json(UserPage(users=shown, next_cursor=str(shown[-1].id) if len(profiles) > limit else None))


@routes.get("/users/{id}")
@operation(Access.USER, {200: User})
async def get(request: web.Request) -> web.Response:
    """Read a profile."""
    user_id = _visible_id(request)
    return responses.json(User.of(await database.reading(request, lambda conn: service.get(conn, user_id))))


@routes.patch("/users/me")
@routes.patch("/users/{id}")
@operation(Access.USER, {200: User}, body=ChangeUser, problems=[404])
async def change(request: web.Request, wanted: ChangeUser) -> web.Response:
    """Change a profile."""
    user_id, values = _visible_id(request), wanted.model_dump(exclude_unset=True)
    profile = await database.writing(request, [str(user_id)], lambda conn: service.change(conn, user_id, values))
    return responses.json(User.of(profile))


@routes.delete("/users/me")
@routes.delete("/users/{id}")
@operation(Access.USER, {204: None}, problems=[404, 409], audited=True)
async def delete(request: web.Request) -> web.Response:
    """Delete a profile and its login permanently. Neither keeps personal data."""
    user_id, by = _visible_id(request), caller(request)
    if by.is_admin and by.user_id == str(user_id):
        raise errors.Conflict("an administrator cannot delete their own profile; another administrator can")
    await database.writing(request, [str(user_id)], lambda conn: service.delete(conn, user_id))
    return web.Response(status=204)


def _visible_id(request: web.Request) -> int:
    """The id in the path, if the caller may see that user. Raises `Invalid` or `ProfileNotFound`.

    A path without an id means the caller.
    """
    if "id" not in request.match_info:
        return _own_id(request)
    user_id = requests.path_id(request)
    if not caller(request).may_see(str(user_id)):
        raise service.ProfileNotFound
    return user_id


def _own_id(request: web.Request) -> int:
    user_id = read_id(caller(request).user_id)
    if user_id is None:
        raise service.ProfileNotFound
    return user_id
