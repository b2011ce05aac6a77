"""The tables that the schema of each section must contain: the service's own and the toolkit's.

Alembic's autogenerate uses it, and a test compares it with the migrated database.
"""

from importlib import import_module

from sqlalchemy import MetaData

from shared.delivery import tables


def of(section: str) -> MetaData | None:
    """The tables of a section, without partitions. The section `admin` has none."""
    if section == "admin":
        return None
    if section == "provider":  # payments simulates the provider
        ledger: MetaData = import_module("payments.tables").ledger
        return ledger
    metadata: MetaData = import_module(f"{section}.tables").metadata
    tables.add_to(metadata, f"{section}.events")
    return metadata
