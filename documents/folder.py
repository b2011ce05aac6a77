"""The folder `docs/`: writes the generated documents, or finds those that differ from the code."""

from pathlib import Path

from documents import events, openapi

DOCS = Path(__file__).resolve().parent.parent / "docs"


def files() -> dict[str, str]:
    """All generated documents, by their paths under `docs/`."""
    return events.files() | openapi.files()


def drift(docs: Path) -> list[str]:
    """Describe each document that differs from the code, is missing, or belongs to an event that no longer exists."""
    wanted = files()
    missing = [path for path in wanted if not (docs / path).exists()]
    differ = [path for path in wanted if path not in missing and (docs / path).read_bytes() != wanted[path].encode()]
    return [
        *(f"{path} is missing" for path in missing),
        *(f"{path} differs from the code" for path in differ),
        *(f"{path} belongs to no event" for path in _stale(docs)),
    ]


def write(docs: Path) -> None:
    """Write all documents, and delete the schemas of events that no longer exist."""
    for path, text in files().items():
        (docs / path).parent.mkdir(parents=True, exist_ok=True)
        (docs / path).write_bytes(text.encode())
    for path in _stale(docs):
        (docs / path).unlink()


def _stale(docs: Path) -> list[str]:
    found = sorted(path.relative_to(docs).as_posix() for path in (docs / events.SCHEMAS).glob(f"*{events.SUFFIX}"))
    return [path for path in found if path not in events.files()]
