"""Expand, migrate, contract: a revision that would break the code of the release before says that it contracts.

The statements of each revision are rendered, and squawk looks for those that older code can notice.
"""

import io
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from alembic import op
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory

from migrations.__main__ import SECTIONS
from tests.conftest import ROOT

SQUAWK = Path(sys.executable).with_name("squawk")
BREAKING = {
    "adding-not-nullable-field",
    "adding-required-field",
    "ban-drop-column",
    "ban-drop-constraint",
    "ban-drop-database",
    "ban-drop-default",
    "ban-drop-function",
    "ban-drop-schema",
    "ban-drop-sequence",
    "ban-drop-table",
    "ban-drop-view",
    "ban-truncate-cascade",
    "changing-column-type",
    "constraint-missing-not-valid",
    "renaming-column",
    "renaming-table",
}
"""Rules of squawk about what older code cannot live with. Its other rules are about locks and style."""
BEFORE_THE_RULE = {"auth_0004"}
READS_ROWS = {"products_0003"}
"""They read rows, so they cannot be rendered. They change no table."""


def revisions() -> dict[str, ModuleType]:
    scripts = [ScriptDirectory.from_config(Config(ROOT / "alembic.ini", ini_section=name)) for name in SECTIONS]
    return {one.revision: one.module for script in scripts for one in script.walk_revisions()}


def rendered(module: ModuleType | SimpleNamespace) -> str:
    """The statements of a revision's upgrade."""
    out = io.StringIO()
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True, "output_buffer": out})
    with Operations.context(context):
        module.upgrade()
    return out.getvalue()


def complaints(files: list[Path]) -> dict[str, set[str]]:
    """By name of the file without its ending, the breaking rules that squawk found."""
    command = [str(SQUAWK), "--pg-version=17", "--reporter=json", *map(str, files)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own program
    found: dict[str, set[str]] = {}
    for one in json.loads(done.stdout):
        if one["rule_name"] in BREAKING:
            found.setdefault(Path(one["file"]).stem, set()).add(one["rule_name"])
    return found


def test_only_a_revision_that_contracts_breaks_the_code_of_the_release_before(tmp_path: Path) -> None:
    modules = revisions()
    files = [tmp_path / f"{name}.sql" for name in sorted(modules.keys() - READS_ROWS)]
    for file in files:
        file.write_text(rendered(modules[file.stem]))
    contracting = {name for name, module in modules.items() if getattr(module, "phase", "expand") == "contract"}
    assert len(files) > 25
    assert complaints(files).keys() - contracting == BEFORE_THE_RULE


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("alter table orders drop column note", "ban-drop-column"),
        ("alter table orders rename column note to notes", "renaming-column"),
        ("alter table orders alter column reason set not null", "adding-not-nullable-field"),
        ("alter table orders add column gift text not null", "adding-required-field"),
        ("alter table orders add constraint positive check (quantity > 1)", "constraint-missing-not-valid"),
        ("drop function lock_keys(integer[])", "ban-drop-function"),
    ],
)
def test_a_statement_that_breaks_older_code_is_found(tmp_path: Path, statement: str, rule: str) -> None:
    file = tmp_path / "one.sql"
    file.write_text(rendered(SimpleNamespace(upgrade=lambda: op.execute(statement))))
    assert complaints([file]) == {"one": {rule}}


def test_a_new_column_breaks_nothing(tmp_path: Path) -> None:
    file = tmp_path / "one.sql"
    file.write_text("alter table orders add column gift text; alter table orders add column n int not null default 0;")
    assert complaints([file]) == {}
