"""Reads a Prometheus rules file with alerts. A rule that the console cannot evaluate makes the reading fail."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from console.metering import language
from console.metering.language import BadExpression

SEVERITIES = ("page", "info")
_RULE_KEYS = {"alert", "expr", "for", "labels", "annotations"}
_PLACE = re.compile(r"\{\{\s*(?:\$labels\.(?P<label>\w+)|\$value|printf\s+\"%\.(?P<digits>\d)f\"\s+\$value)\s*\}\}")


@dataclass(frozen=True)
class Rule:
    """One alert rule. Its texts are templates: `{{ $labels.x }}`, `{{ $value }}`, `{{ printf "%.1f" $value }}`."""

    name: str
    expr: str
    for_seconds: float
    severity: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    @property
    def summary(self) -> str:
        return self.annotations["summary"]

    @property
    def runbook(self) -> str:
        """The anchor of its heading in docs/operations.md."""
        return self.annotations["runbook_url"].partition("#")[2]


class WrongRules(Exception):
    """The rules file cannot be used. The text names the rule and the reason."""


def read(path: Path) -> list[Rule]:
    """Read all rules of a file. Raises `WrongRules`."""
    try:
        content = yaml.safe_load(path.read_text())
        return [_rule(rule) for group in content["groups"] for rule in group["rules"]]
    except (OSError, yaml.YAMLError, KeyError, TypeError, BadExpression, ValueError) as error:
        raise WrongRules(f"{path.name}: {error}") from error


def _rule(content: Mapping[str, Any]) -> Rule:
    name = content.get("alert") or "a rule that is no alert"
    if unknown := content.keys() - _RULE_KEYS:
        raise ValueError(f"{name}: not supported: {', '.join(sorted(unknown))}")
    try:
        language.parse(content["expr"])
        for_seconds = language.seconds(str(content["for"])) if content.get("for") else 0.0
    except BadExpression as error:
        raise ValueError(f"{name}: {error}") from error
    labels, annotations = dict(content["labels"]), dict(content["annotations"])
    if labels["severity"] not in SEVERITIES:
        raise ValueError(f"{name}: severity is one of {', '.join(SEVERITIES)}")
    for text in annotations.values():
        _check(name, text)
    if missing := {"summary", "description", "runbook_url"} - annotations.keys():
        raise ValueError(f"{name}: annotations are missing: {', '.join(sorted(missing))}")
    return Rule(name, content["expr"], for_seconds, labels["severity"], labels, annotations)


def _check(name: str, template: str) -> None:
    if "{{" in _PLACE.sub("", template):
        raise ValueError(f"{name}: this template is not supported: {template!r}")


def filled(template: str, labels: Mapping[str, str], value: float) -> str:
    """The text of a template. A label that does not exist is an empty text."""

    def fill(found: re.Match[str]) -> str:
        if found["label"]:
            return labels.get(found["label"], "")
        return plain(value) if found["digits"] is None else f"{value:.{found['digits']}f}"

    return _PLACE.sub(fill, template)


def plain(value: float) -> str:
    """A number as Prometheus' templates print it: no exponent below 10^21."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    text = repr(value)
    return format(Decimal(text), "f") if "e+" in text and abs(value) < 1e21 else text
