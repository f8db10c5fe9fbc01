# SPDX-License-Identifier: Apache-2.0
"""Whatever starts, crashes, is edited, swept and forgotten: who runs has his own grant, always.

The real Starts, Edits and Orphans with a kubelet, an API server and a harpd in memory. The API
server is late, kubelet lists no init containers, each of them is silent at times, and the plugin
dies amid what it does: before harpd did it, after that, before it is written down.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from plugin_cases import slots_of

from device_plugin.allocator import Chooser, Refused, check, limits, prefer
from device_plugin.annotations import refine
from device_plugin.book import Book, Grant, grant_id
from device_plugin.edits import Edits
from device_plugin.fake_kubelet import AdmissionError, Ask, Devices, Stage
from device_plugin.identity import Container, Holding, Kind, Owner, Pod
from device_plugin.orphans import Orphans
from device_plugin.starts import Patience, Starts
from device_plugin.tenants import NodeView, Stray, tenant_name
from harp.errors import DaemonUnreachable, HarpError, QuotaExceeded

KINDS = {Stage.INIT: Kind.INIT, Stage.SIDECAR: Kind.SIDECAR, Stage.MAIN: Kind.MAIN}
SAID: tuple[Mapping[str, str], ...] = (
    {},
    {"harp.dev/memory": "400Mi"},
    {"harp.dev/compute": "1", "harp.dev/class": "latency"},
)


class Died(BaseException):
    """The plugin's process has ended."""


@dataclass
class Truth:
    """A pod as it is."""

    pod: Pod
    asks: list[Ask]
    begun: int = 0
    running: set[str] = field(default_factory=set)
    said: list[Mapping[str, str]] = field(default_factory=list)


