"""Certificates of a private network, as files: an authority, and for each server a certificate that it signs.

    python -m shared.process.certificates /secrets db kafka --every 12

makes, each 12 hours or once, what is missing, and what ends within 30 days: `ca/ca.pem` for the clients, and for each
server `key.pem` and `certificate.pem`, which `both.pem` has in one file. `certificate.pem` is written last.
How a server notices a new file is its own affair. The key of the authority is in the folder `authority`, for nobody
else.
"""

import argparse
import datetime as dt
import sys
import time
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from .secret import replace

_AUTHORITY_DAYS, _DAYS, _LEAST_DAYS = 3650, 365, 30
_READABLE = 0o444  # each container sees only its own folder, so everybody there may read it

Pair = tuple[ec.EllipticCurvePrivateKey, x509.Certificate]


def make(folder: Path, servers: list[str]) -> None:
    """Make the authority and the certificates of the servers, by their names in the network."""
    authority = _authority(folder / "authority")
    replace(folder / "ca" / "ca.pem", pem(authority[1]), _READABLE)
    for name in servers:
        if not _is_good(folder / name / "certificate.pem", authority[1]):
            key, certificate = _signed(name, authority)
            replace(folder / name / "key.pem", pem(key), _READABLE)
            replace(folder / name / "both.pem", pem(key) + pem(certificate), _READABLE)
            replace(folder / name / "certificate.pem", pem(certificate), _READABLE)


def _authority(folder: Path) -> Pair:
    files = folder / "key.pem", folder / "certificate.pem"
    if all(file.exists() for file in files):
        key = serialization.load_pem_private_key(files[0].read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101 - it was made below
        return key, x509.load_pem_x509_certificate(files[1].read_bytes())
    key, certificate = _signed("QuickBite", None)
    replace(files[0], pem(key))
    replace(files[1], pem(certificate), _READABLE)
    return key, certificate


def _signed(name: str, by: Pair | None) -> Pair:
    """A key with its certificate. Without `by` it signs itself, and may sign others."""
    key = ec.generate_private_key(ec.SECP256R1())
    own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        begun(own, by[1].subject if by else own, key, _DAYS if by else _AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None if by else 0), critical=True)
        .add_extension(_usage(is_authority=by is None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if by:
        made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        found = x509.AuthorityKeyIdentifier.from_issuer_public_key(by[0].public_key())
        made = made.add_extension(found, critical=False)
    return key, made.sign(by[0] if by else key, hashes.SHA256())


def _usage(*, is_authority: bool) -> x509.KeyUsage:
    """What the key is for. Strict clients want it from an authority (RFC 5280)."""
    allowed = {"key_cert_sign", "crl_sign"} if is_authority else {"digital_signature"}
    names = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    others = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: name in allowed for name in (*names, *others)})


def _is_good(file: Path, authority: x509.Certificate) -> bool:
    """True if the authority signed it, and it is valid for long enough."""
    try:
        found = x509.load_pem_x509_certificate(file.read_bytes())
        found.verify_directly_issued_by(authority)
    except (OSError, ValueError, TypeError, InvalidSignature):
        return False
    return lasts(found, _LEAST_DAYS)


def begun(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    """A certificate for so many days, without extensions and not signed yet."""
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=days))
    )


def lasts(certificate: x509.Certificate, days: int) -> bool:
    """True if the certificate is valid for so many more days."""
    return (certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)).days >= days


def pem(made: ec.EllipticCurvePrivateKey | x509.Certificate) -> bytes:
    """A key or a certificate as the text of a file."""
    kind = serialization.Encoding.PEM
    if isinstance(made, x509.Certificate):
        return made.public_bytes(kind)
    return made.private_bytes(kind, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def main(arguments: list[str]) -> None:
    """Make the certificates once, or every so many hours."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("servers", nargs="+")
    parser.add_argument("--every", type=float, metavar="HOURS")
    wanted = parser.parse_args(arguments)
    make(wanted.folder, wanted.servers)
    while wanted.every:
        time.sleep(wanted.every * 3600)
        make(wanted.folder, wanted.servers)


if __name__ == "__main__":
    main(sys.argv[1:])
