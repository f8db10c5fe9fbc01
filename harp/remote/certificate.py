# SPDX-License-Identifier: Apache-2.0
"""Certificates and keys as they lie on disk: read, and judged."""

from __future__ import annotations

import contextlib
import datetime as dt
import enum
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harp.errors import CertificateError

__all__ = ["Certificate", "Kind", "day", "ends", "made_by", "purpose", "read", "read_key"]

#: said so long before the end, or a third of the whole time if that is shorter
_NEAR = dt.timedelta(days=30)
_FILE_BYTES = 1 << 20


class Kind(enum.Enum):
    """What a certificate is for; the value begins its folder's name."""

    AUTHORITY = "authority"
    NODE = "node"
    CLIENT = "client"


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate on disk."""

    kind: Kind
    name: str
    names: tuple[str, ...]  #: hosts that it is good for; () but for nodes
    path: Path
    x509: x509.Certificate

    @property
    def ends(self) -> dt.datetime:
        """When it runs out."""
        return self.x509.not_valid_after_utc

    @property
    def fingerprint(self) -> str:
        """SHA-256, as openssl writes it."""
        return self.x509.fingerprint(hashes.SHA256()).hex(":").upper()

    def near(self, now: dt.datetime) -> bool:
        """Whether it runs out soon, or has."""
        whole = self.ends - self.x509.not_valid_before_utc
        return self.ends - now < min(_NEAR, whole / 3)

    def serves(self, kind: Kind) -> bool:
        """Whether it is good for a node's, or a client's, side of a connection."""
        try:
            usage = self.x509.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        except x509.ExtensionNotFound:
            return False
        return purpose(kind) in usage

    def check(self, now: dt.datetime) -> None:
        """Refuse one whose time has not come or is over.

        Raises:
            CertificateError: says so, and what to do.
        """
        if now >= self.ends:
            raise CertificateError(
                f"the certificate of {self.kind.value} {self.name} ran out on {day(self.ends)}"
                f" ({self.path})",
                "`harp remote init --renew` where the authority is, then copy the folder again"
                if self.kind is not Kind.AUTHORITY
                else "make a new authority in another folder: `harp remote init --dir`",
            )
        if now < self.x509.not_valid_before_utc:
            raise CertificateError(
                f"the certificate of {self.kind.value} {self.name} holds from"
                f" {day(self.x509.not_valid_before_utc)}; here it is {day(now)} ({self.path})",
                "set this machine's clock",
            )


def day(when: dt.datetime) -> str:
    """A date as people read it."""
    return when.strftime("%Y-%m-%d")


def ends(pem: bytes) -> dt.datetime:
    """When a certificate that was read() once runs out."""
    return x509.load_pem_x509_certificate(pem).not_valid_after_utc


def read(path: Path, kind: Kind) -> Certificate:
    """One certificate from its file.

    Raises:
        CertificateError: there is none, or its key is none that HARP takes.
    """
    try:
        certificate = x509.load_pem_x509_certificate(_bytes(path))
        public = certificate.public_key()
        name = str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    except (ValueError, IndexError) as error:
        raise CertificateError(
            f"{path} is no certificate: {error}", "make it again: harp remote init"
        ) from error
    if not isinstance(public, ec.EllipticCurvePublicKey):
        # What keeps TLS 1.2 out counts on it: harp/remote/floor.py.
        raise CertificateError(
            f"{path} has a {type(public).__name__}; HARP takes elliptic-curve keys only",
            "make one with `harp remote init`, or have an EC P-256 key signed",
        )
    names: tuple[str, ...] = ()
    with contextlib.suppress(x509.ExtensionNotFound):
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = (
            *extension.value.get_values_for_type(x509.DNSName),
            *map(str, extension.value.get_values_for_type(x509.IPAddress)),
        )
    return Certificate(kind, name, names, path, certificate)


def read_key(path: Path, certificate: x509.Certificate) -> tuple[bytes, ec.EllipticCurvePrivateKey]:
    """A private key from its file, and that file's bytes.

    Raises:
        CertificateError: it is open to others, no key, or another certificate's.
    """
    data = _bytes(path)
    if path.stat().st_mode & 0o077:
        raise CertificateError(
            f"{path} may be read by others (mode {path.stat().st_mode & 0o777:03o})",
            f"chmod 600 {path}; if others may have had it, make a new pool",
        )
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise CertificateError(f"{path} is no private key: {error}", "copy it again") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or _spki(key.public_key()) != _spki(
        certificate.public_key()
    ):
        raise CertificateError(
            f"{path} is not the key of the certificate beside it", "copy the folder again, whole"
        )
    return data, key


def made_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether an authority has signed a certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def purpose(kind: Kind) -> x509.ObjectIdentifier:
    """What a certificate of a node, or of a client, is good for."""
    if kind is Kind.NODE:
        return ExtendedKeyUsageOID.SERVER_AUTH
    return ExtendedKeyUsageOID.CLIENT_AUTH


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_FILE_BYTES)
    except OSError as error:
        raise CertificateError(
            f"cannot read {path}: {error.strerror}", "make it, or copy it: harp remote init"
        ) from error


def _spki(key: object) -> bytes:
    assert hasattr(key, "public_bytes")
    data: bytes = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return data
