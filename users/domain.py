"""Profiles and their transitions. A deleted profile keeps no personal data and is never restored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from contracts.users import UserDeleted
from shared.delivery.events import Event

# Listed, because regular expression engines disagree about \s, and this expression is published.
_NEITHER_BLANK_NOR_AT = r"[^@\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]"
EMAIL = rf"^$|^{_NEITHER_BLANK_NOR_AT}{{1,64}}@{_NEITHER_BLANK_NOR_AT}+\.{_NEITHER_BLANK_NOR_AT}+$"


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile. If `is_deleted`, only its id and times are left."""

    id: int
    username: str
    display_name: str
    email: str
    version: int
    is_deleted: bool
    created_at: datetime
    updated_at: datetime


def change(before: Profile, values: Mapping[str, Any]) -> Profile:
    """Change fields. Values that are the same change nothing."""
    after = replace(before, **values)
    return before if after == before else replace(after, version=before.version + 1)


def delete(before: Profile) -> tuple[Profile, list[Event]]:
    """Remove the personal data. A profile that is deleted already has no second event."""
    if before.is_deleted:
        return before, []
    after = replace(before, username="", display_name="", email="", is_deleted=True, version=before.version + 1)
    return after, [UserDeleted(version=after.version, user_id=str(after.id))]
