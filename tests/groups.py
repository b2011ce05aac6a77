"""Test files that share a whole stack. A parallel run keeps them together; any other file is a group of its own."""

from contextlib import ExitStack
from pathlib import Path

FILES = {
    "restarts": (
        *("test_rolling", "test_upgrade", "test_saga", "test_people", "test_access", "test_prices", "test_keys"),
        "test_secrets",
        "test_smoke",
    ),
    "faults": ("test_kills", "test_scale", "test_freezes", "test_deadline", "test_provider", "test_poison"),
    "input": ("test_openapi", "test_corpus"),
    "browser": ("test_console_flows", "test_console_accessibility", "test_api_pages", "test_storefront_flows"),
}
_ORDER = [*FILES, "test_shipping", "test_gateway", "test_shared_subscription", "test_shared_relay"]
_OF = {name: group for group, names in FILES.items() for name in names}

LIFETIME = ExitStack()
"""What ends when the next test belongs to another group. An idle stack would use a seventh of a core until the end."""


def of(nodeid: str) -> str:
    """The group of a test, from an id such as `tests/unit/test_a.py::test_b`."""
    file = Path(nodeid.split("::", 1)[0]).stem
    return _OF.get(file, file)


def rank(group: str) -> int:
    """Where a group stands in a parallel run: those that take long come first."""
    return _ORDER.index(group) if group in _ORDER else len(_ORDER)