@dataclass
class World:
    """Kubelet, API server and harpd, and the plugin among them."""

    rng: random.Random
    path: Path
    slots = slots_of(2)
    devices: Devices = field(default_factory=Devices)
    pods: dict[str, Truth] = field(default_factory=dict)
    #: as the API server knows them
    known: dict[str, Pod] = field(default_factory=dict)
    tenants: dict[str, Grant] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)
    saved: tuple[Grant, ...] = ()
    count: Counter[str] = field(default_factory=Counter)
    made: int = 0
    calm: bool = False

    def __post_init__(self) -> None:
        self.devices.healthy = set(self.slots.all)
        self.plugin()

    def plugin(self) -> None:
        """It begins, with what was written down."""
        self.starts = Starts(
            self.slots, Book(self.saved), self.path, node="n1", tenants=self, holders=self,
            pods=self, events=self, save=self.save, patience=Patience(0, 0, 0),
        )  # fmt: skip
        self.edits = Edits(self.starts, self, self, "n1")
        self.orphans = Orphans(self.path, self.starts, self, self)

    def may_fail(self) -> None:
        if self.calm:
            return
        if self.rng.random() < 0.02:
            self.count["silent"] += 1
            raise DaemonUnreachable("silent")
        if self.rng.random() < 0.01:
            raise Died

    # what the plugin asks

    def holdings(self) -> Sequence[Holding]:
        self.may_fail()
        return [
            Holding(Owner(*key, name), ids)
            for key, containers in self.devices.held.items()
            for name, ids in containers.items()
            if not name.startswith("init")
        ]

    def named(self, keys: Collection[tuple[str, str]]) -> Sequence[Pod]:
        if keys:
            self.may_fail()
        return [pod for pod in self.known.values() if pod.key in keys]

    def here(self, *, pending: bool = False) -> Sequence[Pod]:
        self.may_fail()
        return [pod for pod in self.known.values() if pod.pending or not pending]

    def tell(self, pod: Pod, reason: str, message: str) -> None:
        del pod, message
        self.count[reason] += 1

    def save(self, grants: Sequence[Grant]) -> None:
        if not self.calm and self.rng.random() < 0.01:
            raise Died
        self.saved = tuple(grants)

    def look(self) -> NodeView:
        raise AssertionError

    def ensure(self, grant: Grant, folder: Path) -> None:
        assert folder.name == grant.id
        assert grant.id in self.folders
        self.may_fail()
        name = tenant_name(grant)
        rest = {n: g for n, g in self.tenants.items() if n != name and g.id != grant.id}
        for gpu in self.slots.gpus:
            of = [g.limits for g in (*rest.values(), grant) if gpu.uuid in g.uuids]
            if sum(one.mem_bytes + one.context_bytes for one in of) > gpu.memory_bytes:
                self.count["full"] += 1
                raise QuotaExceeded("full")
        self.tenants = {**rest, name: grant}
        self.may_fail()

    def living(self) -> Mapping[str, bool]:
        self.may_fail()
        return dict.fromkeys(self.tenants, False)

    def remove(self, grant: Grant) -> None:
        self.remove_named(tenant_name(grant), self.path / grant.id)

    def remove_named(self, name: str, folder: Path) -> None:
        self.may_fail()
        if name in self.tenants and self.tenants[name].id == folder.name:
            del self.tenants[name]
        self.may_fail()

    def held_in(self, grants: Path) -> Mapping[str, Stray]:
        del grants
        self.may_fail()
        return {grant.id: Stray(name, False) for name, grant in self.tenants.items()}

    # what happens

    def admit(self) -> None:
        self.made += 1
        rng, name = self.rng, f"p{self.made % 12}"
        if name in self.pods:
            return
        stages = rng.choice(
            [[Stage.MAIN]] * 3
            + [[Stage.INIT, Stage.MAIN], [Stage.SIDECAR, Stage.MAIN], [Stage.MAIN, Stage.MAIN]]
            + [[Stage.INIT, Stage.INIT, Stage.MAIN], [Stage.INIT, Stage.MAIN, Stage.MAIN]]
        )
        asks = [
            Ask(f"{stage.value}{i}", rng.choice([10, 20, 20, 40, 60, 100]), stage)
            for i, stage in enumerate(stages)
        ]
        held = self.devices.held.setdefault(("ns", name), {})
        reusable = set[str]()
        try:
            for ask in asks:
                ids = self.devices.choose(ask, reusable, self.prefer)
                held[ask.name] = ids
                reusable = reusable | ids if ask.stage is Stage.INIT else reusable - ids
                limits(self.slots, check(self.slots, ids))
        except (AdmissionError, Refused):
            del self.devices.held["ns", name]
            return
        containers = tuple(Container(a.name, KINDS[a.stage], slots=a.size) for a in asks)
        said = rng.choice(SAID)
        pod = Pod("ns", name, f"u{self.made}", "n1", containers, pending=True, annotations=said)
        self.pods[name] = Truth(pod, asks, said=[said])
        self.known[name] = pod
        self.count["admitted"] += 1

    def prefer(self, available: list[str], must: list[str], size: int) -> list[str]:
        return list(prefer(self.slots, available, must, size, Chooser()))

    def begin(self) -> None:
        """The next container of a pod, or one that has crashed."""
        if not self.pods:
            return
        truth = self.rng.choice(list(self.pods.values()))
        again = truth.begun == len(truth.asks)
        if again:
            ask = self.rng.choice([a for a in truth.asks if a.stage is not Stage.INIT])
            truth.running.discard(ask.name)
            self.state(truth, ask.name, running=False)
        else:
            ask = truth.asks[truth.begun]
            for name in [n for n in truth.running if n.startswith("init")]:
                truth.running.discard(name)  # before the next one begins
                self.state(truth, name, running=False, ended=True)
        self.starts.start(self.devices.held["ns", truth.pod.name][ask.name])
        truth.running.add(ask.name)
        truth.begun += not again
        self.state(truth, ask.name, running=True)
        self.count["again" if again else "begun"] += 1

    def state(self, truth: Truth, name: str, **now: bool) -> None:
        """So it is; the API server hears of it now, or with the next thing that happens."""
        containers = [replace(c, **now) if c.name == name else c for c in truth.pod.containers]
        mains = [c for c in containers if c.kind is Kind.MAIN]
        pending = truth.pod.pending and not any(c.running for c in mains)
        truth.pod = replace(truth.pod, containers=tuple(containers), pending=pending)
        if self.rng.random() < 0.7:
            self.known[truth.pod.name] = truth.pod

    def end(self) -> None:
        if not self.pods:
            return
        name = self.rng.choice(list(self.pods))
        del self.pods[name], self.devices.held["ns", name]
        self.count["ended"] += 1
        if self.rng.random() < 0.8:
            del self.known[name]

    def edit(self) -> None:
        if self.pods and self.rng.random() < 0.7:
            truth = self.rng.choice(list(self.pods.values()))
            said = self.rng.choice(SAID)
            truth.said.append(said)
            truth.pod = replace(truth.pod, annotations=said)
            self.known[truth.pod.name] = truth.pod
        self.edits.look()
        self.count["looks at edits"] += 1

    def sweep(self) -> None:
        if self.rng.random() < 0.3:  # the API server has heard of all
            self.known = {name: truth.pod for name, truth in self.pods.items()}
        self.starts.sweep()
        self.orphans.sweep()
        self.count["sweeps"] += 1

    def check(self) -> None:
        """What must hold at every moment."""
        for truth in self.pods.values():
            for name in truth.running:
                ids = self.devices.held["ns", truth.pod.name][name]
                key = grant_id(ids)
                found = [g for g in self.tenants.values() if g.id == key]
                assert len(found) == 1, f"{truth.pod.name}/{name} runs and has no grant: {key}"
                (grant,) = found
                assert key in self.folders, "its folder is gone"
                share = limits(self.slots, check(self.slots, ids))
                if grant.owner is None:
                    assert grant.limits == share
                    self.count["nameless"] += 1
                    continue
                assert grant.owner.pod == truth.pod.name, "another pod's"
                assert grant.pod_uid in ("", truth.pod.uid), "of the one before"
                may = [refine(share, said)[0] for said in truth.said]
                assert grant.limits in [share, *may], "another's limits"
                self.count["named"] += 1


