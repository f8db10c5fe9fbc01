# SPDX-License-Identifier: Apache-2.0
"""Whatever a kubelet admits, starts, forgets and restarts, no grant is another's or too large.

The device manager of device_plugin.fake_kubelet and the pure parts of the plugin, without sockets:
tests/integration/test_plugin_kubelet.py has them.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from plugin_cases import gpus

from device_plugin.allocator import Chooser, Reason, Refused, check, limits, prefer
from device_plugin.book import Book, Grant, grant_id, missing
from device_plugin.checkpoint import Checkpoint, load, save
from device_plugin.fake_kubelet import AdmissionError, Ask, Devices, Stage
from device_plugin.identity import Ambiguous, Container, Holding, Kind, Match, Owner, Pod, find
from device_plugin.slots import Slots

KINDS = {Stage.INIT: Kind.INIT, Stage.SIDECAR: Kind.SIDECAR, Stage.MAIN: Kind.MAIN}


@dataclass
class Truth:
    """A pod as it is, whatever anybody says of it."""

    pod: Pod
    asks: list[Ask]
    begun: int = 0  #: containers that have started


@dataclass
class Node:
    """Kubelet's state, the plugin's state, and what is true."""

    rng: random.Random
    path: Path
    slots: Slots
    devices: Devices = field(default_factory=Devices)
    book: Book = field(default_factory=Book)
    pods: dict[str, Truth] = field(default_factory=dict)
    since: dict[str, float] = field(default_factory=dict)
    chooser: Chooser = field(default_factory=Chooser)
    count: Counter[str] = field(default_factory=Counter)
    made: int = 0
    now: float = 0.0

    def admit(self) -> None:
        """A pod of one to three containers comes."""
        self.made += 1
        rng, name = self.rng, f"p{self.made % 40}"  # names come again, as a StatefulSet's
        if name in self.pods:
            return
        stages = rng.choice(
            [[Stage.MAIN]] * 4
            + [[Stage.INIT, Stage.MAIN], [Stage.SIDECAR, Stage.MAIN], [Stage.MAIN, Stage.MAIN]]
            + [[Stage.INIT, Stage.SIDECAR, Stage.MAIN], [Stage.INIT, Stage.INIT, Stage.MAIN]]
        )
        sizes = [rng.choice([1, 5, 10, 20, 25, 30, 40, 60, 70, 100, 150, 200]) for _ in stages]
        asks = [Ask(f"c{i}", n, s) for i, (n, s) in enumerate(zip(sizes, stages, strict=True))]
        key, reusable = ("ns", name), set[str]()
        held = self.devices.held.setdefault(key, {})
        try:
            for ask in asks:
                ids = self.devices.choose(ask, reusable, self.prefer)
                held[ask.name] = ids
                reusable = reusable | ids if ask.stage is Stage.INIT else reusable - ids
                self.allocate(ids)
        except (AdmissionError, Refused):
            del self.devices.held[key]
            self.count["not admitted"] += 1
            return
        containers = tuple(Container(ask.name, KINDS[ask.stage]) for ask in asks)
        self.pods[name] = Truth(
            Pod("ns", name, f"uid-{self.made}", "n1", containers, pending=True), asks
        )
        self.count["admitted"] += 1

    def prefer(self, available: list[str], must: list[str], size: int) -> list[str]:
        """As the plugin says; or nothing, as by a plugin that was away."""
        if self.rng.random() < 0.3:
            self.rng.shuffle(available)
            return available[:size] if not must else []
        ids = prefer(self.slots, available, must, size, self.chooser)
        assert not ids or (len(ids) == size and set(must) <= set(ids) <= {*available, *must})
        return list(ids)

    def allocate(self, ids: frozenset[str]) -> None:
        """The plugin's answer is no exactly if it must be."""
        count = Counter(self.slots.all[name].gpu for name in ids)
        legal = len(count) == 1 or set(count.values()) == {self.slots.per_gpu}
        try:
            share = check(self.slots, ids)
        except Refused as refused:
            self.count[refused.reason.value] += 1
            known = refused.reason in {Reason.FRAGMENTED, Reason.NOT_WHOLE} and refused.hint
            if legal or not known:
                pytest.fail(f"{count}: {refused.message}; {refused.hint}")
            raise
        assert legal, "a grant over parts of several GPUs"
        assert set(share.gpus) == set(count)

    def begin(self) -> None:
        """The next container of some pod starts, or one that has started starts again."""
        if not self.pods:
            return
        truth = self.rng.choice(list(self.pods.values()))
        if truth.begun < len(truth.asks):
            ask = truth.asks[truth.begun]
            truth.begun += 1
            # What the API server knows of it, at times late.
            states = [
                replace(c, ended=True) if c.kind is Kind.INIT else replace(c, running=True)
                for c in truth.pod.containers[: truth.begun - 1]
            ]
            now = (*states, *truth.pod.containers[truth.begun - 1 :])
            if self.rng.random() < 0.9:
                truth.pod = replace(truth.pod, containers=now, started_s=self.now)
        else:
            ask = self.rng.choice([a for a in truth.asks if a.stage is not Stage.INIT])
            self.count["again"] += 1
        self.start(truth, ask)

    def start(self, truth: Truth, ask: Ask) -> None:
        """PreStartContainer."""
        ids = self.devices.held["ns", truth.pod.name][ask.name]
        holdings = [
            Holding(Owner(*key, name), held)
            for key, containers in self.devices.held.items()
            for name, held in containers.items()
        ]
        known = [t.pod for t in self.pods.values() if self.rng.random() < 0.95]
        found = find(ids, holdings, known, "n1")
        share = check(self.slots, ids)
        owner = None
        if isinstance(found, Match):
            owner = found.owner
            assert owner.pod == truth.pod.name, "another pod's"
            if sum(h.ids == ids for h in holdings) == 1:
                assert owner.container == ask.name, "another container's"
        else:
            assert isinstance(found, Ambiguous)
        uuids = tuple(self.slots.gpus[gpu].uuid for gpu in share.gpus)
        self.book.put(Grant(grant_id(ids), ids, uuids, limits(self.slots, share), owner))
        self.count["started"] += 1

    def end(self) -> None:
        """A pod is gone; the plugin is not told."""
        if self.pods:
            name = self.rng.choice(list(self.pods))
            del self.pods[name], self.devices.held["ns", name]
            self.count["ended"] += 1

    def restart_plugin(self) -> None:
        """It knows what its checkpoint says."""
        if self.rng.random() < 0.02:
            save(self.path, Checkpoint(None, 100, tuple(self.book)))
            after = load(self.path)
            assert after.grants == tuple(self.book)
            self.book = Book(after.grants)
        else:
            self.book = Book(tuple(self.book))
        self.slots_again()
        self.count["plugin restarts"] += 1

    def slots_again(self) -> None:
        """The driver counts the GPUs in another order; ids mean what they meant."""
        if self.rng.random() < 0.05:
            order = list(range(len(self.slots.gpus)))
            self.rng.shuffle(order)
            self.slots = Slots(
                [replace(g, index=i) for g, i in zip(self.slots.gpus, order, strict=True)]
            )

    def sweep(self) -> None:
        """The plugin compares its grants with kubelet's list."""
        self.now += 20
        listed = [ids for held in self.devices.held.values() for ids in held.values()]
        self.since, ended = missing(tuple(self.book), listed, self.since, self.now)
        for grant in ended:
            assert grant.ids not in listed
            self.book.remove(grant.id)

    def look(self) -> None:
        """What must hold at every moment."""
        ppm, memory = Counter[str](), Counter[str]()
        for grant in self.book:
            for uuid in grant.uuids:
                ppm[uuid] += grant.limits.share_ppm
                memory[uuid] += grant.limits.mem_bytes + grant.limits.context_bytes
        self.count["looks"] += 1
        assert apart(grant.ids for grant in self.book), "a slot in two grants"
        assert max(ppm.values(), default=0) <= 1_000_000, "more than 100 % of a GPU's time"
        assert max(memory.values(), default=0) <= 80 << 30, "more than a GPU's memory"
        held = (frozenset().union(*pod.values()) for pod in self.devices.held.values())
        assert apart(held), "a slot on two pods"


