# SPDX-License-Identifier: Apache-2.0
"""Gangs: turns of one tenant on several devices overlap, nobody deadlocks, shares hold."""

from __future__ import annotations

import itertools
import random

import pytest
from arbiter_core import GRANULE, MS, QUANTUM, SECOND, Act, Core, Msg, sends
from arbiter_engine import US, Job, Machine, Proc
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harp.lease_wire import GRANT_NO_GANG, Op


def together(each: Job) -> int:
    """How long two devices ran the tenant at the same time."""
    total = 0
    first, second = ([s for p in each.procs if p.dev == d for s in p.ran] for d in (0, 1))
    a = b = 0
    while a < len(first) and b < len(second):
        lo, hi = max(first[a][0], second[b][0]), min(first[a][1], second[b][1])
        total += max(0, hi - lo)
        a, b = (a + 1, b) if first[a][1] < second[b][1] else (a, b + 1)
    return total


def pair(**kwargs: object) -> list[Proc]:
    return [Proc(dev=dev, **kwargs) for dev in (0, 1)]  # type: ignore[arg-type]


@pytest.mark.parametrize("announces", [False, True])
def test_gang_runs_on_both_devices_at_once(announces: bool) -> None:
    """Each device also has a tenant of its own, so that turns would drift apart."""
    gang = Job(pair(announces=announces))
    jobs = [gang, Job([Proc(dev=0, kernel=700 * US)]), Job([Proc(dev=1, kernel=300 * US)])]
    machine = Machine(jobs, devices=2)
    machine.run(3 * SECOND)
    now = machine.core.now
    used = [gang.busy(machine.start, now, dev=dev) for dev in (0, 1)]
    assert min(used) > 0.25 * 3 * SECOND
    assert together(gang) > 0.75 * min(used)
    for dev, other in enumerate(jobs[1:]):
        assert other.busy(machine.start, now, dev=dev) > 0.4 * 3 * SECOND
        total = used[dev] + other.busy(machine.start, now, dev=dev)
        assert total > 0.95 * 3 * SECOND
    machine.core.close()


def test_without_ganging_turns_drift_apart() -> None:
    """The control for the test before."""
    gang = Job(pair(), flags=GRANT_NO_GANG)
    jobs = [gang, Job([Proc(dev=0, kernel=700 * US)]), Job([Proc(dev=1, kernel=300 * US)])]
    machine = Machine(jobs, devices=2)
    machine.run(3 * SECOND)
    used = [gang.busy(machine.start, machine.core.now, dev=dev) for dev in (0, 1)]
    assert together(gang) < 0.75 * min(used)
    machine.core.close()


@pytest.mark.parametrize("share", [500_000, 300_000])
def test_two_gangs_share_two_devices(share: int) -> None:
    jobs = [Job(pair(), share=share), Job(pair(kernel=(50 * US, MS)), share=1_000_000 - share)]
    machine = Machine(jobs, devices=2)
    machine.run(3 * SECOND)
    for dev in (0, 1):
        used = [each.busy(machine.start, machine.core.now, dev=dev) for each in jobs]
        assert used[0] / sum(used) == pytest.approx(share / 1e6, abs=0.02), dev
        assert sum(used) > 0.9 * 3 * SECOND, dev
    machine.core.close()


def test_device_that_is_not_wanted_takes_no_part() -> None:
    """A tenant of two devices that works on one is picked there like anyone."""
    jobs = [
        Job([Proc(dev=0), Proc(dev=1, burst=5, idle=20 * MS)]),
        Job([Proc(dev=0)]),
        Job([Proc(dev=1)]),
    ]
    machine = Machine(jobs, devices=2)
    machine.run(2 * SECOND)
    used = [each.busy(machine.start, machine.core.now, dev=0) for each in jobs]
    assert used[0] / sum(used) == pytest.approx(0.5, abs=0.03)
    assert jobs[2].busy(machine.start, machine.core.now, dev=1) > 0.9 * 2 * SECOND
    machine.core.close()


def test_a_higher_device_does_not_starve_under_a_gang_that_is_alone_on_a_lower_one() -> None:
    jobs = [Job(pair()), Job([Proc(dev=1)])]
    machine = Machine(jobs, devices=2)
    machine.run(3 * SECOND)
    used = [each.busy(machine.start, machine.core.now, dev=1) for each in jobs]
    assert used[0] / sum(used) == pytest.approx(0.5, abs=0.03)
    machine.core.close()


