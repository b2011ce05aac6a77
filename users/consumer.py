"""Kafka in: one function per event type, over a list, in the transaction of the batch."""

from pydantic import BaseModel

from contracts.users import AUTH_TOPIC, UserRegistered, read_id
from shared.delivery.handlers import Handler
from shared.errors import UnknownAggregate
from shared.postgres import Connection
from users import service

TOPICS = (AUTH_TOPIC,)


async def on_user_registered(conn: Connection, events: list[UserRegistered]) -> None:
    """Users have a login: create their profiles."""
    ids = {event.user_id: read_id(event.user_id) for event in events}
    if strange := [event for event in events if ids[event.user_id] is None]:
        raise UnknownAggregate([*strange])
    await service.register(conn, {id_: event.username for event in events if (id_ := ids[event.user_id])})


HANDLERS: dict[type[BaseModel], Handler] = {UserRegistered: on_user_registered}
