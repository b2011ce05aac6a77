"""A rolling update under load loses no request, also when the schema changes first. `make rollouts` does 20 of them."""

from tests.acceptance.client import unexpected
from tests.acceptance.conftest import System
from tests.acceptance.rollouts import ANSWERS, rehearse, report

SERVICES = ("orders",)


async def test_a_rollout_with_a_change_of_the_schema_loses_no_request(system: System) -> None:
    history = await rehearse(system, 1, SERVICES, pre_stop=0.2)
    assert unexpected(history, *ANSWERS, lag=system.lag) == [], report(system, history)
    assert len(history) > 50
