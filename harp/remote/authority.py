# SPDX-License-Identifier: Apache-2.0
"""A pool's small certificate authority, and the certificates of its nodes and clients.

    DIR/authority/      ca.crt ca.key             stays where it is; who has ca.key is the pool
    DIR/node-NAME/      tls.crt tls.key ca.crt    goes to that host whole
    DIR/client-NAME/    tls.crt tls.key ca.crt    goes to that user whole; NAME owns its leases

A folder appears whole or not at all, and nothing in it is written again, but a certificate that is
renewed: same key, same names, later end. Keys are 0600. A node's certificate is good for serving
only, a client's for calling only: neither can pass for the other.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from harp.errors import CertificateError, ConfigError
from harp.remote.certificate import Certificate, Kind, made_by, purpose, read, read_key

__all__ = ["DAYS", "DAYS_MAX", "check", "found", "init", "issue", "renew"]

AUTHORITY_DAYS = 3650
DAYS = 365
DAYS_MAX = 3650
#: a host whose clock is behind must not find a new certificate "not yet valid"
_EARLIER = dt.timedelta(hours=1)
_ELSEWHERE = "name a folder that you may write to with --dir"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HOST = re.compile(r"(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_-]{1,63}")


def init(base: Path, now: dt.datetime) -> bool:
    """Make the authority, if there is none yet.

    Returns:
        Whether it was made.

    Raises:
        CertificateError: the folder is not what it must be.
    """
    try:
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CertificateError(f"cannot make {base}: {error.strerror}", _ELSEWHERE) from error
    if base.stat().st_mode & stat.S_IWOTH:
        raise CertificateError(
            f"{base} is writable by everybody: so would the pool be", f"chmod 700 {base}"
        )
    if (base / Kind.AUTHORITY.value).exists():
        return False
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(f"HARP pool {x509.random_serial_number() & 0xFFFFFFFF:08x}")
    certificate = (
        _begun(subject, subject, key.public_key(), _Term(now, AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _appear(
        base / Kind.AUTHORITY.value, {"ca.crt": _pem(certificate), "ca.key": _key_pem(key)}
    )


def check(kind: Kind, name: str, hosts: Sequence[str]) -> list[x509.GeneralName]:
    """The hosts as a certificate has them.

    Raises:
        ConfigError: a name or host that cannot be.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} is no name for a {kind.value}",
            "1 to 63 letters, digits, dots, dashes or underscores, the first no sign",
        )
    return [_host(host) for host in hosts]


def issue(
    base: Path,
    kind: Kind,
    name: str,
    *,
    hosts: Sequence[str],
    now: dt.datetime,
    days: int = DAYS,
) -> bool:
    """Make a key and its certificate, if that name has none yet.

    Args:
        base: where init() has made the authority.
        kind: NODE or CLIENT.
        name: of the node or client.
        hosts: host names and addresses by which a node is reached; none for a client.
        now: the time.
        days: how long it is good for; never longer than the authority itself.

    Returns:
        Whether it was made.

    Raises:
        ConfigError: a name, host or number that cannot be.
        CertificateError: the authority is not there, has run out, or is not what it must be.
    """
    alternatives = check(kind, name, hosts)
    _check_days(days)
    folder = base / f"{kind.value}-{name}"
    if folder.exists():
        return False
    authority = _Authority.open(base, now)
    key = ec.generate_private_key(ec.SECP256R1())
    term = _Term(now, days, authority.certificate.ends)
    certificate = authority.sign(kind, _subject(name), key.public_key(), alternatives, term)
    return _appear(
        folder,
        {
            "tls.crt": _pem(certificate),
            "tls.key": _key_pem(key),
            "ca.crt": _pem(authority.certificate.x509),
        },
    )


