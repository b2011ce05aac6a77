"""A plugin for a parallel run: the tests of a group stay on one worker, and long groups start first.

pytest-xdist's own `loadgroup` does not work with this version of pytest, which ignores the changed ids of its items.
"""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests import groups


class GroupScheduling(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        return groups.of(nodeid)


def pytest_configure(config: pytest.Config) -> None:
    config.option.loadscopereorder = False


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> GroupScheduling:
    return GroupScheduling(config, log)
