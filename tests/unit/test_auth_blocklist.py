"""The list of the commonest passwords."""

import hashlib

import pytest

from auth import blocklist


def test_the_list_is_the_one_that_its_source_names() -> None:
    assert hashlib.sha256(blocklist.FILE.read_bytes()).hexdigest() == blocklist.SHA256
    assert len(blocklist.FILE.read_text().splitlines()) == 8354


@pytest.mark.parametrize("password", ["password", "12345678", "PASSWORD1", "Password1", "qwertyuiop", "iloveyou"])
def test_a_common_password_is_found_in_capitals_too(password: str) -> None:
    assert blocklist.is_common(password)


@pytest.mark.parametrize("password", ["", "correct horse", "staple of the administrator", "password and more"])
def test_another_password_is_not_common(password: str) -> None:
    assert not blocklist.is_common(password)
