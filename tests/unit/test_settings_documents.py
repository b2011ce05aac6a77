"""docs/settings.md and .env.example have every setting."""

import re
from pathlib import Path

import pytest
from dotenv import dotenv_values
from pydantic_settings import BaseSettings

from documents import settings
from documents.folder import PROJECT
from payments.config import Settings

TABLES = (PROJECT / "docs" / "settings.md").read_text()
CLASSES = {f"{reader}: {found.__qualname__}": found for part in settings.PARTS.values() for reader, found in part}


@pytest.mark.parametrize("reader", CLASSES)
def test_every_setting_has_a_sentence(reader: str) -> None:
    assert [one.variable for one in settings.of(CLASSES[reader]) if not one.text.endswith(".")] == []


def test_every_class_that_reads_the_environment_is_in_the_tables() -> None:
    found = {
        path.relative_to(PROJECT).with_suffix("").as_posix().replace("/", ".")
        for path in PROJECT.glob("*/**/*.py")
        if re.search(r"^class \w+\((BaseSettings|configuration\.Settings)\)", path.read_text(), re.MULTILINE)
    }
    known = {base.__module__ for one in CLASSES.values() for base in one.__mro__ if issubclass(base, BaseSettings)}
    assert {name for name in found if name.split(".")[0] not in {"tests", "bench", "examples", ""}} <= known


def test_a_row_has_default_bounds_and_reader() -> None:
    (row,) = [line for line in TABLES.splitlines() if line.startswith("| `PROVIDER_DECLINE_RATIO` |")]
    assert row.startswith(
        "| `PROVIDER_DECLINE_RATIO` | `0.0` | number from 0 to 1 | payments | The simulated provider "
    )


def test_a_setting_of_all_services_has_one_row_and_a_default_of_one_service_its_own() -> None:
    rows = [line.split(" | ") for line in TABLES.splitlines()]
    assert [row[3] for row in rows if row[0] == "| `POOL_SIZE`"] == ["all services"]
    assert [row[1:4:2] for row in rows if row[0] == "| `PORT`"][0] == ["`8080`", "orders"]  # noqa: RUF015
    assert len([row for row in rows if row[0] == "| `PORT`"]) == 6


def test_the_example_is_a_file_of_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (PROJECT / ".env.example").read_text()
    assert dotenv_values(PROJECT / ".env.example") == {}
    (tmp_path / "all").write_text(re.sub(r"^#([A-Z])", r"\1", text, flags=re.MULTILINE))
    values = dotenv_values(tmp_path / "all")
    assert {"GATEWAY_PORT", "LOG_LEVEL", "PROVIDER_SEED", "CONSOLE_LOG_LEVEL", "STOREFRONT_LOG_LEVEL"} <= values.keys()
    assert not {"DATABASE_URL", "PORT", "INSTANCE_ID", "FAILURE_FLAGS"} & values.keys()
    for variable, value in values.items():
        monkeypatch.setenv(variable, value or "")
    assert Settings() == Settings.model_construct()
