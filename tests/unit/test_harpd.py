# SPDX-License-Identifier: Apache-2.0
"""harpd's loops, without devices and without an arbiter."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from harp.config import Config
from harp.daemon.harpd import Harpd
from harp.daemon.picture import Picture, parse
from harp.lease_wire import Msg, Op
from harp.model import ClientState

_DEATHS = 40
_NOTHING = cast("Any", None)


class _Looking(Harpd):
    """Counts its looks at what drains; `left` says of each whether something was left."""

    def __init__(self, left: list[bool]) -> None:
        super().__init__(Config(), _NOTHING, _NOTHING, _NOTHING, _NOTHING)
        self._connected.set()
        self.left = left
        self.looks = 0

    async def _drain_once(self) -> bool:
        self.looks += 1
        return self.left.pop(0) if self.left else False


class _Renewed(Harpd):
    """Its arbiters are followed by others; none of them asks what processes hold."""

    async def _replace_arbiter(self) -> asyncio.Task[None]:
        return asyncio.create_task(asyncio.sleep(0))


def test_the_last_word_of_an_arbiter_is_for_its_heir_alone() -> None:
    """With no tenants at an upgrade nobody asks for it; the next death is another matter."""
    client = Msg(op=Op.SNAP_CLIENT, tenant=1, client=1, pid=7, d=ClientState.LIVE.value)
    lease = Msg(op=Op.SNAP_LEASE, tenant=1, client=1, dev=0, leased_bytes=1 << 30)

    async def last_look() -> Picture:
        return parse([client, lease], {0: "GPU-1"})

    async def scenario() -> None:
        book, link = SimpleNamespace(last_look=last_look), SimpleNamespace(pid=1)
        harpd = _Renewed(Config(), cast("Any", book), cast("Any", link), _NOTHING, _NOTHING)
        await harpd.renew_arbiter(asyncio.create_task(asyncio.sleep(0)))
        tenant = cast("Any", SimpleNamespace(tenant_id=1, root_pid=0, root_start=0))
        assert await harpd._find_held({1: tenant}) == []

    asyncio.run(scenario())


def _died(client: int) -> Msg:
    return Msg(op=Op.EVENT_CLIENT, client=client, d=ClientState.DRAINING.value)


def _run(harpd: _Looking, deaths: int) -> None:
    async def scenario() -> None:
        draining = asyncio.create_task(harpd.drain())
        for client in range(1, deaths + 1):
            harpd.on_event(_died(client))
            await asyncio.sleep(0)
        await asyncio.sleep(0.3)
        draining.cancel()

    asyncio.run(scenario())


def test_many_that_die_together_are_looked_for_once() -> None:
    harpd = _Looking([])
    _run(harpd, _DEATHS)
    assert 1 <= harpd.looks <= _DEATHS / 4


def test_what_is_left_is_looked_for_again() -> None:
    harpd = _Looking([True, True])
    _run(harpd, 1)
    assert harpd.looks == 3
