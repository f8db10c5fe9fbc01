# SPDX-License-Identifier: Apache-2.0
"""Who trusts whom on a connection: credentials of a node and of its callers, and why one failed.

TLS 1.3, by harp/remote/floor.py. A node listens in one of two ways, since grpcio has nothing
between demanding a certificate and not asking for one: for certificates of its pool's authority
(the handshake fails without), or for lease tokens (callers see the node's certificate, and each
call must bear a token). Plaintext is for loopback, and only if asked for.
"""

from __future__ import annotations

import datetime as dt
import enum
import ipaddress
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from harp.api.status import ERROR_KEY, from_rpc
from harp.errors import CertificateError, ConfigError, HarpError, NodeUnreachable
from harp.remote.certificate import Certificate, Kind, day, made_by, read, read_key
from harp.remote.floor import CIPHERS

__all__ = [
    "Callers",
    "Identity",
    "address",
    "bearer",
    "channel",
    "explain",
    "listen",
    "load",
]

_OPTIONS = (
    # A proxy would see what is said in plaintext, and end what is not.
    ("grpc.enable_http_proxy", 0),
    # A lease runs out in 2 s: a connection that broke must be tried again well before.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class Callers(enum.Enum):
    """What a node asks of who calls."""

    CERTIFICATE = "certificate"
    TOKEN = "token"  # noqa: S105 - a word


@dataclass(frozen=True, slots=True)
class Identity:
    """A node's or a client's folder, read and checked."""

    certificate: Certificate
    chain_pem: bytes
    key_pem: bytes
    authority_pem: bytes
    warning: str  #: "": it does not run out soon

    def __repr__(self) -> str:
        """Without the key: a log is no place for it."""
        return f"Identity({self.certificate.kind.value} {self.certificate.name})"


def load(folder: Path, kind: Kind, now: dt.datetime) -> Identity:
    """Read what `harp remote init` made for a node or a client.

    Raises:
        CertificateError: something is missing, open to others, of another authority, for another
            purpose, or has run out.
    """
    certificate = read(folder / "tls.crt", kind)
    certificate.check(now)
    authority = read(folder / "ca.crt", Kind.AUTHORITY)
    authority.check(now)
    if not made_by(certificate.x509, authority.x509):
        raise CertificateError(
            f"{certificate.path} is not of the authority in {authority.path}",
            "copy the folder again, whole",
        )
    if not certificate.serves(kind):
        raise CertificateError(
            f"{certificate.path} is not good for a {kind.value}",
            f"use the folder {kind.value}-NAME that `harp remote init` made",
        )
    key_pem, _ = read_key(folder / "tls.key", certificate.x509)
    warning = ""
    if certificate.near(now):
        warning = (
            f"the certificate of {kind.value} {certificate.name} runs out on"
            f" {day(certificate.ends)}: `harp remote init --renew` where the authority is"
        )
    return Identity(
        certificate, certificate.path.read_bytes(), key_pem, authority.path.read_bytes(), warning
    )


def listen(
    server: grpc.Server | grpc.aio.Server,
    where: str,
    identity: Identity | None,
    callers: Callers = Callers.CERTIFICATE,
    *,
    now: Callable[[], Identity] | None = None,
    insecure: bool = False,
) -> int:
    """Let a server listen at `where` (host:port).

    Args:
        server: it.
        where: host:port.
        identity: who we are; None: plaintext.
        callers: what is asked of them.
        now: who we are by now, asked at each handshake from another thread; None: the same.
        insecure: plaintext, on loopback.

    Returns:
        The port.

    Raises:
        ConfigError: plaintext where others could listen in, TLS 1.2, or no such address.
        NodeUnreachable: the address cannot be had.
    """
    address(where)
    try:
        if identity is None:
            _plaintext(where, insecure=insecure)
            return int(server.add_insecure_port(where))
        if os.environ.get(CIPHERS[0]) != CIPHERS[1]:
            raise ConfigError(
                f"grpcio would let TLS 1.2 in at {where}",
                "call harp.remote.floor.tls13_only() before grpcio is imported",
            )
        mutual = callers is Callers.CERTIFICATE
        return int(server.add_secure_port(where, _shown(identity, now, mutual=mutual)))
    except RuntimeError as error:
        raise NodeUnreachable(
            f"cannot listen at {where}: {error}", "another program has the port: choose another"
        ) from error


def _shown(
    first: Identity, now: Callable[[], Identity] | None, *, mutual: bool
) -> grpc.ServerCredentials:
    """What callers are shown, and by whom theirs are to be made; asked for at each handshake."""
    last = first

    def configuration(of: Identity) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(of.key_pem, of.chain_pem)], of.authority_pem if mutual else None
        )

    def fresh() -> grpc.ServerCertificateConfiguration | None:
        nonlocal last
        before, last = last, now() if now is not None else last
        return configuration(last) if last is not before else None

    # None is "as before", which its type does not know.
    return grpc.dynamic_ssl_server_credentials(configuration(first), fresh, mutual)  # type: ignore[arg-type]


