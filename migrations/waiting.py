"""Waits until the schemas are new enough for the code: a pod of a service does it before its process starts.

`announce` writes the revision of each schema into its comment, at the very end of `up`. Every role can read comments,
so a service needs no right on Alembic's table. What must stay true: a revision that this code does not know is newer,
because migrations are never deleted. So the code of an earlier release starts on a newer schema.
"""

import asyncio
from collections.abc import Sequence

import asyncpg
import structlog
from alembic.config import Config
from alembic.script import ScriptDirectory
from pydantic import SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.process.configuration import with_password

log = structlog.get_logger()

_EVERY_SECONDS = 1.0
_COMMENT = "select obj_description(to_regnamespace($1), 'pg_namespace')"
_NOT_YET = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
"""What connecting raises while the server starts, or while it does not know the role or its password."""


class Settings(BaseSettings):
    """The database as a service knows it."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, use_attribute_docstrings=True)

    database_url: str
    """The database, with the role of a service whose schema must be new enough."""
    database_password: SecretStr = SecretStr("")
    """The password of the role in `DATABASE_URL`, if that has none. It may have any character."""

    @property
    def database(self) -> str:
        return with_password(self.database_url, self.database_password.get_secret_value())


async def announce(url: str, sections: Sequence[str]) -> None:
    """Write the revision of each section into the comment of its schema."""
    conn = await asyncpg.connect(url, timeout=10)
    try:
        for section in sections:
            revision = await conn.fetchval(f"select version_num from {section}.alembic_version")
            await conn.execute(f"comment on schema {section} is '{revision}'")
    finally:
        await conn.close()


async def wait(url: str, scripts: dict[str, ScriptDirectory]) -> None:
    """Return when every schema of `scripts` has their newest revision, or one that they do not know."""
    reason = ""
    while found := await _missing(url, scripts):
        if found != reason:
            log.info("waiting for the migrations", reason=found)
        reason = found
        await asyncio.sleep(_EVERY_SECONDS)


def is_old(revision: str | None, script: ScriptDirectory) -> bool:
    """True if the code needs a newer revision than this one."""
    if not revision:
        return True
    known = {one.revision for one in script.walk_revisions()}
    return revision in known and revision != script.get_current_head()


async def _missing(url: str, scripts: dict[str, ScriptDirectory]) -> str:
    """Why the code must wait, or nothing."""
    try:
        conn = await asyncpg.connect(url, timeout=10)
    except _NOT_YET as error:
        return type(error).__name__
    try:
        revisions = {section: await conn.fetchval(_COMMENT, section) for section in scripts}
    except _NOT_YET as error:
        return type(error).__name__
    finally:
        await conn.close()
    old = [f"{section} is {revisions[section]}" for section in scripts if is_old(revisions[section], scripts[section])]
    return ", ".join(old)


def scripts(ini: str, sections: Sequence[str]) -> dict[str, ScriptDirectory]:
    """The migrations of these sections."""
    return {section: ScriptDirectory.from_config(Config(ini, ini_section=section)) for section in sections}
