import pytest
from pydantic import ValidationError

from console import config as console
from shared.process.configuration import Settings, complaint

GOOD = {"PORT": "8080", "DATABASE_URL": "postgresql://a:b@c/d"}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in GOOD.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "many"),
        ("PORT", "70000"),
        ("DATABASE_URL", "mysql://x"),
        ("LOG_LEVEL", "LOUD"),
        ("RELAY_LEASE_SECONDS", "0"),
        ("CONSUMER_BATCH", "0"),
        ("ONLY", "[]"),
        ("ONLY", '["relay", "cook"]'),
    ],
)
def test_a_wrong_setting_is_reported_with_its_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as raised:
        Settings()
    message = complaint(raised.value)
    assert message.startswith(f"wrong setting: {name}")
    assert "\n" not in message


def test_a_wrong_database_address_does_not_show_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://user:hunter2@host/db")
    with pytest.raises(ValidationError) as raised:
        Settings()
    assert "hunter2" not in complaint(raised.value)


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", "")
    assert Settings().log_level == "INFO"


@pytest.mark.parametrize("given", ["warning", "Warning", "WARNING"])
def test_a_log_level_may_be_in_small_letters(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("LOG_LEVEL", given)
    monkeypatch.setenv("CONSOLE_LOG_LEVEL", given)
    assert Settings().log_level == console.Settings().log_level == "WARNING"


def test_a_wrong_setting_of_the_console_is_reported_with_its_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSOLE_PORT", "many")
    with pytest.raises(SystemExit, match=r"^wrong setting: CONSOLE_PORT: .* \(is 'many'\)$"):
        console.read()


def test_the_owner_is_the_instance_or_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().owner
    monkeypatch.setenv("INSTANCE_ID", "orders-1")
    assert Settings().owner == "orders-1"
