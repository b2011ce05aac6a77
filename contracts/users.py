"""What auth and users say about a person, on `auth.events` and `users.events`, keyed by the user's id."""

from typing import ClassVar

from pydantic import BaseModel

from contracts.fields import EVENT, Text, Version

AUTH_TOPIC = "auth.events"
USERS_TOPIC = "users.events"


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