def channel(
    endpoint: str,
    identity: Identity | None = None,
    authority_pem: bytes = b"",
    *,
    name: str = "",
    insecure: bool = False,
) -> grpc.aio.Channel:
    """A connection to a node.

    Args:
        endpoint: host:port.
        identity: a client's; None: calls bear a lease's token (bearer()).
        authority_pem: whom to trust where there is no identity.
        name: what its certificate is for; "": the endpoint's host.
        insecure: plaintext, on loopback.

    Raises:
        ConfigError: plaintext to elsewhere, nobody to trust, or no such address.
    """
    address(endpoint)
    if identity is None and not authority_pem:
        _plaintext(endpoint, insecure=insecure)
        return grpc.aio.insecure_channel(endpoint, options=_OPTIONS)
    if identity is None:
        credentials = grpc.ssl_channel_credentials(authority_pem)
    else:
        credentials = grpc.ssl_channel_credentials(
            identity.authority_pem, identity.key_pem, identity.chain_pem
        )
    options = (*_OPTIONS, ("grpc.ssl_target_name_override", name)) if name else _OPTIONS
    return grpc.aio.secure_channel(endpoint, credentials, options=options)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Metadata of a call that bears a token."""
    return (("authorization", f"Bearer {token}"),)


_OTHER_POOL = (
    "its certificate is of another authority than yours",
    "use a client folder that the node's own pool made",
)
_OTHER_NAME = (
    "its certificate does not hold for that name",
    "call it by a name it has (`harp remote init` shows them), or say which: --tls-name NAME",
)
#: {what grpcio says: (what that means, what to do)}; the first that occurs
_MEANINGS = {
    "certificate has expired": (
        "its certificate has run out",
        "renew it where the pool's authority is: harp remote init --renew",
    ),
    "certificate is not yet valid": (
        "its certificate is not valid yet",
        "set the clocks of both machines",
    ),
    "unable to get local issuer certificate": _OTHER_POOL,
    "self signed certificate": _OTHER_POOL,
    "self-signed certificate": _OTHER_POOL,
    "Hostname Verification Check failed": _OTHER_NAME,
    "not in peer certificate": _OTHER_NAME,
    "WRONG_VERSION_NUMBER": ("it does not speak TLS", "is it another program's port?"),
    "Connection refused": (
        "nobody listens there",
        "start the node's service, or check the address",
    ),
    "Socket closed": (
        "it ended the handshake",
        "it takes certificates of its own pool only: see that yours is one, and has not run out",
    ),
}


def explain(error: grpc.RpcError, endpoint: str) -> HarpError:
    """What a failed call means: the node's own error, or why the two did not come together."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return NodeUnreachable(f"{endpoint} did not answer: {error}")
    if any(key == ERROR_KEY for key, _ in error.trailing_metadata() or ()):
        return from_rpc(error)
    details = error.details() or str(error.code())
    for sign, (meaning, hint) in _MEANINGS.items():
        if sign in details:
            return NodeUnreachable(f"{endpoint} cannot be used: {meaning} ({details})", hint)
    return NodeUnreachable(f"{endpoint} did not answer: {details}", "is it up, and reachable?")


def _plaintext(where: str, *, insecure: bool) -> None:
    """Refuse plaintext, but on loopback where it was asked for."""
    host, _ = address(where)
    if not insecure:
        raise ConfigError(
            f"no certificate is given for {where}",
            "`harp remote init` makes some; on loopback alone --insecure does without",
        )
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError(
            f"{where} is not loopback, and plaintext there could be read and changed on its way",
            "use certificates (harp remote init), or 127.0.0.1 with --insecure",
        )


def address(text: str) -> tuple[str, int]:
    """Host and port of host:port or [host]:port.

    Raises:
        ConfigError: it is neither.
    """
    host, _, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]") if host.startswith("[") else host
    if not bare or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"{text!r} is no address", "write HOST:PORT, e.g. gpu1:7443")
    if ":" in bare and bare == host:
        raise ConfigError(f"{text!r} is no address", f"write [{host}]:{port}")
    return bare, int(port)