def run(operations: int, seed: int, path: Path) -> Counter[str]:
    world = World(random.Random(seed), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("device_plugin.book.GONE_S", 0.0)
        patch.setattr("device_plugin.starts.alive", lambda f: _alive(world, f))
        for module in ("starts", "orphans"):
            patch.setattr(f"device_plugin.{module}.drop_folder", lambda f: _drop(world, f))
        patch.setattr("device_plugin.starts.make_folder", lambda _, key: _make(world, key))
        patch.setattr(Path, "glob", lambda *_: [path / key for key in sorted(world.folders)])
        kinds = [world.admit, world.begin, world.end, world.edit, world.sweep]
        for number, work in enumerate(world.rng.choices(kinds, [25, 45, 10, 10, 10], k=operations)):
            try:
                work()
            except HarpError:
                world.count["not now"] += 1
            except Died:
                world.count["died"] += 1
                world.plugin()
            try:
                world.check()
            except AssertionError as error:
                error.add_note(f"after operation {number}, {work.__name__}")
                raise
    return world.count


def _alive(world: World, folder: Path) -> bool:
    return any(grant.id == folder.name for grant in world.tenants.values())


def _make(world: World, key: str) -> Path:
    world.folders.add(key)
    return world.path / key


def _drop(world: World, folder: Path) -> None:
    world.folders.discard(folder.name)


def _seed() -> int:
    return int(os.environ.get("HARP_TEST_SEED", random.randrange(1 << 32)))


@pytest.mark.parametrize("operations", [3000, pytest.param(40_000, marks=pytest.mark.slow)])
def test_who_runs_has_his_own_grant(tmp_path: Path, operations: int) -> None:
    seed = _seed()
    print("HARP_TEST_SEED", seed)
    count = run(operations, seed, tmp_path)
    print(dict(count))
    for what in ("begun", "again", "ended", "died", "sweeps", "looks at edits", "named"):
        assert count[what] > operations // 100, count
