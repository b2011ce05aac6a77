"""One line `audit` about each decision on access: what, who, on whom, from where, and the outcome.

What must stay true: a line has ids and addresses, but no names and no secrets.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from auth.domain import Sender
from shared.errors import ServiceError

log = structlog.get_logger()


@dataclass(slots=True)
class Decision:
    """The ids of who asks, and of whom it is about. They may become known while the decision is made."""

    who: int | str = ""
    whom: int | str = ""


@contextmanager
def decision(what: str, sender: Sender, who: int | str = "", whom: int | str = "") -> Iterator[Decision]:
    """Log a line when the block ends: it is done, or refused because of a `ServiceError`, or failed."""
    found, outcome = Decision(who, whom), "failed"
    try:
        yield found
        outcome = "done"
    except ServiceError as error:
        outcome = f"refused: {error.detail}"
        raise
    finally:
        line(what, sender, outcome, found.who, found.whom)


def line(what: str, sender: Sender, outcome: str, who: int | str = "", whom: int | str = "") -> None:
    """Log a line about a decision that was made."""
    log.info("audit", what=what, who=str(who), whom=str(whom), address=sender.address, outcome=outcome)
