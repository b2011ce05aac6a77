"""Parses the part of PromQL that the alert rules and the dashboards use.

What must stay true: an expression that this part does not cover is refused when it is loaded, with the reason. It is
never evaluated to something else than in Prometheus.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from shared import errors

T = TypeVar("T")


class BadExpression(errors.Invalid):
    """The expression is wrong, or uses a part of PromQL that is not supported. The text says which."""


@dataclass(frozen=True, slots=True)
class Number:
    value: float


@dataclass(frozen=True, slots=True)
class Matcher:
    """A condition on a label: `=`, `!=`, `=~` or `!~`. A pattern must match the whole value."""

    label: str
    operator: str
    value: str

    def accepts(self, value: str) -> bool:
        match self.operator:
            case "=":
                return value == self.value
            case "!=":
                return value != self.value
            case "=~":
                return re.fullmatch(self.value, value, re.DOTALL) is not None
            case _:
                return re.fullmatch(self.value, value, re.DOTALL) is None


@dataclass(frozen=True, slots=True)
class Selector:
    """Series by name and labels. With `range_seconds` it yields all samples of that time."""

    name: str
    matchers: tuple[Matcher, ...] = ()
    range_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Call:
    function: str
    arguments: tuple["Node", ...]


@dataclass(frozen=True, slots=True)
class Aggregation:
    """`sum by (labels) (inner)`; with `without`, the labels are those that are left out."""

    operator: str
    inner: "Node"
    labels: tuple[str, ...] = ()
    without: bool = False


@dataclass(frozen=True, slots=True)
class Binary:
    """Two sides that are matched on all labels, on the labels `on`, or on all labels but `ignoring`."""

    operator: str
    left: "Node"
    right: "Node"
    on: tuple[str, ...] | None = None
    ignoring: tuple[str, ...] = ()


Node: TypeAlias = Number | Selector | Call | Aggregation | Binary

RANGE, VECTOR, SCALAR = "range", "vector", "scalar"
FUNCTIONS: dict[str, tuple[str, ...]] = {
    "rate": (RANGE,),
    "increase": (RANGE,),
    "max_over_time": (RANGE,),
    "min_over_time": (RANGE,),
    "avg_over_time": (RANGE,),
    "histogram_quantile": (SCALAR, VECTOR),
    "absent": (VECTOR,),
    "clamp_min": (VECTOR, SCALAR),
    "vector": (SCALAR,),
    "time": (),
}
"""The functions, with the kinds of their arguments."""
AGGREGATIONS = ("sum", "max", "min", "count", "avg")
COMPARISONS = ("==", "!=", ">", "<", ">=", "<=")
SETS = ("and", "or", "unless")
_PRECEDENCE = [("or",), ("and", "unless"), COMPARISONS, ("+", "-"), ("*", "/")]

_TOKEN = re.compile(
    r"""\s*(?:(?P<number>(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+)(?![\w.]))
    |(?P<duration>(?:\d+(?:ms|[smhdw]))+(?!\w))
    |(?P<word>[a-zA-Z_:][\w:]*)
    |(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
    |(?P<sign>=~|!~|==|!=|>=|<=|[-+*/%^><=(){}\[\],@]))""",
    re.VERBOSE,
)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_ESCAPE = re.compile(r"\\(.)")
_RESERVED = {*SETS, "inf", "nan", "on", "ignoring", "by", "without", "bool", "group_left", "group_right", "offset"}
_MAX_LENGTH, _MAX_DEPTH = 4_000, 50


def parse(text: str) -> Node:
    """Parse an expression. Raises `BadExpression`."""
    if len(text) > _MAX_LENGTH:
        raise BadExpression(f"an expression has at most {_MAX_LENGTH} characters")
    return _Parser(text).whole()


def seconds(text: str) -> float:
    """The seconds of a duration like `1h30m`. Raises `BadExpression`."""
    parts = re.findall(r"(\d+)(ms|[smhdw])", text)
    if not parts or "".join(map("".join, parts)) != text:
        raise BadExpression(f"{text!r} is not a duration like 1h30m")
    return sum(int(count) * _UNITS[unit] for count, unit in parts)


def kind(node: Node) -> str:
    """The kind of a node's result: a scalar, a vector, or a range of samples for each series."""
    match node:
        case Number():
            return SCALAR
        case Selector():
            return VECTOR if node.range_seconds is None else RANGE
        case Call():
            return SCALAR if node.function == "time" else VECTOR
        case Aggregation():
            return VECTOR
        case Binary():
            return SCALAR if kind(node.left) == kind(node.right) == SCALAR else VECTOR


def walk(node: Node) -> list[Node]:
    """The node and all nodes below it."""
    match node:
        case Call():
            below = [inner for argument in node.arguments for inner in walk(argument)]
        case Aggregation():
            below = walk(node.inner)
        case Binary():
            below = walk(node.left) + walk(node.right)
        case _:
            below = []
    return [node, *below]


class _Parser:
    """Recursive descent, one method for each kind of expression."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = self._depth = 0

    def whole(self) -> Node:
        node = self._binary(0)
        if self._peek()[1]:
            raise self._unexpected()
        if kind(node) == RANGE:
            raise BadExpression("a range of samples must be within a function like rate")
        return node

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at]

    def _take(self, *wanted: str) -> str:
        """Take the next token if it is one of `wanted`, otherwise return an empty text."""
        if self._peek()[0] == "text" or self._peek()[1] not in wanted:
            return ""
        self._at += 1
        return self._tokens[self._at - 1][1]

    def _expect(self, wanted: str) -> None:
        if not self._take(wanted):
            raise self._unexpected(wanted)

    def _of_kind(self, kind_: str) -> str:
        found, text = self._peek()
        if found != kind_:
            raise self._unexpected(f"a {kind_}")
        self._at += 1
        return text

    def _unexpected(self, wanted: str = "") -> BadExpression:
        found = self._peek()[1] or "the end"
        return BadExpression(f"unexpected {found}" + (f", expected {wanted}" if wanted else " (or not supported)"))

    def _binary(self, level: int) -> Node:
        if level == len(_PRECEDENCE):
            return self._unary()
        self._depth += 1
        if self._depth > _MAX_DEPTH * len(_PRECEDENCE):
            raise BadExpression(f"parentheses are nested at most {_MAX_DEPTH} deep")
        left = self._binary(level + 1)
        while operator := self._take(*_PRECEDENCE[level]):
            on, ignoring = self._matching()
            left = _checked(Binary(operator, left, self._binary(level + 1), on, ignoring))
        self._depth -= 1
        return left

    def _matching(self) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
        match self._take("on", "ignoring", "bool"):
            case "on":
                found: tuple[tuple[str, ...] | None, tuple[str, ...]] = self._names(), ()
            case "ignoring":
                found = None, self._names()
            case "bool":
                raise BadExpression("bool is not supported")
            case _:
                return None, ()
        if self._peek()[1] in {"group_left", "group_right"}:
            raise BadExpression(f"{self._peek()[1]} is not supported")
        return found

    def _unary(self) -> Node:
        if self._take("-"):
            inner = self._primary()
            return Number(-inner.value) if isinstance(inner, Number) else _checked(Binary("*", Number(-1.0), inner))
        node = self._primary()
        if self._peek()[1] in {"offset", "@", "^", "%"}:
            raise BadExpression(f"{self._peek()[1]} is not supported")
        return node

    def _primary(self) -> Node:
        found, text = self._peek()
        if self._take("("):
            node = self._binary(0)
            self._expect(")")
            if self._peek()[1] == "[":
                raise BadExpression("subqueries are not supported")
            return node
        if found == "number":
            self._at += 1
            return Number(float(text))
        if found != "word" or text.lower() in _RESERVED:
            raise self._unexpected()
        self._at += 1
        if text in AGGREGATIONS and self._peek()[1] in {"(", "by", "without"}:
            return self._aggregation(text)
        if self._peek()[1] == "(":
            return self._call(text)
        return self._selector(text)

    def _aggregation(self, operator: str) -> Node:
        how = self._take("by", "without")
        labels = self._names() if how else ()
        self._expect("(")
        inner = self._binary(0)
        self._expect(")")
        if not how and (how := self._take("by", "without")):
            labels = self._names()
        _require(operator, inner, VECTOR)
        return Aggregation(operator, inner, labels, how == "without")

    def _call(self, function: str) -> Node:
        if function not in FUNCTIONS:
            raise BadExpression(
                f"the function {function} is not supported; supported are {', '.join(sorted(FUNCTIONS))}"
            )
        arguments = self._list(lambda: self._binary(0), "(", ")")
        wanted = FUNCTIONS[function]
        if len(arguments) != len(wanted):
            raise BadExpression(f"{function} takes {len(wanted)} arguments")
        for argument, kind_ in zip(arguments, wanted, strict=True):
            _require(function, argument, kind_)
        return Call(function, tuple(arguments))

    def _selector(self, name: str) -> Node:
        matchers = tuple(self._list(self._matcher, "{", "}")) if self._peek()[1] == "{" else ()
        if not self._take("["):
            return Selector(name, matchers)
        range_seconds = seconds(self._of_kind("duration"))
        if self._peek()[1].startswith(":"):
            raise BadExpression("subqueries are not supported")
        self._expect("]")
        return Selector(name, matchers, range_seconds)

    def _matcher(self) -> Matcher:
        label = self._of_kind("word")
        operator = self._take("=", "!=", "=~", "!~")
        if not operator:
            raise self._unexpected("=, !=, =~ or !~")
        value = _ESCAPE.sub(lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), self._of_kind("text")[1:-1])
        if "~" in operator:
            try:
                re.compile(value)
            except re.error as error:
                raise BadExpression(f"{value!r} is not a pattern: {error}") from error
        return Matcher(label, operator, value)

    def _names(self) -> tuple[str, ...]:
        return tuple(self._list(lambda: self._of_kind("word"), "(", ")"))

    def _list(self, item: Callable[[], T], start: str, end: str) -> list[T]:
        self._expect(start)
        found: list[T] = []
        while not self._take(end):
            found.append(item())
            if not self._take(","):
                self._expect(end)
                break
        return found


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at, text = [], 0, text.rstrip()
    while at < len(text):
        token = _TOKEN.match(text, at)
        if token is None or token.lastgroup is None:
            raise BadExpression(f"cannot read {text[at : at + 20]!r}")
        found.append((token.lastgroup, token[token.lastgroup]))
        at = token.end()
    return [*found, ("end", "")]


def _require(by: str, node: Node, wanted: str) -> None:
    if kind(node) != wanted:
        raise BadExpression(f"{by} needs a {wanted}, not a {kind(node)}")


def _checked(node: Binary) -> Binary:
    kinds = {kind(node.left), kind(node.right)}
    if RANGE in kinds:
        raise BadExpression("a range of samples must be within a function like rate")
    if node.operator in SETS and SCALAR in kinds:
        raise BadExpression(f"{node.operator} needs vectors on both sides")
    if node.operator in COMPARISONS and kinds == {SCALAR}:
        raise BadExpression("a comparison of two scalars needs bool, which is not supported")
    if SCALAR in kinds and (node.on is not None or node.ignoring):
        raise BadExpression("on and ignoring need vectors on both sides")
    return node
