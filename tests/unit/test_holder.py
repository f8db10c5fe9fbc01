# SPDX-License-Identifier: Apache-2.0
"""Who holds a command's lease, with nodes that answer as told: what is tried again, and left."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from harp.api.v1 import remote_pb2 as pb
from harp.errors import NodeUnreachable
from harp.remote import hold as core
from harp.remote import holder as module
from harp.remote.hold import NotRenewed, held
from harp.remote.holder import Holder
from harp.remote.offers import Offers
from harp.remote.taking import Held, Taker, Taking


class Node:
    """A lease's stub and channel; sessions are s1, s2, and so on."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.attached = 0
        self.go = asyncio.Event()
        self.go.set()

    async def Attach(self, _request: object, **_more: object) -> pb.AttachReply:
        self.attached += 1
        name = f"s{self.attached}"
        await self.go.wait()
        return pb.AttachReply(session_id=name, token="t", endpoint="n1:7444")

    async def Detach(self, request: pb.DetachRequest, **_more: object) -> None:
        assert "close" not in self.said
        self.said.append(f"detach {request.session_id}")

    async def Release(self, _request: object, **_more: object) -> None:
        self.said.append("release")

    async def close(self, grace: float | None = None) -> None:
        self.said.append("close" if grace is None else "close, calls to their end")


class Finds:
    """A Taker: refuses so many times, then has a lease."""

    def __init__(self, *, given: bool = False) -> None:
        self.given = given
        self.refusals = 0
        self.finds = 0
        self.nodes: list[Node] = []
        self.reconnecting = asyncio.Event()

    async def check(self) -> None:
        pass

    async def find(self, at: str = "", without: object = None) -> Held:
        del at, without
        self.finds += 1
        if self.refusals:
            self.refusals -= 1
            raise NodeUnreachable("n1:7443 does not answer", "is it up?")
        self.nodes.append(node := Node())
        now_s = time.monotonic()
        taking = Taking("n1", "n1:7443", pb.LeaseReply(lease_id="l", ttl_s=60))
        double = cast("Any", node)
        return Held(taking, held(60, now_s, now_s), double, double, given=self.given)

    async def reconnected(self, held: Held) -> tuple[Node, Node]:
        assert held is not None
        self.reconnecting.set()
        await asyncio.sleep(0)
        if self.refusals:
            self.refusals -= 1
            raise NodeUnreachable("n1:7443 ended the handshake", "")
        self.nodes.append(node := Node())
        return node, node


def on(folder: Path, finds: Finds, ask: Callable[[Holder], Awaitable[None]]) -> list[str]:
    """Hold a lease while something happens; what the user was told."""
    said: list[str] = []

    async def main() -> None:
        holder = Holder(cast("Taker", finds), Offers(folder), "p", said.append, "job-1")
        async with holder.running():
            await holder.take()
            await asyncio.wait_for(ask(holder), 60)

    asyncio.run(main())
    return said


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.01)


def test_another_lease_is_looked_for_until_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MOVE_AGAIN_S", 0.02)
    finds = Finds()

    async def ask(holder: Holder) -> None:
        await until((tmp_path / "s1").exists)
        finds.refusals = 3
        assert holder._held is not None
        holder._step(holder._held, NotRenewed("it is unknown", final=True))
        await until((tmp_path / ".refused").exists)
        why = (tmp_path / ".refused").read_text()
        assert "remedy: wait, or harp remote attach job-1; so far: n1:7443 does not" in why
        await until((tmp_path / "s1").exists)
        assert finds.finds == 5
        assert not (tmp_path / ".refused").exists()

    said = on(tmp_path, finds, ask)
    assert said[-1] == "harp: the lease is now one of n1 at n1:7443"


