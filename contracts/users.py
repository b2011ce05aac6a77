"""The events of auth and users about a user, on `auth.events` and `users.events`. The key is the user id."""

import re

from contracts.event import Event
from contracts.fields import Text, UserId

_ID = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_IDS = range(1, 2**63)

AUTH_TOPIC = "auth.events"
USERS_TOPIC = "users.events"


def read_id(text: str) -> int | None:
    """Parse a user id from an event or a token. Returns None if it is not valid.

    Only one spelling of a number is valid, because events and tokens use the text as a key.
    """
    return int(text) if _ID.fullmatch(text) and int(text) in _IDS else None


class UserRegistered(Event, topic=AUTH_TOPIC, key_field="user_id"):
    """A user registered, and can log in from now on."""

    user_id: UserId
    username: Text
    """The name to log in with."""


class UserDeleted(Event, topic=USERS_TOPIC, key_field="user_id"):
    """A profile was deleted, and its login ends too."""

    user_id: UserId
