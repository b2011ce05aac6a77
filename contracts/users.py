"""What auth and users say about a person, on `auth.events` and `users.events`, keyed by the user's id."""

import re
from typing import ClassVar

from pydantic import BaseModel

from contracts.fields import EVENT, Text, Version

_ID = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_IDS = range(1, 2**63)

AUTH_TOPIC = "auth.events"
USERS_TOPIC = "users.events"


def read_id(text: str) -> int | None:
    """Read a user's id as events and tokens have it, in one way only: there a user is their text, which is a key."""
    return int(text) if _ID.fullmatch(text) and int(text) in _IDS else None


class UserRegistered(BaseModel):
    """Somebody has a login from now on."""

    model_config = EVENT
    topic: ClassVar[str] = AUTH_TOPIC
    key_field: ClassVar[str] = "user_id"

    version: Version
    user_id: Text
    username: Text


class UserDeleted(BaseModel):
    """A profile is gone, and its login with it."""

    model_config = EVENT
    topic: ClassVar[str] = USERS_TOPIC
    key_field: ClassVar[str] = "user_id"

    version: Version
    user_id: Text
