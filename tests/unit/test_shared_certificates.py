"""The certificates of a private network: clients believe only what the authority of this network has signed."""

import datetime as dt
import ssl
from pathlib import Path

import pytest
from cryptography import x509

from contracts import access
from shared.process import certificates

FILES = ("ca/ca.pem", "authority/key.pem", "db/key.pem", "db/certificate.pem", "kafka/both.pem")


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def is_accepted(folder: Path, server: str, name: str, ca: Path) -> bool:
    """Whether a client that knows `ca` believes the server of this folder to be `name`. Nothing is sent."""
    own, known = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=ca)
    own.load_cert_chain(folder / server / "certificate.pem", folder / server / "key.pem")
    known.verify_flags |= ssl.VERIFY_X509_STRICT
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = known.wrap_bio(to_client, to_server, server_hostname=name)
    other = own.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, other, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError:
            return False
    return True


def test_a_client_believes_a_server_by_its_own_name_and_only_of_its_own_network(tmp_path: Path) -> None:
    for network in ("one", "two"):
        certificates.make(tmp_path / network, ["db", "kafka"])
    one, ca = tmp_path / "one", tmp_path / "one" / "ca" / "ca.pem"
    assert is_accepted(one, "db", "db", ca)
    assert is_accepted(one, "kafka", "kafka", ca)
    assert not is_accepted(one, "db", "kafka", ca)
    assert not is_accepted(tmp_path / "two", "db", "db", ca)


def test_what_exists_and_is_valid_stays(tmp_path: Path) -> None:
    certificates.make(tmp_path, ["db", "kafka"])
    before = contents(tmp_path)
    certificates.make(tmp_path, ["db", "kafka"])
    assert contents(tmp_path) == before


def test_a_certificate_that_ends_soon_is_made_again_by_the_same_authority(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "_DAYS", 29)
    certificates.make(tmp_path, ["db", "kafka"])
    before = contents(tmp_path)
    monkeypatch.undo()
    certificates.make(tmp_path, ["db", "kafka"])
    after = contents(tmp_path)
    assert {name for name in FILES if before[name] != after[name]} == {
        "db/key.pem",
        "db/certificate.pem",
        "kafka/both.pem",
    }
    left = x509.load_pem_x509_certificate(after["db/certificate.pem"]).not_valid_after_utc - dt.datetime.now(dt.UTC)
    assert left.days >= 300
    assert is_accepted(tmp_path, "db", "db", tmp_path / "ca" / "ca.pem")


def test_only_the_authoritys_own_key_is_for_nobody_else(tmp_path: Path) -> None:
    certificates.make(tmp_path, ["db", "kafka"])
    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in FILES}
    assert modes == dict.fromkeys(FILES, 0o444) | {"authority/key.pem": 0o600}


def test_a_broker_knows_every_user_and_its_controller_only_the_broker(tmp_path: Path) -> None:
    passwords = {user: f"password of {user}" for user in (access.ADMIN, *access.USERS)}
    for user, password in passwords.items():
        (tmp_path / user).mkdir()
        (tmp_path / user / "kafka_password").write_text(password)
    access.write(tmp_path)
    access.write(tmp_path)  # again, at the next start
    internal, host, controller = (tmp_path / "kafka" / "jaas.conf").read_text().split("};\n")[:3]
    for user, password in passwords.items():
        assert f' user_{user}="{password}"' in internal
        assert f' user_{user}="{password}"' in host
    assert controller.count(" user_") == 1
    tools = (tmp_path / "kafka" / "reader.properties").read_text()
    assert tools.count(passwords["reader"]) == 1
    assert "security.protocol=SASL_SSL\n" in tools
