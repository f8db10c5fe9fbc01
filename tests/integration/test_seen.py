# SPDX-License-Identifier: Apache-2.0
"""What a tenant sees of the device's memory, by every road, at every step."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harp.lease_wire import Op
from tests.integration.shim_world import GRANULE, MIB, World, soft_world
from tests.integration.told import PROGRAM, Told

LIMIT = 256 * MIB
CONTEXT = 24 * MIB  # of the "tiny" model


@pytest.fixture
def soft(native_dir: Path) -> Iterator[World]:
    with soft_world(native_dir, overhead=CONTEXT) as world:
        world.tenant("t", mem=LIMIT)
        yield world


def program(world: World, name: str, *arguments: str) -> Told:
    return Told(world.start(name, sys.executable, PROGRAM, *arguments))


def told(world: World, name: str) -> list[int]:
    """Free, used and limit, as the arbiter counts them."""
    answers = world.ask(op=Op.SNAPSHOT)
    tenant = world.tenants[name]
    use = next(a for a in answers if a.op == Op.SNAP_USE and a.tenant == tenant)
    counted = sum(a.limit_bytes for a in answers if a.op == Op.SNAP_LEASE and a.tenant == tenant)
    used = use.leased_bytes + use.amount_bytes + counted
    used = -(-used // GRANULE) * GRANULE  # what is free is whole granules
    return [max(0, use.limit_bytes - used), min(used, use.limit_bytes), use.limit_bytes]


def agree(*said: dict[str, Any]) -> list[int]:
    """All roads of all programs say one thing; what it is."""
    numbers = said[0]["v1"]
    for one in said:
        for road in ("v1", "v2", "cuda"):
            assert one.get(road, numbers) == numbers, (road, said)
        assert one.get("total", numbers[2]) == numbers[2]
        assert one["reserved"] == 0
    free, used, total = numbers
    assert free + used == total
    return [free, used, total]


def test_every_road_says_the_same_at_random_steps_of_two_processes(soft: World) -> None:
    dice = random.Random(5)
    both = [program(soft, "t"), program(soft, "t")]
    watcher = program(soft, "t", "look")
    grown = {one.pid: 0 for one in both}
    client_of = {c.pid: c.client for c in soft.clients()}
    for _ in range(60):
        actor, other = dice.sample(both, 2)
        match dice.randrange(6):
            case 0 if actor.do("info")["held"]:
                said = actor.do("free", 0)
            case 1:
                said = actor.do(dice.choice(["module", "managed", "vmm", "ordered"]), 3 * MIB)
            case 2:
                said = actor.do("alloc", dice.randrange(1, 64 * MIB))
            case 3:
                said = actor.do("alloc", dice.randrange(1, MIB))
            case 4:  # code beyond what a context is expected to cost, as harpd tells it
                grown[actor.pid] = dice.randrange(0, 40 * MIB)
                soft.ask(
                    op=Op.SET_OVERHEAD,
                    client=client_of[actor.pid],
                    dev=soft.device,
                    amount_bytes=CONTEXT + grown[actor.pid],
                    limit_bytes=grown[actor.pid],
                )
                said = actor.do("info")
            case _:
                said = actor.do("info")
        assert said["code"] in (0, 2)
        numbers = agree(said, other.do("info"), watcher.do("info"))
        assert numbers == told(soft, "t")
    assert any(grown.values())


def test_what_is_free_can_be_had_and_is_none_afterwards(soft: World) -> None:
    one, other = program(soft, "t"), program(soft, "t")
    other.do("alloc", 5 * MIB)
    free = one.do("alloc", 3 * MIB)["cuda"][0]
    assert free == LIMIT - 6 * MIB - 4 * MIB
    said = one.do("alloc", free)
    assert (said["code"], said["cuda"][0]) == (0, 0)
    agree(said, other.do("info"))


def test_own_unused_lease_is_free_for_whoever_asks(soft: World) -> None:
    one, watcher = program(soft, "t"), program(soft, "t", "look")
    one.do("alloc", GRANULE)
    assert agree(one.do("free", 0), watcher.do("info")) == [LIMIT, 0, LIMIT]


def test_lowered_limit_is_seen_at_once_and_free_is_never_negative(soft: World) -> None:
    one, watcher = program(soft, "t"), program(soft, "t", "look")
    one.do("alloc", 100 * MIB)
    soft.set_tenant("t", limit_bytes=64 * MIB)
    assert agree(one.do("info"), watcher.do("info")) == [0, 64 * MIB, 64 * MIB]
    assert one.do("alloc", MIB)["code"] == 2
    soft.set_tenant("t", limit_bytes=128 * MIB)
    said = one.do("alloc", 28 * MIB)
    assert agree(said, watcher.do("info")) == [0, 128 * MIB, 128 * MIB]
    assert said["code"] == 0


def test_who_only_looks_holds_no_session_and_is_no_company(soft: World) -> None:
    soft.tenant("other", mem=64 * MIB)
    program(soft, "t")
    watchers = [program(soft, "other", "look") for _ in range(2)]
    for watcher in watchers:
        for _ in range(5):
            assert agree(watcher.do("info")) == [64 * MIB, 0, 64 * MIB]
    assert [c.tenant for c in soft.clients()] == [soft.tenants["t"]]
    for watcher in watchers:
        sockets = subprocess.run(
            ["ls", "-l", f"/proc/{watcher.pid}/fd"], capture_output=True, text=True, check=True
        )
        assert "socket:" not in sockets.stdout
        assert len(list(Path(f"/proc/{watcher.pid}/task").iterdir())) == 1
    # In earnest it becomes a client like any other.
    assert agree(watchers[0].do("context")) == [64 * MIB, 0, 64 * MIB]
    assert len(soft.clients()) == 2


def test_processes_are_the_tenants_own_and_their_bytes_make_the_used_memory(soft: World) -> None:
    soft.tenant("other", mem=64 * MIB)
    stranger = program(soft, "other")
    stranger.do("alloc", 8 * MIB)
    one, two = program(soft, "t"), program(soft, "t")
    one.do("alloc", 10 * MIB)
    two.do("alloc", 20 * MIB)
    for said in (one.do("info"), program(soft, "t", "look").do("info")):
        assert said["processes"] == {str(one.pid): 10 * MIB, str(two.pid): 20 * MIB}
        assert sum(said["processes"].values()) == said["v1"][1]
        assert said["engines"] == sorted([one.pid, two.pid])
    assert stranger.do("info")["processes"] == {str(stranger.pid): 8 * MIB}
    assert stranger.do("info")["engines"] == [stranger.pid]
