"""Each decision on access is an act in the audit trail: what, who, on whom, from where, and the outcome.

What must stay true: an act has ids and addresses, but no names and no secrets.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from auth.domain import Sender
from shared.errors import ServiceError


class Trail(Protocol):
    """Where acts are noted: `shared/web/audit.py`."""

    def note(self, what: str, outcome: str, *, who: str = "", whom: str = "", address: str = "") -> None:
        """Log an act, and store it soon."""


@dataclass(slots=True)
class Decision:
    """The ids of who asks, and of whom it is about. They may become known while the decision is made."""

    who: int | str = ""
    whom: int | str = ""


@contextmanager
def decision(trail: Trail, what: str, sender: Sender, who: int | str = "", whom: int | str = "") -> Iterator[Decision]:
    """Note an act when the block ends: it is done, or refused because of a `ServiceError`, or failed."""
    found, outcome = Decision(who, whom), "failed"
    try:
        yield found
        outcome = "done"
    except ServiceError as error:
        outcome = f"refused: {error.detail}"
        raise
    finally:
        note(trail, what, sender, outcome, found.who, found.whom)


def note(trail: Trail, what: str, sender: Sender, outcome: str, who: int | str = "", whom: int | str = "") -> None:
    """Note a decision that was made."""
    trail.note(what, outcome, who=str(who), whom=str(whom), address=sender.address)
