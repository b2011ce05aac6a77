"""The Markdown of the runbooks as HTML: paragraphs, lists, code, bold text, and links between runbooks.

What must stay true: all text is escaped first. Markdown that this module does not know is shown unchanged.
"""

import re
from collections.abc import Iterator
from itertools import groupby

from markupsafe import Markup, escape

_INLINE = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\[([^\]]+)\]\(#([\w-]+)\)")
_ITEM = re.compile(r"(?:-|[0-9]+\.) +")
_HEADING = re.compile(r"#{2,6} +")


def rendered(document: str) -> Markup:
    """The HTML of a document."""
    return Markup("\n").join(_blocks(document.splitlines()))


def inline(text: str) -> Markup:
    """The HTML of a line: code, bold text, and links to headings of the same document."""
    found, at = Markup(), 0
    for one in _INLINE.finditer(text):
        found += escape(text[at : one.start()]) + _marked(one)
        at = one.end()
    return found + escape(text[at:])


def _marked(one: re.Match[str]) -> Markup:
    code, bold, name, anchor = one.groups()
    if code is not None:
        return Markup("<code>{}</code>").format(code)
    if bold is not None:
        return Markup("<strong>{}</strong>").format(bold)
    return Markup('<a href="/console/runbooks/{}">{}</a>').format(anchor, name)


def _blocks(lines: list[str]) -> Iterator[Markup]:
    is_code, kept = False, list[str]()
    for line in [*lines, "```"] if sum(line.startswith("```") for line in lines) % 2 else lines:
        if not line.startswith("```"):
            kept.append(line)
            continue
        if is_code:
            yield _code(kept)
        else:
            yield from _text(kept)
        is_code, kept = not is_code, []
    yield from _text(kept)


def _text(lines: list[str]) -> Iterator[Markup]:
    for kind, group in groupby(_joined(lines), _kind):
        found = list(group)
        if kind == "table":
            yield _code(found)
        elif kind == "item":
            yield Markup("<ul>{}</ul>").format(Markup().join(_item(one) for one in found))
        elif kind == "heading":
            yield from (Markup("<h2>{}</h2>").format(inline(_HEADING.sub("", one))) for one in found)
        else:
            yield from (Markup("<p>{}</p>").format(inline(one)) for one in found)


def _joined(lines: list[str]) -> Iterator[str]:
    """Lines with those that continue them. A line in bold begins a paragraph, also without an empty line before it."""
    current = ""
    for line in [*lines, ""]:
        begins = not line.strip() or line.startswith(("**", "|")) or _ITEM.match(line) or _HEADING.match(line)
        if begins or current.startswith("|"):
            if current:
                yield current
            current = line.strip()
        else:
            current = f"{current} {line.strip()}" if current else line.strip()


def _kind(line: str) -> str:
    if line.startswith("|"):
        return "table"
    if _HEADING.match(line):
        return "heading"
    return "item" if _ITEM.match(line) else "paragraph"


def _item(line: str) -> Markup:
    return Markup("<li>{}</li>").format(inline(_ITEM.sub("", line, count=1)))


def _code(lines: list[str]) -> Markup:
    return Markup('<pre tabindex="0">{}</pre>').format("\n".join(lines))
