"""The links of all Markdown files lead somewhere: to a file, and to a heading of it. No network is needed."""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from posixpath import normpath

import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from documents.folder import DOCS, PROJECT

PARSER = MarkdownIt("commonmark").enable("table")


def markdown_files() -> list[Path]:
    folders = [path for path in PROJECT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted([*PROJECT.glob("*.md"), *(file for folder in folders for file in folder.rglob("*.md"))])


@pytest.mark.parametrize("file", markdown_files(), ids=lambda file: str(file.relative_to(PROJECT)))
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(file: Path) -> None:
    assert broken(file) == []


def test_a_link_to_nothing_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# One, two: `three`\n\n# One\n\n# One\n")
    links = [
        "a.md",
        "a.md#one-two-three",
        "a.md#one-1",
        "#here",
        "https://example.com/x",
        "./",
        "b.md",
        "a.md#two",
        "#no",
    ]
    file = tmp_path / "links.md"
    file.write_text("# Here\n\n" + "\n".join(f"[x]({link})" for link in links) + "\n\n![x](c.png) `[x](code.md)`\n")
    assert broken(file) == ["b.md", "a.md#two", "#no", "c.png"]


def test_every_decision_is_listed() -> None:
    folder = DOCS / "decisions"
    listed = set(links(PARSER.parse((folder / "README.md").read_text())))
    assert {path.name for path in folder.glob("0*.md")} - listed == set()


def test_every_page_is_in_the_book_and_on_the_site_in_the_same_order() -> None:
    own = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    pages = {name for name in own if not name.startswith("decisions/0")}
    chapters = links(PARSER.parse((DOCS / "contents.md").read_text()))
    book = [normpath(f"docs/{link}").removeprefix("docs/") for link in chapters]
    assert pages - {"contents.md"} <= set(book)
    assert book == [page for page in on_the_site() if page != "contents.md"][: len(book)]
    assert pages <= set(on_the_site())


def on_the_site() -> list[str]:
    """The pages of the site, in the order of its navigation."""
    text = (PROJECT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    return [page for entry in yaml.safe_load(text) for page in names(next(iter(entry.values())))]


def names(entry: str | list[dict[str, str]]) -> list[str]:
    return [entry] if isinstance(entry, str) else [page for one in entry for page in one.values()]


def broken(file: Path) -> list[str]:
    """The links of a file that lead to nothing."""
    return [link for link in links(PARSER.parse(file.read_text())) if ":" not in link and not exists(file, link)]


def exists(file: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (file.parent / path).resolve() if path else file
    return target.exists() and (not anchor or anchor in anchors(target))


def links(tokens: list[Token]) -> Iterator[str]:
    for token in tokens:
        if target := token.attrGet("href") or token.attrGet("src"):
            yield str(target)
        yield from links(token.children or [])


def anchors(file: Path) -> set[str]:
    """The anchors of the headings of a file, as a forge makes them: a repeated one gets a number."""
    tokens = PARSER.parse(file.read_text())
    titles = [text.content for opening, text in pairwise(tokens) if opening.type == "heading_open"]
    found, seen = set(), Counter[str]()
    for title in titles:
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found
