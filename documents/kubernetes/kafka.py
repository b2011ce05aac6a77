"""Topics and users of Kafka, for Strimzi's operators: those of `contracts/topics.py` and `contracts/access.py`."""

from contracts import access, topics
from documents.kubernetes.parts import PART_OF, Manifest
from shared.delivery.kafka import Rule

CLUSTER = "kafka"
_STRIMZI = "kafka.strimzi.io/v1"
_OPERATIONS = {"read": "Read", "write": "Write"}


def manifests() -> list[Manifest]:
    return [*map(_topic, topics.configurations().items()), *map(_user, access.USERS)]


def _topic(wanted: tuple[str, dict[str, str]]) -> Manifest:
    """One partition and one copy here. The overlays set both."""
    name, config = wanted
    return {
        "apiVersion": _STRIMZI,
        "kind": "KafkaTopic",
        "metadata": _metadata(name),
        "spec": {"partitions": 1, "replicas": 1, "config": config},
    }


def _user(name: str) -> Manifest:
    """The operator makes the password, and keeps it in the Secret `kafka-<name>`."""
    acls = [_acl(rule) for rule in access.rules() if rule.user == name]
    return {
        "apiVersion": _STRIMZI,
        "kind": "KafkaUser",
        "metadata": _metadata(name),
        "spec": {
            "authentication": {"type": "scram-sha-512"},
            "authorization": {"type": "simple", "acls": acls},
        },
    }


def _acl(rule: Rule) -> Manifest:
    pattern = "prefix" if rule.name.endswith("*") else "literal"
    resource = {"type": rule.resource, "name": rule.name.removesuffix("*"), "patternType": pattern}
    return {"resource": resource, "operations": [_OPERATIONS[rule.operation]], "host": "*"}


def _metadata(name: str) -> Manifest:
    return {"name": name, "labels": {"strimzi.io/cluster": CLUSTER, **PART_OF}}
