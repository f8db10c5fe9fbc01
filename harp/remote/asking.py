# SPDX-License-Identifier: Apache-2.0
"""One question to a node's remote service, and its answer or why there is none."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc.aio

from harp.api.v1 import remote_pb2 as pb
from harp.api.v1 import remote_pb2_grpc
from harp.remote.trust import Identity, channel, explain

__all__ = ["drain", "leases"]

_Reply = TypeVar("_Reply")
_TIMEOUT_S = 15.0


async def leases(node: str, identity: Identity | None, *, insecure: bool) -> pb.LeasesReply:
    """The leases of a node that are the caller's to see.

    Raises:
        HarpError: as the node answered, or NodeUnreachable.
    """
    request = pb.LeasesRequest()
    return await _ask(
        node, identity, lambda stub: stub.Leases(request, timeout=_TIMEOUT_S), insecure=insecure
    )


async def drain(
    node: str, identity: Identity | None, request: pb.DrainRequest, *, insecure: bool
) -> pb.DrainReply:
    """Empty a node, or stop doing so.

    Raises:
        HarpError: as the node answered, or NodeUnreachable.
    """
    return await _ask(
        node, identity, lambda stub: stub.Drain(request, timeout=_TIMEOUT_S), insecure=insecure
    )


async def _ask(
    node: str,
    identity: Identity | None,
    what: Callable[[remote_pb2_grpc.RemoteAsyncStub], Awaitable[_Reply]],
    *,
    insecure: bool,
) -> _Reply:
    async with channel(node, identity, insecure=insecure) as made:
        stub: remote_pb2_grpc.RemoteAsyncStub = remote_pb2_grpc.RemoteStub(made)  # type: ignore[assignment]
        try:
            return await what(stub)
        except grpc.aio.AioRpcError as error:
            raise explain(error, node) from error
