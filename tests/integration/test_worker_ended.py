# SPDX-License-Identifier: Apache-2.0
"""What has ended with another thing is none: a driver that is given it may not look.

The software GPU looks. So it is seen by the id, which stands for nothing any more and may be
another thing's; and by the answer of cuMemGetAddressRange, which of an address that no call had
given the worker says itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ring_client import REPLY, WANTED, Client, Record, Worker
from shim_world import MIB, World, soft_world
from worker_world import PTX, SUCCESS, alloc, number, stream, sync

INVALID_VALUE, INVALID_HANDLE = 1, 400


@pytest.fixture(scope="module")
def world(native_dir: Path) -> Iterator[World]:
    with soft_world(native_dir) as made:
        made.tenant("remote", mem=512 * MIB)
        yield made


@pytest.fixture(params=[(), ("--no-wipe",)], ids=["wiping", "not wiping"])
def client(world: World, request: pytest.FixtureRequest) -> Iterator[Client]:
    env = world.env("remote")
    del env["LD_PRELOAD"]
    driver = world.shim / "libcuda.so.1"
    with Worker(world.native, driver, env, options=request.param) as worker:
        made = worker.dial()
        made.context()
        yield made
        assert worker.process.poll() is None


def address(c: Client, at: int) -> int:
    """INVALID_VALUE: by the worker, no driver was asked."""
    return c.ask("cuMemGetAddressRange_v2", pbase=1, psize=1, dptr=at)[0]


def free(c: Client, made: int) -> bool:
    """Whether the id stands for nothing."""
    return c.ask("cuStreamCreate", phStream=made, Flags=0)[0] == SUCCESS


# --- things of others -----------------------------------------------------------------------------


def module(c: Client) -> tuple[int, ...]:
    made, function = c.new(), c.new()
    c.must("cuModuleLoadData", module=made, image=c.image(PTX))
    c.must("cuModuleGetFunction", hfunc=function, hmod=made, name="twice")
    return made, function


def library(c: Client) -> tuple[int, ...]:
    made, kernel, function = (c.new() for _ in range(3))
    none = {"jitOptions": None, "jitOptionsValues": None, "numJitOptions": 0}
    none |= {"libraryOptions": None, "libraryOptionValues": None, "numLibraryOptions": 0}
    c.must("cuLibraryLoadData", library=made, code=c.image(PTX), **none)
    c.must("cuLibraryGetKernel", pKernel=kernel, library=made, name="twice")
    c.must("cuKernelGetFunction", pFunc=function, kernel=kernel)
    return made, kernel, function


def graph(c: Client) -> tuple[int, ...]:
    made, node = c.new(), c.new()
    c.must("cuGraphCreate", phGraph=made, flags=0)
    none = {"dependencies": None, "numDependencies": 0}
    c.must("cuGraphAddEmptyNode", phGraphNode=node, hGraph=made, **none)
    return made, node


ENDS = {module: "cuModuleUnload", library: "cuLibraryUnload", graph: "cuGraphDestroy"}
NAMES = {module: "hmod", library: "library", graph: "hGraph"}


@pytest.mark.parametrize("make", ENDS)
def test_what_is_of_another_ends_with_it(
    client: Client, make: Callable[[Client], tuple[int, ...]]
) -> None:
    made, other = make(client), make(client)
    assert not free(client, made[-1])
    client.must(ENDS[make], **{NAMES[make]: made[0]})
    assert all(free(client, one) for one in made)
    assert not any(free(client, one) for one in other)


# --- contexts -------------------------------------------------------------------------------------


def of_context(c: Client) -> tuple[list[int], int]:
    """Ids, and an address."""
    event = c.new()
    c.must("cuEventCreate", phEvent=event, Flags=0)
    return [stream(c), event, *module(c)], alloc(c)


def test_what_is_of_a_context_ends_with_it(client: Client) -> None:
    context, kept = client.new(), of_context(client)
    client.must("cuCtxCreate_v2", pctx=context, flags=0, dev=0)
    ids, at = of_context(client)
    pool = int(client.must("cuMemAllocAsync", dptr=1, bytesize=64, hStream=kept[0][0])["dptr"])
    assert address(client, at) == SUCCESS
    assert sync(client) == SUCCESS
    client.must("cuCtxDestroy_v2", ctx=context)
    client.must("cuCtxSetCurrent", ctx=client.current)
    assert all(free(client, one) for one in ids)
    assert address(client, at) == INVALID_VALUE
    assert not any(free(client, one) for one in kept[0])
    assert address(client, kept[1]) == SUCCESS
    assert address(client, pool) == SUCCESS


@pytest.mark.parametrize("last", ["cuDevicePrimaryCtxReset_v2", "cuDevicePrimaryCtxRelease_v2"])
def test_what_is_of_a_primary_context_ends_with_its_last_use(client: Client, last: str) -> None:
    (ids, at), (of_all, kernel, *here) = of_context(client), library(client)
    client.must("cuDevicePrimaryCtxRetain", pctx=1, dev=0)
    client.must("cuDevicePrimaryCtxRelease_v2", dev=0)
    assert not any(free(client, one) for one in ids)
    assert address(client, at) == SUCCESS
    client.must(last, dev=0)
    client.context()
    assert all(free(client, one) for one in (*ids, *here))
    assert not any(free(client, one) for one in (of_all, kernel))
    assert address(client, at) == INVALID_VALUE


def test_a_context_that_is_not_ended_after_all_keeps_what_it_has(client: Client) -> None:
    """A primary one is not destroyed; nor is anything zeroed by the attempt."""
    ids, at = of_context(client)
    client.must("cuMemsetD32_v2", dstDevice=at, ui=7, N=1)
    assert client.ask("cuCtxDestroy_v2", ctx=client.current)[0] != SUCCESS
    assert not any(free(client, one) for one in ids)
    assert address(client, at) == SUCCESS
    assert number(client, at) == 7


# --- the end of memory ----------------------------------------------------------------------------


def test_what_is_just_behind_memory_is_not_named(client: Client) -> None:
    at = alloc(client)
    assert address(client, at + 4095) == SUCCESS
    assert address(client, at + 4096) == INVALID_VALUE
    copy = {"dstDevice": at + 4096, "srcHost": b"", "ByteCount": 0}
    assert client.ask("cuMemcpyHtoD_v2", **copy)[0] == SUCCESS
    assert client.ask("cuMemsetD32_v2", dstDevice=at + 4096, ui=1, N=0)[0] == SUCCESS
    assert client.ask("cuMemsetD32_v2", dstDevice=at + 4096, ui=1, N=1)[0] == INVALID_VALUE
    assert client.ask("cuMemFree_v2", dptr=at + 4096)[0] == INVALID_VALUE
    assert client.ask("cuMemsetD32_v2", dstDevice=at + 4100, ui=1, N=0)[0] == INVALID_VALUE


# --- things of calls that are still being made ----------------------------------------------------


def ends_what_a_call_waits_for(c: Client, wait_s: float) -> tuple[int, list[int], list[int]]:
    """Answers to a wait for an event; to two calls that end it; to these, while it still waits."""
    on, event, sent, early = stream(c), c.new(), [], []

    def number_of(record: Record) -> int:
        return int.from_bytes(record.body, "little")

    def reply(seq: int) -> int:
        return number_of(c.until(lambda r: r.flags & REPLY and r.ack == seq))

    def function(_: dict[str, int]) -> None:
        time.sleep(wait_s)  # the wait has begun by now
        sent.extend(c.send("cuEventDestroy_v2", hEvent=event, lane=n, how=WANTED) for n in (2, 3))
        c.wake()
        time.sleep(0.1)  # they would have ended by now
        while c.pump() is not None:
            pass
        early.extend(number_of(r) for r in c.got if r.flags & REPLY and r.ack in sent)

    c.functions[7] = function
    for lane in (2, 3):
        c.send("cuCtxSetCurrent", ctx=c.current, lane=lane)
    c.must("cuEventCreate", phEvent=event, Flags=0)
    c.send("cuLaunchHostFunc", hStream=on, fn=7, userData=None)
    c.send("cuEventRecord", hEvent=event, hStream=on)
    waited = c.send("cuEventSynchronize", how=WANTED, hEvent=event)
    answer = reply(waited)
    return answer, sorted(map(reply, sent)), early


@pytest.mark.slow
def test_a_call_ends_nothing_that_another_one_uses(client: Client) -> None:
    """A driver may not look again, after a wait, whether the event is still there."""
    for wait_s in (0.05, 0.5, 5):
        waited, ends, early = ends_what_a_call_waits_for(client, wait_s)
        if waited == SUCCESS:  # else the wait had not begun
            break
    assert waited == SUCCESS
    assert ends == [SUCCESS, INVALID_HANDLE]
    assert SUCCESS not in early
