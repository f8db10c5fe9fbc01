# SPDX-License-Identifier: Apache-2.0
"""Memory that a client may hand out by itself, as the worker grants it: what it may not do with it,
and when it is wanted back. SESSION.md, "Memory".
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ring_client import REVERSE, Client, Record, Worker
from shim_world import MIB, World, soft_world
from worker_world import INVALID_VALUE, OUT_OF_MEMORY, SUCCESS, alloc, read, start, stream, sync

from harp.wire import decode_request

KIB = 1 << 10
LARGEST, MOST, LEAVES = MIB, 2 * MIB, 64 * MIB  # native/src/wire/lease.h
#: what has gone with its process; a loaded machine gets as long
GONE_S = 30.0


@pytest.fixture(scope="module")
def world(native_dir: Path) -> Iterator[World]:
    with soft_world(native_dir, devices="h100-80g") as made:
        yield made


@pytest.fixture
def tenant(world: World) -> str:
    """A new one: what an earlier one's sessions had need not have come back yet."""
    name = f"t{len(world.tenants)}"
    world.tenant(name, mem=512 * MIB)
    return name


@pytest.fixture(params=[(), ("--no-wipe",)], ids=["wiping", "not wiping"])
def wipes(request: pytest.FixtureRequest) -> tuple[str, ...]:
    options: tuple[str, ...] = request.param
    return options


@pytest.fixture
def client(world: World, tenant: str, wipes: tuple[str, ...]) -> Iterator[Client]:
    env = world.env(tenant)
    del env["LD_PRELOAD"]  # libharp is the driver that the worker opens
    with Worker(world.native, world.shim / "libcuda.so.1", env, options=wipes) as worker:
        made = worker.dial()
        made.context()
        yield made
        assert worker.process.poll() is None, worker.words()


def lease(c: Client, size: int, count: int) -> list[int]:
    """The program's own, and those that are spare."""
    answered = c.must("harpMemLease", bytes=size, count=count, addresses=[0] * count)["addresses"]
    found = [int(at) for at in answered if at]
    assert len(set(found)) == len(found)
    assert answered[: len(found)] == found  # the rest are 0
    return found


def fill(c: Client, at: int, size: int = 16) -> int:
    return c.ask("cuMemsetD8_v2", dstDevice=at, uc=7, N=size)[0]


def ask(c: Client, name: str, at: int) -> int:
    return c.ask(name, address=at)[0]


def test_what_is_spare_is_nobodys_until_it_is_taken(client: Client) -> None:
    own, spare, other = lease(client, 4000, 3)
    assert fill(client, own, 4000) == SUCCESS
    assert fill(client, own, 4001) == INVALID_VALUE  # each is an allocation of its own
    assert fill(client, spare) == INVALID_VALUE
    assert client.ask("cuMemFree_v2", dptr=spare)[0] == INVALID_VALUE
    assert client.ask("cuMemGetAddressRange_v2", pbase=1, psize=1, dptr=spare)[0] == INVALID_VALUE
    assert ask(client, "harpMemKeep", spare) == INVALID_VALUE
    client.send("harpMemTake", address=spare)
    assert fill(client, spare, 4000) == SUCCESS
    answer = client.must("cuMemGetAddressRange_v2", pbase=1, psize=1, dptr=spare + 1)
    assert (answer["pbase"], answer["psize"]) == (spare, 4000)
    for not_spare in (spare, own, other + 8, 0, 1 << 46):
        assert ask(client, "harpMemTake", not_spare) == INVALID_VALUE
    client.must("cuMemFree_v2", dptr=spare)
    assert ask(client, "harpMemTake", spare) == INVALID_VALUE
    assert sync(client) == SUCCESS


def test_what_is_kept_is_as_if_freed(client: Client, wipes: tuple[str, ...]) -> None:
    own = lease(client, 4000, 1)[0]
    assert fill(client, own, 4000) == SUCCESS
    client.send("harpMemKeep", address=own)
    assert fill(client, own) == INVALID_VALUE
    assert ask(client, "harpMemKeep", own) == INVALID_VALUE
    client.send("harpMemTake", address=own)
    assert read(client, own, 4000) == (b"\7" * 4000 if wipes else bytes(4000))
    plain = alloc(client, 4000)  # what no lease has made may be kept, too
    client.send("harpMemKeep", address=plain)
    assert fill(client, plain) == INVALID_VALUE
    assert sync(client) == SUCCESS


