# SPDX-License-Identifier: Apache-2.0
"""Certificates, tokens and kubeconfigs of the control plane."""

from __future__ import annotations

import ipaddress
import json
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["Authority", "Users"]

_DAY = timedelta(days=1)
_Key = ec.EllipticCurvePrivateKey


def _key() -> _Key:
    return ec.generate_private_key(ec.SECP256R1())


def _name(common: str, group: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _pem(key: _Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,  # what Kubernetes reads for accounts' keys
        serialization.NoEncryption(),
    )


class Authority:
    """Signs what the control plane needs, in one folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self.folder = folder
        self._key, self._subject = _key(), _name("harp-kube-ca")
        self._write("ca", self._key, self._sign(self._subject, self._key, ca=True))
        account = _key()
        (folder / "sa.key").write_bytes(_pem(account))
        (folder / "sa.pub").write_bytes(
            account.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )

    def server(self, file: str, names: Sequence[str], addresses: Sequence[str]) -> None:
        """A server's certificate and key."""
        alternatives = x509.SubjectAlternativeName(
            [
                *map(x509.DNSName, names),
                *(x509.IPAddress(ipaddress.ip_address(one)) for one in addresses),
            ]
        )
        key = _key()
        self._write(file, key, self._sign(_name(names[0]), key, more=alternatives))

    def client(self, file: str, user: str, group: str) -> None:
        """A user's."""
        key = _key()
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        self._write(file, key, self._sign(_name(user, group), key, more=usage))

    def _sign(
        self,
        subject: x509.Name,
        key: _Key,
        *,
        ca: bool = False,
        more: x509.ExtensionType | None = None,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + 30 * _DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if more is not None:
            builder = builder.add_extension(more, critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def _write(self, name: str, key: _Key, certificate: x509.Certificate) -> None:
        (self.folder / f"{name}.key").write_bytes(_pem(key))
        (self.folder / f"{name}.crt").write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
        )


class Users:
    """Who may ask the API server: a token each, and the kubeconfig that holds it."""

    def __init__(self, folder: Path, server: str) -> None:
        self._folder, self._server = folder, server
        self._rows: list[str] = []
        self.tokens: dict[str, str] = {}

    def add(self, short: str, user: str, group: str = "") -> Path:
        """One more; its kubeconfig."""
        token = self.tokens[short] = secrets.token_hex(16)
        self._rows.append(f'{token},{user},{short},"{group}"')
        (self._folder / "tokens.csv").write_text("\n".join(self._rows) + "\n")
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "c",
                    "cluster": {
                        "server": self._server,
                        "certificate-authority": str(self._folder / "ca.crt"),
                    },
                }
            ],
            "users": [{"name": short, "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": short}}],
            "current-context": "c",
        }
        path = self._folder / f"{short}.kubeconfig"
        path.write_text(json.dumps(config))
        return path
