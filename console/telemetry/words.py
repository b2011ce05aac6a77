"""Turns what a person types into a query of FTS5: plain words, all of which must occur.

What must stay true: no text has a meaning as syntax, and none makes SQLite raise. A text with no letter and no digit
finds nothing.
"""

CHARACTERS, WORDS = 1000, 32


def query(text: str) -> str | None:
    """The MATCH expression, or None if there is no word to search. `a.b` finds `a` directly followed by `b`."""
    readable = "".join(c if c.isprintable() else " " for c in text[:CHARACTERS])
    words = readable.encode("utf-8", "replace").decode().split()[:WORDS]
    return " ".join('"' + word.replace('"', '""') + '"' for word in words) or None
