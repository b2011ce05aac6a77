"""Test files that share a whole stack. A parallel run keeps them together; any other file is a group of its own."""

from contextlib import ExitStack

import pytest

FILES = {
    "restarts": ("test_rolling", "test_saga", "test_people", "test_access", "test_prices", "test_keys"),
    "faults": ("test_kills", "test_scale", "test_freezes", "test_deadline", "test_provider", "test_poison"),
    "input": ("test_openapi", "test_corpus"),
}
_OF = {name: group for group, names in FILES.items() for name in names}

LIFETIME = ExitStack()
"""What ends when the next test belongs to another group. An idle stack would use a seventh of a core until the end."""


def of(item: pytest.Item) -> str:
    return _OF.get(item.path.stem, item.path.stem)
