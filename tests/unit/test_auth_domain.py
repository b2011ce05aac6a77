"""Addresses that count as one, tokens of devices, and refresh tokens that follow each other."""

import pytest

from auth import domain
from auth.domain import Credential, Refresh, Sender

ANN = Credential(7, "ann", "$argon2id$of-ann", [])


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("an address?", "an address?"),
    ],
)
def test_an_ipv6_address_counts_as_its_network(address: str, network: str) -> None:
    assert domain.network(address) == network


def test_a_device_is_known_to_its_own_account_until_the_password_changes() -> None:
    token = domain.device_token(ANN)
    device_id = domain.known_device(ANN, token)
    assert device_id
    assert domain.device_token(ANN, device_id) == token
    for other in (
        Credential(8, "ann", ANN.password_hash, []),
        Credential(7, "ann", "$argon2id$another", []),
        None,
    ):
        assert domain.known_device(other, token) is None
    for wrong in ("", ".", token[:-1], token + "x", token.replace(".", ""), "x" + token, "\u0661"):
        assert domain.known_device(ANN, wrong) is None
    assert domain.device_token(ANN) != token


def test_the_successor_of_a_refresh_token_needs_both_the_token_and_the_salt() -> None:
    old, salt = Refresh.new(), domain.new_salt()
    successor = old.successor(salt)
    assert successor == old.successor(salt)
    assert successor.session_id == old.session_id
    assert Refresh.parse(successor.text) == successor
    others = {old.successor(domain.new_salt()).secret, Refresh(old.session_id, "another").successor(salt).secret}
    assert len(others | {successor.secret, old.secret}) == 4


def test_a_sender_is_the_same_device_at_another_address() -> None:
    sender = Sender("192.0.2.1", "device", "agent")
    assert sender.digest == Sender("192.0.2.2", "device", "agent").digest
    assert len({sender.digest, Sender("", "device", "another").digest, Sender("", "another", "agent").digest}) == 3
