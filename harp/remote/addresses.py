# SPDX-License-Identifier: Apache-2.0
"""All addresses behind names: a Kubernetes Service without an address of its own is many nodes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

from harp.errors import NodeUnreachable
from harp.remote.trust import address

__all__ = ["addresses"]


async def addresses(nodes: Sequence[str]) -> Sequence[str]:
    """Each node by its address, host:port.

    Raises:
        NodeUnreachable: not one of the names is known.
    """
    found: dict[str, None] = {}
    why = ""
    for node in nodes:
        host, port = address(node)
        try:
            told = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            why = f"{host}: {error.strerror or error}"
            continue
        for family, _, _, _, where in told:
            bare = str(where[0])
            found[f"[{bare}]:{port}" if family == socket.AF_INET6 else f"{bare}:{port}"] = None
    if not found:
        raise NodeUnreachable(
            f"no address of the pool is known: {why}", "see the pool's Service, and DNS"
        )
    return tuple(found)
