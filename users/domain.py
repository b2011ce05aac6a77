"""What a profile is, how it changes and how it ends: a deleted one keeps nothing personal, and never comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from contracts.users import UserDeleted
from shared.delivery.events import Event

# One by one: regular expressions differ on what \s is, and this one is published.
_NEITHER_BLANK_NOR_AT = r"[^@\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]"
EMAIL = rf"^$|^{_NEITHER_BLANK_NOR_AT}{{1,64}}@{_NEITHER_BLANK_NOR_AT}+\.{_NEITHER_BLANK_NOR_AT}+$"


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile as it stands, or, `is_deleted`, what is left of one: that there was somebody."""

    id: int
    username: str
    display_name: str
    email: str
    version: int
    is_deleted: bool
    created_at: datetime
    updated_at: datetime


def change(before: Profile, values: Mapping[str, Any]) -> Profile:
    """Give fields new values; what they were already is no change."""
    after = replace(before, **values)
    return before if after == before else replace(after, version=before.version + 1)


def delete(before: Profile) -> tuple[Profile, list[Event]]:
    """Forget who it was, and say that they are gone; of one that is deleted already nothing is said again."""
    if before.is_deleted:
        return before, []
    after = replace(before, username="", display_name="", email="", is_deleted=True, version=before.version + 1)
    return after, [UserDeleted(version=after.version, user_id=str(after.id))]
