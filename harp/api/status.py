# SPDX-License-Identifier: Apache-2.0
"""Errors across the control API: one status code per leaf, and the same leaf on the other side."""

from __future__ import annotations

import grpc
import grpc.aio

from harp import errors

__all__ = ["ERROR_KEY", "HINT_KEY", "code_of", "from_rpc", "trailers_of"]

ERROR_KEY = "harp-error"
HINT_KEY = "harp-hint-bin"

_CODES: dict[type[errors.HarpError], grpc.StatusCode] = {
    errors.UnitError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ConfigError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NoDevice: grpc.StatusCode.NOT_FOUND,
    errors.DeviceBusy: grpc.StatusCode.FAILED_PRECONDITION,
    errors.CheckpointFailed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnknownTenant: grpc.StatusCode.NOT_FOUND,
    errors.TenantExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.NotOwner: grpc.StatusCode.PERMISSION_DENIED,
    errors.QuotaExceeded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DaemonUnreachable: grpc.StatusCode.UNAVAILABLE,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.ArbiterError: grpc.StatusCode.UNAVAILABLE,
    errors.RunDirUnsafe: grpc.StatusCode.FAILED_PRECONDITION,
    errors.HistoryError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.LearnedLost: grpc.StatusCode.FAILED_PRECONDITION,
    errors.BuildMissing: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NvmlError: grpc.StatusCode.INTERNAL,
    errors.TraceError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.WireError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.UnknownLease: grpc.StatusCode.NOT_FOUND,
    errors.TableMismatch: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NodeDraining: grpc.StatusCode.UNAVAILABLE,
    errors.NodeUnreachable: grpc.StatusCode.UNAVAILABLE,
    errors.CertificateError: grpc.StatusCode.FAILED_PRECONDITION,
}


def _leaf(error: errors.HarpError) -> type[errors.HarpError]:
    """The nearest class of the table: what is finer stays on its own side of the wire."""
    for cls in type(error).__mro__:
        if cls in _CODES:
            return cls
    return errors.HarpError


def code_of(error: errors.HarpError) -> grpc.StatusCode:
    """Status code of an error."""
    return _CODES.get(_leaf(error), grpc.StatusCode.UNKNOWN)


def trailers_of(error: errors.HarpError) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata from which from_rpc() rebuilds the error."""
    return ((ERROR_KEY, _leaf(error).__name__), (HINT_KEY, error.hint.encode()))


def from_rpc(error: grpc.RpcError) -> errors.HarpError:
    """The error that the daemon raised."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return errors.DaemonUnreachable(f"the daemon did not answer: {error}")
    # By way of a list: grpc.aio's metadata of 1.71 says it is a mapping, and is none.
    trailers: dict[str, str | bytes] = dict([*(error.trailing_metadata() or ())])
    name = trailers.get(ERROR_KEY, "")
    hint = trailers.get(HINT_KEY, b"")
    text = error.details() or str(error.code())
    if isinstance(hint, bytes):
        hint = hint.decode(errors="replace")  # another machine's word
    kinds: tuple[type[errors.HarpError], ...] = (*_CODES, errors.HarpError)
    for cls in kinds:
        if cls.__name__ == name:
            return cls(text, hint)
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        return errors.Unauthenticated(text)
    if error.code() is grpc.StatusCode.UNIMPLEMENTED:
        return errors.DaemonError(
            "the daemon does not know this call: it is older than this program",
            "start the installed one in its place: harp daemon --upgrade",
        )
    return errors.DaemonUnreachable(
        f"the daemon did not answer: {text}", "see `harp daemon --status`"
    )
