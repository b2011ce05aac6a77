"""The certificate of the gateway: the operator's own, or one that it signs itself."""

import datetime as dt
import ipaddress
import os
import socket
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from local.problem import Problem

CERTIFICATE, KEY = "certificate.pem", "key.pem"
DAYS = 90
LEAST_DAYS = 30
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "QuickBite")])


def put(folder: Path, host: str, certificate: str, key: str) -> None:
    """Put the files `certificate` and `key` into `folder`. If there are none, make them, for 90 days.

    Made files are made again when they end within 30 days. Raises `Problem` if files cannot be used.
    """
    if certificate or key:
        _check(certificate, key)
        _write(folder / CERTIFICATE, Path(certificate).read_bytes())
        _write(folder / KEY, Path(key).read_bytes())
    elif not _is_good(folder, host):
        _make(folder, host)


def _check(certificate: str, key: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:
        why = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise Problem(
            f"TLS_CERTIFICATE={certificate} and TLS_KEY={key} cannot be used ({why}): "
            "set both to PEM files that belong together, or set neither."
        ) from error


def _is_good(folder: Path, host: str) -> bool:
    """True if the files were made here for this `host`, and are valid for long enough."""
    try:
        found = x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes())
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(folder / CERTIFICATE, folder / KEY)
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    left = found.not_valid_after_utc - dt.datetime.now(dt.UTC)
    return found.issuer == NAME and list(names) == _names(host) and left.days >= LEAST_DAYS


def _make(folder: Path, host: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    kind, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    _write(folder / KEY, key.private_bytes(kind, form, serialization.NoEncryption()))
    _write(folder / CERTIFICATE, made.public_bytes(kind))


def _names(host: str) -> list[x509.GeneralName]:
    """The names and addresses under which clients reach the gateway."""
    addresses = dict.fromkeys(map(ipaddress.ip_address, ("127.0.0.1", "::1", host)))
    names = dict.fromkeys(("localhost", socket.gethostname()))
    return [*map(x509.DNSName, names), *(x509.IPAddress(one) for one in addresses if not one.is_unspecified)]


def _write(path: Path, content: bytes) -> None:
    """Replace a file at once. Only the own user can read it."""
    fresh = path.with_suffix(".fresh")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    fresh.rename(path)
