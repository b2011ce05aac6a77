"""The SQL and the commands of the runbooks run: the SQL against the migrated schemas, the commands up to their help."""

import re
import shlex

import asyncpg
import pytest
from typer.testing import CliRunner

from local.__main__ import app as local
from migrations.__main__ import SECTIONS
from migrations.__main__ import app as migrations
from quickbite.__main__ import app as quickbite
from tests.conftest import ROOT, Database

TEXT = (ROOT / "docs" / "operations.md").read_text()
SQL = re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL)
APPS = {"quickbite": quickbite, "migrations": migrations, "local": local}
COMMANDS = sorted(set(re.findall(r"python -m (quickbite|migrations|local) ([a-z][^`\n;)]+)", TEXT)))


def test_there_are_runbooks_with_sql_and_commands() -> None:
    assert len(SQL) >= 4
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize("sql", SQL)
async def test_the_sql_of_a_runbook_runs(database: Database, sql: str) -> None:
    conn = await asyncpg.connect(database.admin_url)
    async with conn.transaction():
        await conn.execute(f"set local search_path = {', '.join(name for name in SECTIONS if name != 'admin')}")
        await conn.execute(sql)
    await conn.close()


@pytest.mark.parametrize(("program", "command"), COMMANDS)
def test_the_commands_of_a_runbook_and_their_options_exist(program: str, command: str) -> None:
    words = shlex.split(command)
    groups = [word for word in words[: 2 if program == "quickbite" else 1] if word.isidentifier()]
    shown = CliRunner().invoke(APPS[program], [*groups, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert shown.exit_code == 0, shown.output
    for option in (word for word in words if word.startswith("--") and word != "--help"):
        assert option in shown.output
