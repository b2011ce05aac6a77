"""What auth does when others speak: one function per event type, over a list, in the batch's transaction."""

import re

from pydantic import BaseModel

from auth import service
from contracts.users import USERS_TOPIC, UserDeleted
from shared.consumer import Handler
from shared.db import Connection
from shared.errors import UnknownAggregate

TOPICS = (USERS_TOPIC,)

_ID = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
"""An id as we write it: int() also takes 007, and the digits of every script."""


async def on_user_deleted(conn: Connection, events: list[UserDeleted]) -> None:
    """A profile is gone: so is its login."""
    ids = {event.user_id: int(event.user_id) for event in events if _ID.fullmatch(event.user_id)}
    known = await service.disable(conn, [id_ for id_ in ids.values() if id_ < 2**63])
    unknown = [event for event in events if ids.get(event.user_id) not in known]
    if unknown:
        raise UnknownAggregate([*unknown])


HANDLERS: dict[type[BaseModel], Handler] = {UserDeleted: on_user_deleted}
