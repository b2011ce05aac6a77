"""Kafka in: one function per event type, over a list, in the transaction of the batch."""

from pydantic import BaseModel

from auth import service
from contracts.users import USERS_TOPIC, UserDeleted, read_id
from shared.delivery.handlers import Handler
from shared.errors import UnknownAggregate
from shared.postgres import Connection

TOPICS = (USERS_TOPIC,)


async def on_user_deleted(conn: Connection, events: list[UserDeleted]) -> None:
    """Profiles were deleted: disable their logins."""
    ids = {event.user_id: read_id(event.user_id) for event in events}
    known = await service.disable(conn, [id_ for id_ in ids.values() if id_ is not None])
    unknown = [event for event in events if ids[event.user_id] not in known]
    if unknown:
        raise UnknownAggregate([*unknown])


HANDLERS: dict[type[BaseModel], Handler] = {UserDeleted: on_user_deleted}
