# SPDX-License-Identifier: Apache-2.0
"""A name that stands for several nodes."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from harp.errors import NodeUnreachable
from harp.remote.addresses import addresses

KNOWN = {
    "pool": ["10.0.0.1", "10.0.0.2", "10.0.0.3"],
    "six": ["fd00::1"],
    "10.0.0.2": ["10.0.0.2"],
}


def found(monkeypatch: pytest.MonkeyPatch, *nodes: str) -> list[str]:
    async def ask() -> list[str]:
        async def told(host: str, port: int, **_: Any) -> list[Any]:
            if host not in KNOWN:
                raise socket.gaierror(-2, "Name or service not known")
            six = socket.AF_INET6 if ":" in KNOWN[host][0] else socket.AF_INET
            return [(six, 1, 6, "", (one, port)) for one in KNOWN[host]]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", told)
        return list(await addresses(nodes))

    return asyncio.run(ask())


def test_all_addresses_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch, "gone:1", "pool:7443", "10.0.0.2:7443", "six:1") == [
        "10.0.0.1:7443",
        "10.0.0.2:7443",
        "10.0.0.3:7443",
        "[fd00::1]:1",
    ]


def test_no_name_that_is_known_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NodeUnreachable, match="gone: Name or service not known"):
        found(monkeypatch, "gone:1")
