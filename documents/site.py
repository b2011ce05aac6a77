"""Hooks of MkDocs (`mkdocs.yml`): the site has the documents of `docs/`, and those in the project's folder.

What must stay true: each link works in the repository and on the site, where the files of `docs/` are at the top.
"""

import re
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

PROJECT = Path(__file__).resolve().parent.parent
OUTSIDE = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CODE_OF_CONDUCT.md", "LICENSE"),
    "examples/shipping/README.md",
)
"""Files of the site that are not in `docs/`."""

_LINK = re.compile(r"(?<=\]\()[^)\s#:]+")


def on_files(files: Files, config: Any) -> Files:
    """Add the files that are not in `docs/`."""
    for name in OUTSIDE:
        files.append(File.generated(config, name, content=(PROJECT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Change the links of a page to those that are right on the site."""
    name = page.file.src_uri
    source = name if name in OUTSIDE else f"docs/{name}"
    return _LINK.sub(lambda found: moved(found[0], source), markdown)


def moved(link: str, source: str) -> str:
    """The link on the site for a link in the file `source`. A link to a folder leads to the page in it."""
    target = normpath(join(dirname(source), link))
    if (PROJECT / target).is_dir():
        page = "README.md" if (PROJECT / target / "README.md").exists() else "index.html"
        target = f"{target}/{page}"
    here, there = (path.removeprefix("docs/") for path in (source, target))
    return relpath(there, dirname(here) or ".")
