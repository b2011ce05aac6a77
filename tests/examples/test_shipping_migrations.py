"""The migrations of shipping go up, down and up again."""

from tests.conftest import Database
from tests.examples.shop import migrate, values

TABLES = "select tablename from pg_tables where schemaname = 'shipping'"
FUNCTIONS = "select proname from pg_proc where pronamespace = 'shipping'::regnamespace"


async def test_down_removes_all_that_up_created(database: Database) -> None:
    await migrate(database, "upgrade", "head")
    made = await values(database, TABLES), await values(database, FUNCTIONS)
    assert {"parcels", "outbox", "inbox", "parked", "consumer_starts"} <= made[0]

    await migrate(database, "downgrade", "base")
    assert (await values(database, TABLES), await values(database, FUNCTIONS)) == ({"alembic_version"}, set())

    await migrate(database, "upgrade", "head")
    assert (await values(database, TABLES), await values(database, FUNCTIONS)) == made
