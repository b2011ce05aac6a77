"""Reads Prometheus' text format.

A service sends the same names and labels at every scrape. So a line is only split here, and the caller reads a series'
name and labels once, when it first appears.
"""

import re
from collections.abc import Iterator, Mapping

Labels = Mapping[str, str]

_SERIES = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?")
_CREATED = re.compile(r"[a-zA-Z0-9_:]*_created[{ ]")
_LABEL = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_ESCAPE = re.compile(r"\\(.)")
_MEANS = {"n": "\n"}


def lines(text: str) -> Iterator[tuple[str, str]]:
    """The series and the value of each sample, both as text. The times at which series were created are left out."""
    for line in text.split("\n"):
        if line and line[0] != "#" and not ("_created" in line and _CREATED.match(line)):
            series, _, value = line.rstrip().rpartition(" ")
            yield series.rstrip(), value


def labels(series: str) -> dict[str, str] | None:
    """The labels of a series, with its name as `__name__`. None if the text is not a series."""
    found = _SERIES.fullmatch(series)
    if found is None:
        return None
    read = {"__name__": found[1]}
    rest, at = found[2] or "", 0
    while at < len(rest):
        label = _LABEL.match(rest, at)
        if label is None:
            return None
        read[label[1]] = _ESCAPE.sub(lambda escape: _MEANS.get(escape[1], escape[1]), label[2])
        at = label.end()
    return read


def number(text: str) -> float | None:
    """The number of a sample, or None. Infinity is written `+Inf`."""
    try:
        return float(text)
    except ValueError:
        return None