def test_a_session_that_cannot_be_offered_does_not_end_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core, "_ATTACH_AGAIN_S", 0.05)
    folder, finds = tmp_path / "sessions", Finds()

    async def ask(_holder: Holder) -> None:
        (node,) = finds.nodes
        await until(lambda: node.said[:2] == ["detach s1", "detach s2"])
        folder.mkdir()
        await until(lambda: any(folder.glob("s*")))

    (told,) = on(folder, finds, ask)
    assert told.startswith(f"harp: sessions cannot be written to {folder}: No such file")


def test_a_session_on_its_way_is_detached_from_a_lease_that_goes_on(tmp_path: Path) -> None:
    finds = Finds(given=True)

    async def ask(holder: Holder) -> None:
        (node,) = finds.nodes
        await until((tmp_path / "s1").exists)
        node.go.clear()
        assert holder._held is not None
        holder._step(holder._held, core.Taken("s1"))
        await until(lambda: node.attached == 2)
        drop = asyncio.create_task(holder.drop("detached"))
        await until(lambda: holder._held is None)
        node.go.set()
        assert await drop
        assert sorted(node.said[:2]) == ["detach s1", "detach s2"]
        assert node.said[2:] == ["close"]

    on(tmp_path, finds, ask)


def test_a_session_on_its_way_is_detached_as_the_command_ends(tmp_path: Path) -> None:
    """A call that is broken off may have been answered already: nobody would ever detach that."""
    finds = Finds(given=True)

    async def ask(holder: Holder) -> None:
        (node,) = finds.nodes
        await until((tmp_path / "s1").exists)
        node.go.clear()
        assert holder._held is not None
        holder._step(holder._held, core.Taken("s1"))
        await until(lambda: node.attached == 2)
        asyncio.get_running_loop().call_later(0.05, node.go.set)

    on(tmp_path, finds, ask)
    (node,) = finds.nodes
    assert sorted(node.said[:2]) == ["detach s1", "detach s2"]
    assert node.said[2:] == ["close"]


def test_an_end_does_not_wait_for_a_session_that_does_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harp.remote.taking._GIVE_BACK_S", 0.05)
    finds = Finds(given=True)

    async def ask(holder: Holder) -> None:
        (node,) = finds.nodes
        await until((tmp_path / "s1").exists)
        node.go.clear()
        assert holder._held is not None
        holder._step(holder._held, core.Taken("s1"))
        await until(lambda: node.attached == 2)

    on(tmp_path, finds, ask)
    assert finds.nodes[0].said == ["detach s1", "close"]


def test_it_goes_on_over_another_connection(tmp_path: Path) -> None:
    finds = Finds()

    async def ask(holder: Holder) -> None:
        await until((tmp_path / "s1").exists)
        finds.refusals = 2
        assert not await holder.reconnect()
        assert not await holder.reconnect()
        assert finds.nodes[0].said == [], "the one of before is used"
        assert await holder.reconnect()
        old, new = finds.nodes
        assert old.said == ["close, calls to their end"]
        assert holder._held is not None
        holder._step(holder._held, core.Taken("s1"))
        await until(lambda: new.attached == 1)

    (told,) = on(tmp_path, finds, ask)
    assert told == ("harp: the renewed certificate is not used yet: n1:7443 ended the handshake")
    assert finds.nodes[1].said == ["release", "close"]


def test_a_lease_that_is_given_back_meanwhile_leaves_no_connection(tmp_path: Path) -> None:
    finds = Finds()

    async def ask(holder: Holder) -> None:
        again = asyncio.create_task(holder.reconnect())
        await finds.reconnecting.wait()
        await holder.release()
        assert await again
        assert [node.said for node in finds.nodes] == [["release", "close"], ["close"]]
        assert await holder.reconnect(), "there is nothing to do"

    on(tmp_path, finds, ask)


def test_a_lease_that_somebody_else_took_has_no_certificate_of_ours(tmp_path: Path) -> None:
    finds = Finds(given=True)

    async def ask(holder: Holder) -> None:
        assert await holder.reconnect()
        assert len(finds.nodes) == 1

    on(tmp_path, finds, ask)
