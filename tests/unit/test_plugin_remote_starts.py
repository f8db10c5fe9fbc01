# SPDX-License-Identifier: Apache-2.0
"""Remote shares of a node, with a keeper that answers as told: what is told, and what waits."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from device_plugin import book
from device_plugin.book import Book, Grant, grant_id
from device_plugin.identity import Container, Holding, Owner, Pod
from device_plugin.plugin import Tempo
from device_plugin.remote_plugin import RemotePlugin, RemoteSettings
from device_plugin.remote_share import PoolSlots, remote_limits
from device_plugin.starts import Patience
from device_plugin.tenants import Stray
from harp.errors import DaemonUnreachable, HarpError
from harp.keep_wire import Held

SLOTS = PoolSlots()


def grant(name: str, first: int) -> Grant:
    ids = frozenset(f"remote-{number}" for number in range(first, first + 10))
    return Grant(grant_id(ids), ids, (), remote_limits(SLOTS, ids), Owner("ns", name, "main"), name)


class Keeper:
    """What it holds, whom it refuses and why."""

    def __init__(self) -> None:
        self.has: dict[str, Held] = {}
        self.refusals: dict[str, Exception] = {}
        self.asked: list[str] = []
        self.released: list[str] = []

    def ensure(self, grant: Grant, folder: Path) -> None:
        assert folder.is_dir()
        self.asked.append(grant.id)
        if error := self.refusals.get(grant.id):
            raise error
        self.has[grant.id] = Held(grant.id, str(grant.owner), node="n1")

    def given(self, key: str) -> Held | None:
        return self.has.get(key)

    def held(self) -> Sequence[Held]:
        return tuple(self.has.values())

    def living(self) -> Mapping[str, bool]:
        return {held.name: bool(held.sessions) for held in self.has.values()}

    def held_in(self, _grants: Path) -> Mapping[str, Stray]:
        return {key: Stray(key, busy=False) for key in self.has}

    def remove(self, grant: Grant) -> None:
        self.remove_named(grant.id, Path())

    def remove_named(self, name: str, _folder: Path) -> None:
        self.released.append(name)
        self.has.pop(name, None)


class Node:
    """Kubelet's list and the API server."""

    def __init__(self) -> None:
        self.holders: list[Holding] = []
        self.pods: list[Pod] = []
        self.silent = False
        self.events: list[tuple[str, str]] = []

    def holdings(self) -> Sequence[Holding]:
        return self.holders

    def named(self, keys: Collection[tuple[str, str]]) -> Sequence[Pod]:
        if self.silent and keys:
            raise DaemonUnreachable("no API server")
        return [pod for pod in self.pods if pod.key in keys]

    def here(self, *, pending: bool = False) -> Sequence[Pod]:
        return [pod for pod in self.pods if pod.pending or not pending]

    def tell(self, pod: Pod, _reason: str, message: str) -> None:
        self.events.append((pod.name, message))

    def lists(self, *grants: Grant) -> None:
        for one in grants:
            assert one.owner is not None
            self.holders.append(Holding(one.owner, one.ids))
            self.pods.append(Pod("ns", one.owner.pod, one.pod_uid, "n", (Container("main"),)))


World = tuple[RemotePlugin, Keeper, Node, list[Grant]]


@pytest.fixture
def plugin() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="hp-") as folder:  # short: sockets lie in it
        yield in_folder(Path(folder))


def in_folder(tmp_path: Path) -> World:
    keeper, node, grants = Keeper(), Node(), [grant("a", 0), grant("b", 10)]
    settings = RemoteSettings(state_dir=tmp_path, run_dir=tmp_path / "r", node="n")
    settings.grants.mkdir(parents=True)
    double: Any = keeper
    there: Any = node
    made = RemotePlugin(
        settings, tmp_path, Book(grants), keeper=double, holders=there, pods=there, events=there,
        tempo=Tempo(sweep_s=0.01), patience=Patience(0.01, 0.01, 0.01),
    )  # fmt: skip
    node.lists(*grants)
    return made, keeper, node, grants


def test_a_node_that_refuses_one_lease_is_in_nobody_elses_way(
    plugin: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its harpd is away, and the keeper was begun anew: others have theirs, nobody's are ended."""
    monkeypatch.setattr(book, "GONE_S", 0)
    made, keeper, node, (first, second) = plugin
    keeper.refusals[first.id] = DaemonUnreachable("harpd of n1 does not answer", "")
    stray, lost = grant("gone", 50).id, grant("lost", 60).id
    keeper.has = {stray: Held(stray, "ns/gone/main", node="n1"), lost: Held(lost, "x")}
    made.starts.sweep()
    assert {first.id, second.id} == set(keeper.asked)
    assert second.id in keeper.has
    made.orphans.sweep()
    assert set(keeper.released) == {stray, lost}
    assert node.events == []


def test_what_is_nobodys_is_ended_whatever_else_fails(
    plugin: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book, "GONE_S", 0)
    made, keeper, _, _ = plugin
    stray = grant("gone", 50)
    keeper.has = {stray.id: Held(stray.id, "ns/gone/main", node="n1")}
    ended = threading.Event()

    def broken() -> None:
        if keeper.released:
            ended.set()
        raise OSError("no space left")

    monkeypatch.setattr(made.starts, "sweep", broken)
    sweeping = threading.Thread(target=made._sweep)
    sweeping.start()
    try:
        assert ended.wait(20)
    finally:
        made._stop.set()
        sweeping.join()
    assert keeper.released == [stray.id]


def test_a_pod_is_told_of_its_loss_once_and_when_it_can_be(plugin: World) -> None:
    made, keeper, node, (first, second) = plugin
    for one in (first, second):
        keeper.has[one.id] = Held(one.id, str(one.owner), node="n1")
    made.starts.sweep()
    keeper.has[first.id] = Held(first.id, str(first.owner), why="the node was restarted")
    node.silent = True
    made.starts.sweep()
    assert node.events == []
    node.silent = False
    for _ in range(3):
        made.starts.sweep()
    assert node.events == [("a", "container main has no GPU now: the node was restarted")]
    keeper.has[first.id] = Held(first.id, str(first.owner), node="n2")
    made.starts.sweep()
    keeper.has[first.id] = Held(first.id, str(first.owner), why="the node was restarted")
    made.starts.sweep()
    assert len(node.events) == 2, "it had one in between"


@pytest.mark.parametrize("error", [HarpError("no room", "wait"), OSError("no space left")])
def test_of_a_start_that_failed_nothing_is_kept(plugin: World, error: Exception) -> None:
    made, keeper, node, (first, _) = plugin
    keeper.refusals[first.id] = error
    for pod in node.pods:
        assert pod.annotations == {}
    with pytest.raises(type(error)):
        made.starts.start(first.ids)
    assert made.starts._starting == {}
    assert node.events == ([("a", "no room; wait")] if isinstance(error, HarpError) else [])
