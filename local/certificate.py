"""The certificate of the gateway: the operator's own, or one that it signs itself."""

import ipaddress
import socket
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from local.problem import Problem
from shared.process import certificates
from shared.process.secret import replace

CERTIFICATE, KEY, BOTH = "certificate.pem", "key.pem", "both.pem"
"""nginx reads `BOTH`, at each handshake: one file, so that it never sees a key with the certificate of another."""
DAYS = 90
LEAST_DAYS = 30
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "QuickBite")])


def put(folder: Path, host: str, certificate: str, key: str) -> None:
    """Put the files `certificate` and `key` into `folder`. If there are none, make them, for 90 days.

    Made files are made again when they end within 30 days. Raises `Problem` if files cannot be used.
    """
    if certificate or key:
        _check(certificate, key)
        _write(folder, Path(certificate).read_bytes(), Path(key).read_bytes())
    elif not _is_good(folder, host):
        _make(folder, host)


def renew(folder: Path, host: str, certificate: str, key: str) -> None:
    """Put the files of now into `folder`, while nginx runs. If there are none, make new ones. Raises `Problem`."""
    if certificate or key:
        put(folder, host, certificate, key)
    else:
        _make(folder, host)


def _write(folder: Path, certificate: bytes, key: bytes) -> None:
    replace(folder / CERTIFICATE, certificate)
    replace(folder / KEY, key)
    replace(folder / BOTH, certificate.rstrip() + b"\n" + key)


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
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(folder / BOTH)
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    return found.issuer == NAME and list(names) == _names(host) and certificates.lasts(found, LEAST_DAYS)


def _make(folder: Path, host: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    made = (
        certificates.begun(NAME, NAME, key, DAYS)
        .add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(folder, certificates.pem(made), certificates.pem(key))


def _names(host: str) -> list[x509.GeneralName]:
    """The names and addresses under which clients reach the gateway."""
    addresses = dict.fromkeys(map(ipaddress.ip_address, ("127.0.0.1", "::1", host)))
    names = dict.fromkeys(("localhost", socket.gethostname()))
    return [*map(x509.DNSName, names), *(x509.IPAddress(one) for one in addresses if not one.is_unspecified)]
