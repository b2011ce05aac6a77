"""Who may do what in Kafka: one rule per client and topic or group (ACLs). What no rule allows is forbidden."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from aiokafka.protocol.admin import CreateAclsRequest, CreateAclsRequestStruct
from aiokafka.protocol.api import Request

from .administration import administering
from .brokers import Brokers
from .clients import START_SECONDS, Unavailable, bounded

# The numbers of Kafka's protocol: org.apache.kafka.common.acl and .resource.
_RESOURCES = {"topic": 2, "group": 3}
_OPERATIONS = {"read": 3, "write": 4}
_ALLOW, _LITERAL, _PREFIXED = 3, 3, 4


class Rule(NamedTuple):
    """Client `user` may read or write the topic, or read as the group, of this name.

    A name that ends with `*` stands for all names that begin like it.
    """

    user: str
    operation: Literal["read", "write"]
    resource: Literal["topic", "group"]
    name: str


async def allow(brokers: Brokers | str, rules: Sequence[Rule]) -> None:
    """Add rules. One that exists already stays. Raises `Unavailable`."""
    async with administering(brokers) as admin:
        answer = await bounded(admin._send_request(_Create(rules)), START_SECONDS)
    if failed := {rule: text for rule, (code, text) in zip(rules, answer.creation_responses, strict=True) if code}:
        raise Unavailable(f"not allowed: {failed}")


class _Create(Request[CreateAclsRequestStruct]):  # type: ignore[misc]
    """aiokafka's own request has one rule. This has all."""

    API_KEY = CreateAclsRequest.API_KEY

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class.API_VERSION < 1:
            raise Unavailable("this version of Kafka is too old for rules with a prefix")
        return request_struct_class([_row(rule) for rule in self._rules])


def _row(rule: Rule) -> tuple[int, str, int, str, str, int, int]:
    pattern = _PREFIXED if rule.name.endswith("*") else _LITERAL
    name, user = rule.name.removesuffix("*"), f"User:{rule.user}"
    return _RESOURCES[rule.resource], name, pattern, user, "*", _OPERATIONS[rule.operation], _ALLOW
