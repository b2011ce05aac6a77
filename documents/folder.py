"""The generated files of the project: writes them, or finds those that differ from the code."""

from collections.abc import Collection
from pathlib import Path

from documents import dashboards, events, kubernetes, openapi, page, settings

PROJECT = Path(__file__).resolve().parent.parent
DOCS = PROJECT / "docs"

# Folders in which every file with the suffix is generated.
_WHOLE = (
    (f"docs/{events.SCHEMAS}", events.SUFFIX),
    (dashboards.FOLDER, dashboards.SUFFIX),
    *((folder, kubernetes.SUFFIX) for folder in (kubernetes.BASE, kubernetes.PRODUCTION, kubernetes.IMAGES)),
)


def files() -> dict[str, str]:
    """All generated files, by their paths in the project."""
    documents = events.files() | page.files() | openapi.files()
    others = dashboards.files() | settings.files() | kubernetes.files()
    return {f"docs/{path}": text for path, text in documents.items()} | others


def drift(project: Path) -> list[str]:
    """Describe each file that differs from the code, is missing, or belongs to something that no longer exists."""
    wanted = files()
    missing = [path for path in wanted if not (project / path).exists()]
    differ = [path for path in wanted if path not in missing and (project / path).read_bytes() != wanted[path].encode()]
    return [
        *(f"{path} is missing" for path in missing),
        *(f"{path} differs from the code" for path in differ),
        *(f"{path} belongs to nothing in the code" for path in _stale(project, wanted)),
    ]


def write(project: Path) -> None:
    """Write all files, and delete those that belong to something that no longer exists."""
    wanted = files()
    for path, text in wanted.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_bytes(text.encode())
    for path in _stale(project, wanted):
        (project / path).unlink()


def _stale(project: Path, wanted: Collection[str]) -> list[str]:
    found = [path for folder, suffix in _WHOLE for path in sorted((project / folder).glob(f"*{suffix}"))]
    return [name for path in found if (name := path.relative_to(project).as_posix()) not in wanted]