def test_what_still_writes_there_is_waited_for(client: Client) -> None:
    own, on = lease(client, 4000, 1)[0], stream(client)
    client.functions[5] = lambda _asked: time.sleep(0.2)
    client.send("cuLaunchHostFunc", hStream=on, fn=5, userData=None)
    client.send("cuMemsetD8Async", dstDevice=own, uc=7, N=4000, hStream=on)
    client.send("harpMemKeep", address=own)
    client.send("harpMemTake", address=own)
    client.send("cuMemsetD8_v2", dstDevice=own, uc=9, N=4000)
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    assert read(client, own, 4000) == b"\x09" * 4000


def test_only_allocations_of_the_context_are_kept(client: Client) -> None:
    pooled = client.must("cuMemAllocAsync", dptr=1, bytesize=4096, hStream=0)["dptr"]
    agreed = client.must("harpArena", base=0, bytes=2 * MIB, agreed=1)["agreed"]
    own = alloc(client)
    first, second = client.current, client.new()
    client.must("cuCtxCreate_v2", pctx=second, flags=0, dev=0)
    for at in (pooled, agreed, own, own + 256, 0):
        assert ask(client, "harpMemKeep", at) == INVALID_VALUE
    assert fill(client, own) == SUCCESS
    client.send("cuCtxSetCurrent", ctx=first)
    for at in (pooled, agreed):
        assert ask(client, "harpMemKeep", at) == INVALID_VALUE
    assert fill(client, pooled) == SUCCESS
    client.must("cuMemFreeAsync", dptr=pooled, hStream=0)
    client.must("cuMemAddressFree", ptr=agreed, size=2 * MIB)
    assert ask(client, "harpMemKeep", own) == SUCCESS


def test_it_ends_with_its_context(client: Client) -> None:
    first, second = client.current, client.new()
    client.must("cuCtxCreate_v2", pctx=second, flags=0, dev=0)
    made = lease(client, 4096, 8)
    client.must("cuCtxDestroy_v2", ctx=second)
    client.send("cuCtxSetCurrent", ctx=first)
    for at in made:
        assert ask(client, "harpMemTake", at) == INVALID_VALUE
        assert fill(client, at) == INVALID_VALUE


def test_there_is_little_of_it(client: Client) -> None:
    assert len(lease(client, LARGEST + 1, 8)) == 1
    assert client.ask("harpMemLease", bytes=0, count=8, addresses=[0] * 8)[0] == INVALID_VALUE
    assert client.ask("harpMemLease", bytes=9, count=0, addresses=[])[0] == INVALID_VALUE
    assert client.ask("harpMemLease", bytes=9, count=2, addresses=None)[0] == INVALID_VALUE
    assert len(lease(client, 1, 1000)) == 33
    spare = sum(len(lease(client, LARGEST, 6)) - 1 for _ in range(4))
    assert spare == MOST // LARGEST - 1  # and 32 of a byte each


def test_where_little_is_left_there_is_none_and_what_was_is_wanted_back(
    world: World, tenant: str
) -> None:
    with start(world, tenant) as worker:
        c = worker.dial()
        c.context()
        spare = lease(c, 4096, 4)[1:]
        assert len(spare) == 3

        def recalled() -> list[Record]:
            return [record for record in c.got if record.name == "harpMemRecall"]

        free = c.must("cuMemGetInfo_v2", free=1, total=1)["free"]
        alloc(c, free - LEAVES - 8 * MIB)
        assert recalled() == []
        alloc(c, 16 * MIB)
        (said,) = recalled()
        assert said.flags == REVERSE
        assert decode_request(said.op, said.body)["free_bytes"] < LEAVES
        assert len(lease(c, 4096, 4)) == 1
        alloc(c, MIB)
        assert len(recalled()) == 1  # once
        free = c.must("cuMemGetInfo_v2", free=1, total=1)["free"]
        size = (free // MIB) * MIB
        assert c.ask("cuMemAlloc_v2", dptr=1, bytesize=size + 2 * MIB)[0] == OUT_OF_MEMORY
        for at in spare:
            c.send("harpMemTake", address=at)
            c.send("cuMemFree_v2", dptr=at)
        alloc(c, size)


def test_a_client_that_dies_gives_it_back(world: World, tenant: str) -> None:
    with start(world, tenant) as worker:
        c = worker.dial()
        c.context()
        assert len(lease(c, LARGEST, 3)) == 3
        assert world.usage(tenant).leased_bytes >= 3 * MIB
        c.sock.close()
        assert worker.process.wait(GONE_S) == 0
    until = time.monotonic() + GONE_S
    while world.usage(tenant).leased_bytes and time.monotonic() < until:
        time.sleep(0.02)
    assert world.usage(tenant).leased_bytes == 0
