"""Secrets as files: made once, readable by their owner only, and read as settings."""

import asyncio
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from payments.config import Settings as PaymentsSettings
from shared.process.configuration import Settings, read, with_password
from shared.process.secret import main, secret
from tests.conftest import ROOT

URL = "postgresql://orders_user@127.0.0.1:5433/quickbite"


def test_a_secret_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    first = secret(tmp_path, "orders/database_password")
    assert len(first) == 43
    assert secret(tmp_path, "orders/database_password") == first
    assert secret(tmp_path, "users/database_password") != first
    assert stat.S_IMODE((tmp_path / "orders" / "database_password").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "orders").iterdir()] == ["database_password"]


async def test_processes_that_make_a_secret_at_the_same_time_agree(tmp_path: Path) -> None:
    made = await asyncio.gather(*(asyncio.to_thread(secret, tmp_path, "a/b") for _ in range(32)))
    assert len(set(made)) == 1


def test_a_secret_of_the_operator_is_kept(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("chosen by hand\n")
    assert secret(tmp_path, "a") == "chosen by hand"
    assert (tmp_path / "a").read_text() == "chosen by hand\n"


def test_the_command_makes_what_is_missing_for_containers_of_other_users(tmp_path: Path) -> None:
    known = secret(tmp_path, "a/one")
    command = [sys.executable, "-m", "shared.process.secret", str(tmp_path), "a/one", "b/two"]
    subprocess.run(command, check=True, cwd=ROOT)  # noqa: S603  # our own program
    assert (tmp_path / "a" / "one").read_text() == known
    assert stat.S_IMODE((tmp_path / "b" / "two").stat().st_mode) == 0o444


def test_the_command_replaces_secrets_in_files_that_keep_their_modes(tmp_path: Path) -> None:
    file = tmp_path / "a" / "one"
    main([str(tmp_path), "a/one"])
    file.chmod(0o440)
    first = file.read_text()
    main(["renew", str(tmp_path), "a/one"])
    second = file.read_text()
    main(["overlap", str(tmp_path), "a/one"])
    third, former = file.read_text().split()
    main(["settle", str(tmp_path), "a/one"])
    assert (former, file.read_text()) == (second, third)
    assert len({first, second, third}) == 3
    assert stat.S_IMODE(file.stat().st_mode) == 0o440


@pytest.mark.parametrize("password", ["simple", "a:b", "p@ss/w?rd#%41&=+ \\'\"[]", "grüße"])
def test_any_character_can_be_in_a_password(password: str) -> None:
    found = urlsplit(with_password(URL, password))
    assert unquote(found.password or "") == password
    assert (found.username, found.hostname, found.port, found.path) == ("orders_user", "127.0.0.1", 5433, "/quickbite")


def test_a_password_in_the_address_is_kept() -> None:
    url = "postgresql://a:b@c/d?sslmode=require"
    assert with_password(url, "other") == url
    assert with_password("postgresql://a@c,e:1/d?sslmode=require", "x") == "postgresql://a:x@c,e:1/d?sslmode=require"


def test_settings_are_read_from_the_files_of_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRETS_FOLDER", str(tmp_path))
    (tmp_path / "database_password").write_text("a:b\n")
    (tmp_path / "provider_database_password").write_text("c/d")
    found = read(PaymentsSettings, "payments", [])
    assert found.database_password.get_secret_value() == "a:b"
    for url, role, name in (
        (found.database, "payments_user", "database_password"),
        (found.provider_database, "provider_user", "provider_database_password"),
    ):
        parts = urlsplit(url)  # it names the file, so that a new password in it is noticed
        assert (parts.netloc, parts.path) == (f"{role}@127.0.0.1:5433", "/quickbite")
        assert parse_qs(parts.query) == {"password_file": [str(tmp_path / name)]}
    assert "a:b" not in repr(found)
    monkeypatch.setenv("DATABASE_PASSWORD", "of the environment")
    assert "of%20the%20environment" in read(PaymentsSettings, "payments", []).database


def test_a_folder_that_does_not_exist_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRETS_FOLDER", str(tmp_path / "none"))
    with pytest.raises(SystemExit, match=r"^wrong setting: SECRETS_FOLDER: there is no folder .*/none$"):
        read(PaymentsSettings, "payments", [])


def test_without_a_folder_nothing_is_read_from_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("DATABASE_URL", URL)
    assert Settings().database == URL