def apart(sets: Iterable[frozenset[str]]) -> bool:
    """Whether no two have one in common."""
    known = list(sets)
    return len(frozenset().union(*known)) == sum(map(len, known))


def run(operations: int, seed: int, path: Path) -> Counter[str]:
    rng = random.Random(seed)
    slots = Slots(gpus(2))
    node = Node(rng, path / "checkpoint.json", slots)
    node.devices.healthy = set(slots.all)
    kinds = [node.admit, node.begin, node.end, node.restart_plugin, node.sweep]
    for number, work in enumerate(rng.choices(kinds, [30, 40, 14, 8, 8], k=operations)):
        work()
        if number % 8 == 0 or work == node.begin:
            node.look()
    return node.count


def went_wrong_could(count: Counter[str], operations: int) -> None:
    """What there was; a wrong grant is a failure before. 0 of too few would say nothing."""
    print({"operations": operations, "wrong_grants": 0, **count})
    for what in ("admitted", "not admitted", "started", "again", "ended", "plugin restarts"):
        assert count[what] > operations // 100, count
    assert count["looks"] > operations // 4, count
    assert count["fragmented"] > operations // 500, count
    assert count["not_whole"] > operations // 2000, count


def _seed() -> int:
    return int(os.environ.get("HARP_TEST_SEED", random.randrange(1 << 32)))


def test_ten_thousand_operations(tmp_path: Path) -> None:
    seed = _seed()
    print("HARP_TEST_SEED", seed)
    went_wrong_could(run(10_000, seed, tmp_path), 10_000)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_million_operations(tmp_path: Path) -> None:
    seed = _seed()
    print("HARP_TEST_SEED", seed)
    went_wrong_could(run(1_000_000, seed, tmp_path), 1_000_000)
