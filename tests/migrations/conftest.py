"""What the tests of the migrations share."""

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import MetaData

from migrations import metadata
from migrations.__main__ import SECTIONS
from tests.conftest import ROOT, Database, created

ROLES = [section for section in SECTIONS if section != "admin"]
SERVICES = [role for role in ROLES if role != "provider"]  # payments simulates the provider, with its own schema


async def migrate(database: Database, *arguments: str) -> None:
    order = [sys.executable, "-m", "migrations", *arguments]
    child = await asyncio.create_subprocess_exec(
        *order, cwd=ROOT, env=database.migration, stderr=asyncio.subprocess.PIPE
    )
    _, error = await child.communicate()
    assert child.returncode == 0, error.decode()


@pytest.fixture
async def empty(template: Database) -> AsyncIterator[Database]:
    """An empty database on the run's server."""
    async with created(template.port, "empty") as made:
        yield made


def metadata_of(section: str) -> MetaData:
    found = metadata.of(section)
    assert found is not None
    return found
