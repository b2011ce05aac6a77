"""Pydantic types for requests, and the sentence that names the wrong field.

What must stay true: a type accepts exactly what its JSON Schema in the OpenAPI document allows. `1.0` and `true` are no
integers, a text has no NUL (Postgres cannot store it), digits are ASCII.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

QUERY = ConfigDict(frozen=True, extra="forbid")
LENIENT_QUERY = ConfigDict(frozen=True, extra="ignore")
"""Unknown parameters are ignored."""
ANSWER = ConfigDict(frozen=True, serialize_by_alias=True, validate_by_name=True)

MAX_ID = 2**63 - 1
INVALID_JSON = "invalid json"

_DIGITS = re.compile(r"[0-9]{1,19}", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,2}(\.[0-9]{1,3})?", re.ASCII)
_TIME = re.compile(r"[0-9-]{10}T[0-9:]{5,8}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})", re.ASCII)
_WITHOUT_NUL = "^[^\\u0000]*$"
# The characters that str.strip() removes, listed, because regular expression engines disagree about \s.
_BLANKS = "\\u0009-\\u000d\\u001c-\\u0020\\u0085\\u00a0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000"
_NOT_BLANK = f"^[^\\u0000]*[^\\u0000{_BLANKS}][^\\u0000]*$"


def request_like(example: dict[str, Any], *, lenient: bool = False) -> ConfigDict:
    """The configuration of a body: no type conversions, no unknown fields. The document shows `example`.

    A `lenient` body may have unknown fields, and a value of a wrong type is answered with `INVALID_JSON`.
    """
    extra: Literal["ignore", "forbid"] = "ignore" if lenient else "forbid"
    return ConfigDict(strict=True, frozen=True, extra=extra, json_schema_extra={"examples": [example]})


def _no_nul(value: str) -> str:
    if "\x00" in value:
        raise PydanticCustomError("nul", "must not contain NUL")
    return value


Text = Annotated[str, AfterValidator(_no_nul), Field(json_schema_extra={"pattern": _WITHOUT_NUL})]
"""A text that Postgres can store."""


def _moment(value: Any) -> datetime:
    try:
        if isinstance(value, str) and _TIME.fullmatch(value):
            return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise PydanticCustomError("moment", "must be a time with its zone, such as 2026-01-31T12:00:00Z")


Moment = Annotated[datetime, BeforeValidator(_moment)]
"""A time with its zone, as text. Pydantic alone would read 2026 as a number of seconds since 1970."""


@dataclass(frozen=True)
class Line:
    """`Annotated[str, Line(128)]` is a text of 1 to 128 characters, counted after blanks at both ends are removed."""

    most: int

    def __get_pydantic_core_schema__(self, _: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._read, handler(str))

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "minLength": 1, "maxLength": self.most, "pattern": _NOT_BLANK}

    def _read(self, value: str) -> str:
        line = _no_nul(value).strip()
        if not line:
            raise PydanticCustomError("required", "is required")
        if len(line) > self.most:
            raise PydanticCustomError("line_too_long", f"must have at most {self.most} characters")
        return line


@dataclass(frozen=True)
class Digits:
    """`Annotated[int, Digits(1, 100)]` is an integer of that range, written in ASCII digits in a query."""

    least: int
    most: int

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(
            self._read, core_schema.int_schema(ge=self.least, le=self.most)
        )

    def _read(self, value: Any) -> int:
        if not _DIGITS.fullmatch(str(value)) or not self.least <= int(value) <= self.most:
            raise PydanticCustomError("digits", f"must be an integer from {self.least} to {self.most}")
        return int(value)


@dataclass(frozen=True)
class Seconds:
    """`Annotated[float, Seconds(30)]` is a number of seconds from 0 to 30 in a query, with at most three decimals.

    `most` must be a multiple of ten below a hundred; the pattern in the document depends on it.
    """

    most: int

    def __get_pydantic_core_schema__(self, _: Any, __: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._read, core_schema.float_schema())

    def __get_pydantic_json_schema__(self, _: CoreSchema, __: GetJsonSchemaHandler) -> dict[str, Any]:
        """The schema is a pattern and not a number, because a number could be written as 1e-05."""
        below = rf"^[0-{self.most // 10 - 1}]?[0-9](\.[0-9]{{1,3}})?$"
        return {"type": "string", "pattern": f"{below}|^{self.most}$", "description": f"seconds, at most {self.most}"}

    def _read(self, value: Any) -> float:
        if not _SECONDS.fullmatch(str(value)) or float(value) > self.most:
            raise PydanticCustomError("seconds", f"must be a number of seconds from 0 to {self.most}")
        return float(value)


T = TypeVar("T")
Optional = Annotated[T | None, Field(exclude_if=lambda value: value is None)]
"""A field of an answer that is left out if it has no value."""

Cursor = Annotated[int, Digits(1, MAX_ID)]
Limit = Annotated[int, Digits(1, 100)]


def sentence(error: ValidationError, model: type[BaseModel], *, in_json: bool) -> str:
    """One sentence about the first wrong field of `model`. A wrong type in a lenient body is `INVALID_JSON`."""
    found = error.errors(include_url=False)
    if in_json and is_lenient(model) and any(e["type"] in _WRONG_KIND and e["input"] is not None for e in found):
        return INVALID_JSON
    first = found[0]
    name = ".".join(map(str, first["loc"])) or "the body"
    if first["type"] == "extra_forbidden":
        known = ", ".join(field.alias or own for own, field in model.model_fields.items())
        return f"{name:.100} is unknown here; known are: {known}"
    return f"{name} {_reason(first)}"


def is_lenient(model: type[BaseModel]) -> bool:
    """True if unknown fields are ignored."""
    return model.model_config.get("extra") != "forbid"


_WRONG_KIND = {"string_type", "int_type", "bool_type", "list_type", "dict_type", "model_type", "nul"}


_SENTENCES = {
    "string_type": "must be a text",
    "int_type": "must be an integer",
    "bool_type": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be an object",
    "greater_than": "must be > {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
}


def _reason(error: Any) -> str:
    if error["type"] == "missing" or error["input"] is None:
        return "is required"
    reason = _SENTENCES.get(error["type"])
    return reason.format(**error.get("ctx", {})).replace("'", "") if reason else str(error["msg"])
