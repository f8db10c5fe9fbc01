# SPDX-License-Identifier: Apache-2.0
"""Who calls, and whether the two sides speak of the same CUDA calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from harp.api.v1 import remote_pb2 as pb
from harp.errors import TableMismatch, Unauthenticated
from harp.remote.events import Caller

__all__ = ["LOOPBACK", "caller", "same_table"]

#: who calls where plaintext was allowed: any program of this machine; no certificate has this name
LOOPBACK = "(loopback)"
_BEARER = "Bearer "


def caller(
    peer: Mapping[str, Iterable[bytes]],
    metadata: Iterable[tuple[str, str | bytes]],
    holder: Callable[[str], Caller],
    *,
    insecure: bool,
) -> Caller:
    """Who calls, by certificate or by a lease's token.

    Args:
        peer: what grpcio says of the connection (auth_context()).
        metadata: of the call.
        holder: who a token stands for; raises Unauthenticated for nobody.
        insecure: plaintext was allowed, which is on loopback only: a call without anything is
            LOOPBACK's.

    Raises:
        Unauthenticated: neither, or the connection is not what it must be.
    """
    if b"ssl" in peer.get("transport_security_type", ()):
        # grpcio 1.71 does not say the version; there harp/remote/floor.py alone sees to it.
        version = bytes(next(iter(peer.get("ssl_tls_version", ())), b"TLSv1.3"))
        if version != b"TLSv1.3":
            raise Unauthenticated(
                f"the connection speaks {version.decode()}; HARP takes TLSv1.3 only",
                "use a client that speaks TLS 1.3",
            )
    elif not insecure:
        raise Unauthenticated(
            "the connection is not encrypted", "use TLS, with a certificate of this pool"
        )
    for name in peer.get("x509_common_name", ()):
        if name:
            return Caller(bytes(name).decode())
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str):
            return holder(value.removeprefix(_BEARER))
    if insecure:
        return Caller(LOOPBACK)
    raise Unauthenticated(
        "the call came with neither a client certificate nor a lease token",
        "`harp remote init --client NAME`, where the pool's authority is, makes a certificate",
    )


def same_table(ours: pb.TableId, theirs: pb.TableId) -> None:
    """Refuse a client that describes CUDA calls differently."""
    if (ours.format, ours.hash) == (theirs.format, theirs.hash):
        return
    raise TableMismatch(
        f"this node is {_named(ours)} and the client is {_named(theirs)}: they describe CUDA calls"
        " differently",
        "install the same version of HARP on both sides",
    )


def _named(table: pb.TableId) -> str:
    cuda = f"{table.cuda // 1000}.{table.cuda % 1000 // 10}"
    version = "".join(c for c in table.version[:32] if c.isprintable()) or "of unknown version"
    return (
        f"HARP {version} (format {table.format}, CUDA {cuda},"
        f" table {table.hash[:4].hex() or 'unknown'})"
    )