class Spinner:
    """Gangs whose kernels end only once the fellow kernels on all their devices run."""

    def __init__(self, devices: int, gangs: list[tuple[int, ...]]) -> None:
        self.core = Core(quantum_ns=QUANTUM)
        for number in range(devices):
            self.core.add_device(100 * GRANULE, number=number + 1)
        self.gangs = gangs
        self.clients = []
        self.gates: list[dict[int, Msg]] = [{} for _ in gangs]
        self.wanted: list[set[int]] = [set() for _ in gangs]
        self.rounds = [0] * len(gangs)
        for devs in gangs:
            tenant = self.core.add_tenant(0)
            for dev in devs:
                self.core.set_tenant(tenant, dev)
            self.clients.append(self.core.join(tenant))

    def heard(self, acts: list[Act]) -> None:
        for to, msg in sends(acts):
            if msg.op == Op.OPEN_GATE and not msg.a:
                gang = self.clients.index(to)
                self.gates[gang][msg.dev] = msg
                self.wanted[gang].discard(msg.dev)

    def want(self, gang: int, dev: int) -> None:
        if dev in self.gates[gang] or dev in self.wanted[gang]:
            return
        self.wanted[gang].add(dev)
        self.heard(self.core.tell(self.clients[gang], Op.WANT_TIME, dev=dev))

    def finish(self, gang: int, order: list[int]) -> None:
        """All its kernels run: they end, one after the other."""
        if set(self.gates[gang]) != set(self.gangs[gang]):
            return
        self.rounds[gang] += 1
        for dev in order:
            msg = self.gates[gang].pop(dev)
            acts = self.core.tell(
                self.clients[gang], Op.YIELD_TIME, dev=dev, epoch=msg.epoch, used_ns=MS
            )
            self.heard(acts)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    gangs=st.lists(
        st.sampled_from([(0, 1), (0, 2), (1, 2), (0, 1, 2)]),
        min_size=2,
        max_size=4,
    ),
)
@example(seed=715472, gangs=[(0, 1, 2)] * 4)
@example(seed=75192, gangs=[(0, 1, 2), (0, 1), (0, 1, 2), (0, 1, 2)])
def test_spinning_gangs_always_progress(seed: int, gangs: list[tuple[int, ...]]) -> None:
    """In whatever order they come to want their devices, no holder is given up for another."""
    world = Spinner(3, gangs)
    chance = random.Random(seed)
    for _ in range(5):
        steps = [(gang, dev) for gang, devs in enumerate(gangs) for dev in devs]
        chance.shuffle(steps)
        for gang, dev in steps:
            world.want(gang, dev)
            world.core.now += chance.choice([0, 30 * US, 2 * MS])
        before = list(world.rounds)
        for _ in range(20 * len(gangs)):
            for gang, devs in enumerate(gangs):
                world.finish(gang, chance.sample(devs, len(devs)))
            # Stuck kernels spin on; the arbiter may open others beside them after a while.
            world.heard(list(world.core.advance(5 * MS)))
            if all(now > then for now, then in zip(world.rounds, before, strict=True)):
                break
        assert all(now > then for now, then in zip(world.rounds, before, strict=True)), world.rounds
        assert "gate_overdue" not in world.core.log
    world.core.close()


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kernels=st.lists(
        st.sampled_from([100 * US, MS, 4 * MS, (50 * US, 3 * MS)]), min_size=4, max_size=4
    ),
    announces=st.booleans(),
    overlap=st.booleans(),
    seed=st.integers(0, 99),
)
@example(
    kernels=[(50 * US, 3 * MS), (50 * US, 3 * MS), MS, MS], announces=True, overlap=True, seed=56
)
def test_gangs_over_overlapping_devices_get_time(
    kernels: list[int | tuple[int, int]], announces: bool, overlap: bool, seed: int
) -> None:
    first = [Proc(kernels[0], dev=0, announces=announces), Proc(kernels[1], dev=1)]
    shift = 1 if overlap else 0
    second = [Proc(kernels[2], dev=shift), Proc(kernels[3], dev=shift + 1, announces=announces)]
    jobs = [Job(first), Job(second)]
    machine = Machine(jobs, devices=3, seed=seed)
    machine.run(2 * SECOND)
    for each, proc in itertools.chain((j, p) for j in jobs for p in j.procs):
        got = each.busy(machine.start, machine.core.now, dev=proc.dev)
        # What drains when a gang begins is in its way on its higher devices: less than half there.
        assert got > 0.15 * 2 * SECOND, (proc.dev, proc.kernel)
        charged = machine.core.use(each.tenant, proc.dev).used_ns
        assert charged == pytest.approx(got, abs=30 * MS + 0.02 * got)
    machine.core.close()
