"""What auth and users say about a person, on `auth.events` and `users.events`, keyed by the user's id."""

import re

from contracts.event import Event
from contracts.fields import Text

_ID = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_IDS = range(1, 2**63)

AUTH_TOPIC = "auth.events"
USERS_TOPIC = "users.events"


def read_id(text: str) -> int | None:
    """Read a user's id as events and tokens have it, in one way only: there a user is their text, which is a key."""
    return int(text) if _ID.fullmatch(text) and int(text) in _IDS else None


class UserRegistered(Event, topic=AUTH_TOPIC, key_field="user_id"):
    """Somebody has a login from now on."""

    user_id: Text
    username: Text


class UserDeleted(Event, topic=USERS_TOPIC, key_field="user_id"):
    """A profile is gone, and its login with it."""

    user_id: Text