def renew(base: Path, old: Certificate, now: dt.datetime, days: int = DAYS) -> Certificate:
    """Put a certificate with a later end in an old one's place: same key, same names.

    Raises:
        ConfigError: a number of days that cannot be.
        CertificateError: the authority is not there or has run out, or did not make the old one.
    """
    _check_days(days)
    authority = _Authority.open(base, now)
    if not made_by(old.x509, authority.certificate.x509):
        raise CertificateError(
            f"{old.path} is of another authority than {authority.certificate.path}",
            "name the folder of its own with --dir",
        )
    key = old.x509.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)  # read() takes no other
    alternatives = [_host(host) for host in old.names]
    term = _Term(now, days, authority.certificate.ends)
    fresh = authority.sign(old.kind, old.x509.subject, key, alternatives, term)
    with tempfile.NamedTemporaryFile(dir=old.path.parent, prefix=".new-", delete=False) as file:
        try:
            file.write(_pem(fresh))
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)
            Path(file.name).rename(old.path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(file.name).unlink()
            raise
    return read(old.path, old.kind)


def found(base: Path) -> list[Certificate]:
    """The authority and all certificates under `base`, that first.

    Raises:
        CertificateError: one cannot be read.
    """
    certificates = []
    if (base / Kind.AUTHORITY.value).exists():
        certificates.append(read(base / Kind.AUTHORITY.value / "ca.crt", Kind.AUTHORITY))
    for kind in (Kind.NODE, Kind.CLIENT):
        certificates += [
            read(folder / "tls.crt", kind) for folder in sorted(base.glob(f"{kind.value}-*"))
        ]
    return certificates


@dataclass(frozen=True, slots=True)
class _Term:
    """How long a certificate is good for."""

    now: dt.datetime
    days: int
    latest: dt.datetime | None = None  #: never longer than this

    @property
    def ends(self) -> dt.datetime:
        ends = self.now + dt.timedelta(days=self.days)
        return min(ends, self.latest) if self.latest else ends


@dataclass(frozen=True, slots=True)
class _Authority:
    """The authority with its key."""

    certificate: Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def open(cls, base: Path, now: dt.datetime) -> _Authority:
        folder = base / Kind.AUTHORITY.value
        if not folder.exists():
            raise CertificateError(
                f"there is no authority in {base}", "`harp remote init` makes one, on one machine"
            )
        certificate = read(folder / "ca.crt", Kind.AUTHORITY)
        certificate.check(now)
        return cls(certificate, read_key(folder / "ca.key", certificate.x509)[1])

    def sign(
        self,
        kind: Kind,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        alternatives: Sequence[x509.GeneralName],
        term: _Term,
    ) -> x509.Certificate:
        builder = (
            _begun(subject, self.certificate.x509.subject, key, term)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose(kind)]), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        if alternatives:
            names = x509.SubjectAlternativeName(alternatives)
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self.key, hashes.SHA256())


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, term: _Term
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(term.now - _EARLIER)
        .not_valid_after(term.ends)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if len(host) > 253 or not _HOST.fullmatch(host) or re.fullmatch(r"[0-9.]+", host):
        raise ConfigError(f"{host!r} is no host name or address", "e.g. gpu1.example.org, 10.0.0.7")
    return x509.DNSName(host)


def _check_days(days: int) -> None:
    if not 1 <= days <= DAYS_MAX:
        raise ConfigError(f"{days} days are out of range", f"1 to {DAYS_MAX}")


def _appear(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Make a folder with its files at once; False if another was faster."""
    try:
        return _renamed(folder, files)
    except OSError as error:
        raise CertificateError(f"cannot make {folder}: {error.strerror}", _ELSEWHERE) from error


def _renamed(folder: Path, files: Mapping[str, bytes]) -> bool:
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.parent) as scratch:
        fresh = Path(scratch) / "x"
        fresh.mkdir(mode=0o700)
        for name, content in files.items():
            mode = 0o600 if name.endswith(".key") else 0o644
            # A key is its owner's from the first byte on; what the umask took is given below.
            fd = os.open(fresh / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
        try:
            os.rename(fresh, folder)  # noqa: PTH104 - rename(2): fails if the target is not empty
        except OSError:
            if not folder.is_dir():
                raise
            shutil.rmtree(fresh)
            return False
    return True


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
