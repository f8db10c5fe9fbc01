# SPDX-License-Identifier: Apache-2.0
"""harpd's pools: whose limits are lowered, who is counted by its need, what came."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from metrics_cases import GIB, device, tenant

from harp.config import EstimateConfig
from harp.daemon.owners import Wish
from harp.daemon.picture import Picture
from harp.daemon.pools import Pools
from harp.estimator.job import Job, Need, Run
from harp.estimator.packing import Buffer
from harp.estimator.track import Track
from harp.lease_wire import Deny, MemClass, Msg, Op
from harp.model import Limits, Policy, Tenant, Use

JOB = Job(program="p", asked_mem_bytes=6 * GIB, device_mem_bytes=8 * GIB)
POD = (("container", "main"), ("namespace", "training"), ("pod", "a"))
GPU = device()


def need(target: str, typical: float, bound: float, *, known: bool = True) -> Need:
    return Need(target, typical, bound, 0.98, known, "signature", 7, "because")


def wish(limits: Limits, *, uid: int = 1000, held: bool = False, **more: object) -> Wish:
    made = Wish("t", "x", uid, "", limits, Policy.WARN, 1, "/g", held=held)
    return replace(made, labels=POD if held else (), **more)  # type: ignore[arg-type]


class World:
    """Pools of one GPU, and what they are told."""

    def __init__(self, mode: str = "enforce", modes: str = "") -> None:
        self.needs = [need("gpu_mem_bytes", 2.0 * GIB, 3.0 * GIB), need("share_ratio", 0.1, 0.2)]
        self.book = SimpleNamespace(tenants={}, devices={GPU.uuid: GPU}, number_of=lambda _uuid: 5)
        self.jobs: dict[str, Job] = {"t": JOB}
        self.track = Track()
        self.pools = Pools(
            EstimateConfig(mode, modes),
            lambda _job: self.needs,
            lambda tenant: self.jobs.get(tenant.name),
            cast("Any", self.book),
            Buffer(),
            track=self.track,
        )

    def add(self, made: Tenant) -> Tenant:
        self.book.tenants[made.tenant_id] = made
        return made

    def look(self, *held: tuple[Tenant, int]) -> None:
        uses = {(t.tenant_id, GPU.uuid): Use(leased_bytes=size) for t, size in held}
        self.pools.look(Picture(uses=uses))


@pytest.mark.parametrize(
    ("description", "asked", "given", "need_bytes"),
    [
        ("its bound", wish(Limits(6 * GIB, 500_000)), (3 * GIB, 200_000), 2 * GIB),
        ("nothing asked: the bound", wish(Limits()), (3 * GIB, 0), 2 * GIB),
        ("less asked", wish(Limits(GIB, 100_000)), (GIB, 100_000), GIB),
        ("what swaps", wish(Limits(6 * GIB, oversubscribe=True)), (6 * GIB, 0), 0),
        ("a lease's", wish(Limits(6 * GIB), for_root=True), (6 * GIB, 0), 0),
        ("a container that keeps out", wish(Limits(6 * GIB), held=True), (6 * GIB, 0), 0),
    ],
)
def test_who_is_given_what(
    description: str, asked: Wish, given: tuple[int, int], need_bytes: int
) -> None:
    found = World().pools.weigh(asked, JOB)
    assert (found.limits.mem_bytes, found.limits.share_ppm) == given, description
    assert found.limits.limit_ppm == asked.limits.limit_ppm
    assert found.need_bytes == need_bytes


def test_a_container_that_the_plugin_has_lowered_is_counted_and_lowered_no_further() -> None:
    asked = wish(Limits(5 * GIB, 300_000), held=True)
    found = World().pools.weigh(asked, JOB, estimated=True)
    assert (found.limits, found.need_bytes, found.duty_ppm) == (asked.limits, 2 * GIB, 100_000)


@pytest.mark.parametrize(
    ("mode", "modes", "asked", "acts"),
    [
        ("observe", "", wish(Limits()), False),
        ("recommend", "", wish(Limits()), False),
        ("observe", "uid:1000=enforce", wish(Limits()), True),
        ("enforce", "uid:1000=observe", wish(Limits()), False),
        ("observe", "training=enforce", wish(Limits(), uid=0, held=True), True),
        ("observe", "uid:0=enforce", wish(Limits(), uid=0, held=True), False),
    ],
)
def test_its_mode_is_its_user_s_or_its_namespace_s(
    mode: str,
    modes: str,
    asked: Wish,
    acts: bool,
) -> None:
    pools = World(mode, modes).pools
    assert pools.acts(asked) is acts
    if not acts:
        assert pools.weigh(asked, JOB, estimated=True) == asked


@pytest.mark.parametrize("level", ["user", "image", "framework", "cluster"])
def test_what_others_needed_lowers_nobody(level: str) -> None:
    world = World()
    world.needs = [replace(one, level=level) for one in world.needs]
    asked = wish(Limits(6 * GIB, 500_000))
    found = world.pools.weigh(asked, JOB)
    assert (found.limits, found.need_bytes) == (asked.limits, 0)
    world.needs[0] = replace(world.needs[0], level="signature")
    assert world.pools.weigh(asked, JOB).limits == Limits(3 * GIB, 500_000)


def test_who_is_unknown_gets_what_it_asks_for() -> None:
    world = World()
    world.needs = [need("gpu_mem_bytes", 2.0 * GIB, 3.0 * GIB, known=False)]
    asked = wish(Limits(6 * GIB, 500_000))
    assert world.pools.weigh(asked, JOB) == asked


def test_what_was_said_at_its_begin_is_held_against_its_run() -> None:
    world = World("observe")
    one = world.add(tenant(1, "t"))
    world.pools.began(one)
    world.needs = []  # by now nobody would say so
    del world.book.tenants[1]
    world.look()
    run = Run(JOB, ended_s=4e9, used={"gpu_mem_bytes": 4.0 * GIB})
    world.pools.told(one, run)
    world.pools.told(one, run)  # it has no other
    total, _ = world.pools.seen().targets["gpu_mem_bytes"]
    assert (total.judged, total.held, total.asked, total.bound) == (1, 0, 6 * GIB, 3 * GIB)
    assert world.pools.seen().answers["gpu_mem_bytes", True] == 1


def test_who_was_there_before_harpd_is_counted_and_not_judged() -> None:
    world = World("observe")
    one = world.add(tenant(1, "t"))
    world.look((one, GIB))
    (pool,) = world.pools.seen().pools
    assert pool.reserved_bytes == 2 * GIB
    world.pools.told(one, Run(JOB, used={"gpu_mem_bytes": 1.0}))
    assert world.pools.seen().targets["gpu_mem_bytes"][0].judged == 0
    assert world.pools.seen().answers == {}


def test_a_number_that_comes_again_is_another_tenant_s() -> None:
    world = World("observe")
    first = world.add(tenant(1, "t"))
    world.pools.began(first)
    second = replace(first, created_s=5.0)
    world.pools.began(second)
    world.pools.told(first, Run(JOB, used={"gpu_mem_bytes": 1.0}))
    world.pools.told(second, Run(JOB, used={"gpu_mem_bytes": 4.0 * GIB}))
    total, _ = world.pools.seen().targets["gpu_mem_bytes"]
    assert (total.judged, total.held) == (2, 1)


@pytest.mark.parametrize(
    ("reason", "cls", "dev", "full"),
    [
        (Deny.CAPACITY, MemClass.DEVICE, 5, 1),
        (Deny.LIMIT, MemClass.DEVICE, 5, 0),
        (Deny.CAPACITY, MemClass.HOST, 5, 0),
        (Deny.CAPACITY, MemClass.DEVICE, 6, 0),
    ],
)
def test_a_full_gpu_is_counted_and_nothing_else(
    reason: Deny, cls: MemClass, dev: int, full: int
) -> None:
    world = World()
    world.look()
    world.pools.denied(Msg(op=Op.EVENT_DENY, a=reason, cls=cls, dev=dev, amount_bytes=GIB))
    assert world.pools.full(GPU.uuid) == full


def test_one_that_nobody_knows_leaves_the_sum_unknown() -> None:
    world = World("observe")
    known, other = world.add(tenant(1, "t")), world.add(tenant(2, "stranger"))
    world.look((known, GIB), (other, GIB))
    assert world.pools.seen().pools[0].reserved_bytes is None
    assert (world.pools.duty_ppm(known), world.pools.duty_ppm(other)) == (100_000, 0)


def test_totals_are_not_told_before_those_of_the_last_harpd_are_in_them() -> None:
    world = World()
    world.track.whole = False
    world.pools.began(world.add(tenant(1, "t")))
    assert (world.pools.seen().answers, world.pools.seen().targets) == ({}, {})
    assert world.pools.seen().mode == "enforce"
    world.track.whole = True
    assert world.pools.seen().answers
    assert world.pools.seen().targets
