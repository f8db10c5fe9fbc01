# SPDX-License-Identifier: Apache-2.0
"""harp-worker by what SESSION.md says: a program's calls over a ring, made as a tenant's."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ring_client import (
    BULK_FLAG,
    END,
    PACK,
    PER_THREAD,
    REVERSE,
    WANTED,
    Client,
)
from ring_client import NUMBERS as OPS
from shim_world import MIB, World
from worker_world import (
    INVALID_CONTEXT,
    INVALID_HANDLE,
    INVALID_VALUE,
    NOT_SUPPORTED,
    OUT_OF_MEMORY,
    PTX,
    SUCCESS,
    alloc,
    fill,
    number,
    read,
    session,
    start,
    stream,
    sync,
    tenants,
    zero,
)

from harp.wire import decode_request, encode_request


@pytest.fixture(scope="module")
def world(native_dir: Path) -> Iterator[World]:
    with tenants(native_dir) as made:
        yield made


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    with session(world) as made:
        yield made


# --- calls ----------------------------------------------------------------------------------------


def test_vectors_are_added(client: Client) -> None:
    n = 10000
    a, b, out = (alloc(client, 4 * n) for _ in range(3))
    add = client.function(PTX, "add")
    for at, step in ((a, 1.0), (b, 2.0)):
        data = struct.pack(f"{n}f", *(step * i for i in range(n)))
        client.must("cuMemcpyHtoD_v2", dstDevice=at, srcHost=data, ByteCount=4 * n)
    client.launch(add, struct.pack("<QQQI", a, b, out, n), blocks=79, threads=128)
    assert struct.unpack(f"{n}f", read(client, out, 4 * n)) == tuple(3.0 * i for i in range(n))


def test_a_thousand_launches_and_a_synchronize_are_one_round_trip(client: Client) -> None:
    at, twice = alloc(client), client.function(PTX, "twice")
    assert sync(client) == SUCCESS
    before = client.round_trips
    client.send("cuMemsetD32_v2", dstDevice=at, ui=1, N=1)
    for i in range(1000):
        client.launch(twice, struct.pack("<Q", at), blocks=1, threads=1)
        if i == 500:
            client.send("cuMemsetD32_v2", dstDevice=at, ui=3, N=1)
        elif i == 510:
            client.send("cuMemcpyDtoD_v2", dstDevice=at + 4, srcDevice=at, ByteCount=4)
    assert sync(client) == SUCCESS
    assert client.round_trips - before == 1
    assert number(client, at + 4) == 3 << 10


def test_calls_of_a_pack_are_made_in_order(client: Client) -> None:
    at, twice = alloc(client), client.function(PTX, "twice")
    calls = [("cuMemsetD32_v2", {"dstDevice": at, "ui": 1, "N": 1}, 0)]
    launch = {"f": twice, "gridDimY": 1, "gridDimZ": 1, "blockDimY": 1, "blockDimZ": 1}
    launch |= {"gridDimX": 1, "blockDimX": 1, "sharedMemBytes": 0, "hStream": 0, "extra": None}
    packed = {"bytes": 8, "data": struct.pack("<Q", at)}
    calls += [("cuLaunchKernel", launch | {"kernelParams": packed}, 0)] * 5
    calls += [("cuMemcpyDtoH_v2", {"dstHost": b"", "srcDevice": at, "ByteCount": 4}, WANTED)]
    body = b""
    for name, values, flags in calls:
        inner = encode_request(OPS[name], values)
        body += struct.pack("<HHI", OPS[name], flags, len(inner)) + inner
    seq = client.put(PACK, body, flags=WANTED)
    result, answer = client.reply(seq, *calls[-1][:2])
    assert (result, answer["dstHost"]) == (SUCCESS, struct.pack("<I", 32))


def test_a_graph_and_a_cooperative_launch_take_packed_parameters(client: Client) -> None:
    at, twice = alloc(client), client.function(PTX, "twice")
    graph, node, executable, on = (client.new() for _ in range(4))
    packed = {"bytes": 8, "data": struct.pack("<Q", at)}
    client.send("cuMemsetD32_v2", dstDevice=at, ui=1, N=1)
    client.send("cuGraphCreate", phGraph=graph, flags=0)
    params = {"func": twice, "gridDimX": 1, "gridDimY": 1, "gridDimZ": 1, "blockDimX": 1}
    params |= {"blockDimY": 1, "blockDimZ": 1, "sharedMemBytes": 0, "kernelParams": packed}
    client.send(
        "cuGraphAddKernelNode_v2",
        phGraphNode=node,
        hGraph=graph,
        dependencies=None,
        numDependencies=0,
        nodeParams=params | {"extra": None, "kern": 0, "ctx": 0},
    )
    client.must("cuGraphInstantiateWithFlags", phGraphExec=executable, hGraph=graph, flags=0)
    client.send("cuStreamCreate", phStream=on, Flags=0)
    for _ in range(3):
        client.send("cuGraphLaunch", hGraph=executable, hStream=on)
    client.send(
        "cuLaunchCooperativeKernel",
        f=twice,
        gridDimX=1,
        gridDimY=1,
        gridDimZ=1,
        blockDimX=1,
        blockDimY=1,
        blockDimZ=1,
        sharedMemBytes=0,
        hStream=on,
        kernelParams=packed,
    )
    assert sync(client) == SUCCESS
    assert number(client, at) == 16


def test_the_per_thread_stream_is_the_lanes_own(client: Client) -> None:
    """Its work does not wait for another lane's that never ends."""
    flag, at = zero(client), alloc(client)
    client.send("cuCtxSetCurrent", lane=2, ctx=client.current)
    assert sync(client) == SUCCESS
    client.send("cuStreamWaitValue32_v2", how=PER_THREAD, stream=0, addr=flag, value=1, flags=1)
    fill(client, at, 5, 0, lane=2, how=PER_THREAD)
    assert client.ask("cuStreamSynchronize", lane=2, how=PER_THREAD, hStream=0)[0] == SUCCESS
    on = stream(client)
    fill(client, flag, 1, on)
    assert client.ask("cuStreamSynchronize", how=PER_THREAD, hStream=0)[0] == SUCCESS


# --- what may not be ------------------------------------------------------------------------------


def peek(client: Client, at: int, size: int = 4) -> Any:
    """harpMemPeek's result and bytes."""
    return client.ask("harpMemPeek", to=size, bytes=size, **{"from": at})


def test_unknown_handles_and_addresses_are_refused(client: Client) -> None:
    at, on = alloc(client), stream(client)
    ask = client.ask
    assert ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    assert ask("cuStreamSynchronize", hStream=987654)[0] == INVALID_HANDLE
    assert ask("cuEventQuery", hEvent=on)[0] == INVALID_HANDLE  # of another kind
    assert ask("cuCtxSetCurrent", ctx=on)[0] == INVALID_CONTEXT
    host = id(client)  # an address, and not the session's
    for wrong in (host, 0x1000, at - 4096, (1 << 64) - 8):
        copy = ask("cuMemcpyDtoH_v2", dstHost=b"", srcDevice=wrong, ByteCount=4)
        assert copy[0] == INVALID_VALUE
        assert peek(client, wrong)[0] == INVALID_VALUE
        assert ask("cuMemsetD8_v2", dstDevice=wrong, uc=1, N=1)[0] == INVALID_VALUE
    assert ask("cuMemFree_v2", dptr=at)[0] == SUCCESS
    assert ask("cuMemsetD8_v2", dstDevice=at, uc=1, N=1)[0] == INVALID_VALUE


def test_a_peek_is_a_read_of_no_more_than_there_is(client: Client) -> None:
    at = alloc(client)
    client.must("cuMemsetD32_v2", dstDevice=at, ui=0x1234, N=1024)
    result, told = peek(client, at)
    assert (result, told["to"]) == (SUCCESS, b"\x34\x12\0\0")
    for more in (1 << 24, 1 << 31, (1 << 32) - 2):
        assert peek(client, at, more)[0] != SUCCESS
    for room in (0, 4, 64):  # less than what it says is read
        lie = client.ask("harpMemPeek", to=room, bytes=1 << 20, **{"from": at})
        assert lie[0] != SUCCESS
    assert peek(client, at)[0] == SUCCESS


def test_an_id_does_not_outlive_its_handle(client: Client) -> None:
    """Also when the driver gives what was at that address to another one."""
    for _ in range(20):
        first = stream(client)
        client.send("cuStreamDestroy_v2", hStream=first)
        second = stream(client)
        assert client.ask("cuStreamSynchronize", hStream=first)[0] == INVALID_HANDLE
        assert client.ask("cuStreamSynchronize", hStream=second)[0] == SUCCESS
        client.send("cuStreamDestroy_v2", hStream=second)


def test_the_workers_own_memory_is_not_copied(world: World) -> None:
    """With unified addresses a driver would: cuMemcpy takes pointers of any kind."""
    with start(world) as worker:
        c = worker.dial()
        c.context()
        at = alloc(c)
        lines = Path(f"/proc/{worker.process.pid}/maps").read_text().splitlines()
        stack = next(line for line in lines if line.endswith("[stack]"))
        inside = int(stack.split("-")[1].split()[0], 16) - 64
        assert c.ask("cuMemcpy", dst=at, src=inside, ByteCount=8)[0] == INVALID_VALUE
        assert c.ask("cuMemcpy", dst=inside, src=at, ByteCount=8)[0] == INVALID_VALUE
        assert sync(c) == SUCCESS


def test_an_id_is_minted_once_and_below_the_workers_bit(client: Client) -> None:
    on = stream(client)
    for taken in (on, 0, 2, 1 << 63, (1 << 64) - 1):
        assert client.ask("cuStreamCreate", phStream=taken, Flags=0)[0] == INVALID_VALUE
        assert client.ask("cuEventCreate", phEvent=taken, Flags=0)[0] == INVALID_VALUE
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS


def test_what_no_client_may_say_is_refused(client: Client) -> None:
    assert client.ask("harpProgress", streams=[], count=0)[0] == NOT_SUPPORTED
    assert client.ask("cuGraphHostNodeGetParams", hNode=0, nodeParams={})[0] == NOT_SUPPORTED
    seq = client.put(60000, b"", flags=WANTED)
    assert client.until(lambda r: r.ack == seq).body == struct.pack("<I", INVALID_VALUE)
    seq = client.put(OPS["cuStreamSynchronize"], b"12345", flags=WANTED)
    assert client.until(lambda r: r.ack == seq).body == struct.pack("<I", INVALID_VALUE)
    assert sync(client) == SUCCESS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "record"),
    [
        ("a call of no lane", {"flags": 0, "lane": 0, "body": b""}),
        ("a call of no lane", {"flags": 0, "lane": 65, "body": b""}),
        ("a record that no client says", {"flags": REVERSE, "body": b""}),
        ("a transfer that is none", {"body": struct.pack("<QQ", 1 << 40, 4096)}),
        ("a transfer that is none", {"body": struct.pack("<QQ", 100, 4096)}),
        ("a transfer that is none", {"body": b"1234"}),
        ("what cannot be in its ring", {"flags": 1 << 20, "body": b""}),
    ],
)
def test_a_client_that_is_none_ends_its_session_only(
    world: World, client: Client, what: str, record: dict[str, Any]
) -> None:
    with start(world) as other:
        liar = other.dial()
        liar.must("harpSession", devices=1, driver_version=1, loading_mode=1)
        bulk = {"op": 0, "flags": BULK_FLAG | END}
        liar.put(**({"op": OPS["cuInit"]} if "flags" in record else bulk) | record, ack=7)
        assert other.ended() == 2
        assert what in other.words()
    assert sync(client) == SUCCESS


def test_random_bodies_end_no_worker(world: World) -> None:
    rng = random.Random(6)
    with start(world) as worker:
        c = worker.dial()
        c.context()
        for _ in range(4000):
            op = rng.choice([*OPS.values()])
            body = rng.randbytes(4 * rng.randrange(12))
            c.put(op, body, flags=rng.choice((0, WANTED, PER_THREAD)), lane=rng.randrange(1, 4))
        c.context(lane=9)
        assert sync(c, lane=9) in (SUCCESS, INVALID_VALUE, INVALID_HANDLE, NOT_SUPPORTED)


# --- errors that nobody waited for ----------------------------------------------------------------


def test_an_error_surfaces_at_the_next_observation_point_once(client: Client) -> None:
    at = alloc(client)
    seq = client.send("cuStreamDestroy_v2", hStream=4242)
    client.send("cuMemsetD8_v2", dstDevice=16, uc=0, N=1)  # only the first counts
    told = client.until(lambda r: r.flags & REVERSE and r.name == "harpLatched")
    assert decode_request(told.op, told.body) == {
        "seq": seq,
        "place": 0,
        "op": OPS["cuStreamDestroy_v2"],
        "result": INVALID_HANDLE,
    }
    assert client.ask("cuMemGetInfo_v2", free=1, total=1)[0] == SUCCESS  # observes nothing
    assert peek(client, at)[0] == SUCCESS  # nor does this
    assert sync(client) == INVALID_HANDLE
    assert sync(client) == SUCCESS
    client.send("cuMemsetD8_v2", dstDevice=16, uc=0, N=1)
    copy = client.ask("cuMemcpyDtoH_v2", dstHost=b"", srcDevice=at, ByteCount=4)
    assert copy[0] == INVALID_VALUE
    assert sync(client) == SUCCESS


def test_an_error_is_latched_for_its_context(client: Client) -> None:
    other = client.new()
    client.must("cuCtxCreate_v2", pctx=other, flags=0, dev=0, lane=2)
    client.send("cuEventDestroy_v2", hEvent=4242, lane=2)
    assert sync(client) == SUCCESS
    assert sync(client, lane=2) == INVALID_HANDLE
    client.must("cuCtxDestroy_v2", ctx=other, lane=2)


def test_an_error_goes_with_its_context(client: Client) -> None:
    """Also when the next one is where it was."""
    for _ in range(5):
        other = client.new()
        client.must("cuCtxCreate_v2", pctx=other, flags=0, dev=0, lane=2)
        assert sync(client, lane=2) == SUCCESS
        client.send("cuEventDestroy_v2", hEvent=4242, lane=2)
        client.must("cuCtxDestroy_v2", ctx=other, lane=2)
    client.send("cuEventDestroy_v2", hEvent=4242)
    client.must("cuDevicePrimaryCtxReset_v2", dev=0)
    client.context()
    assert sync(client) == SUCCESS


def test_a_call_that_makes_nothing_leaves_its_id_unbound(client: Client) -> None:
    lost, on = client.new(), client.new()
    client.send("cuStreamCreate", phStream=lost, Flags=99)
    assert sync(client) == INVALID_VALUE
    assert client.ask("cuStreamSynchronize", hStream=lost)[0] == INVALID_HANDLE
    client.send("cuStreamCreate", phStream=on, Flags=0)
    assert sync(client) == SUCCESS


# --- memory ---------------------------------------------------------------------------------------


def test_the_session_is_a_tenant_with_its_limit(world: World) -> None:
    with start(world, "small") as worker:
        c = worker.dial()
        c.context()
        assert c.ask("cuMemAlloc_v2", dptr=1, bytesize=512 * MIB)[0] == OUT_OF_MEMORY
        alloc(c, 128 * MIB)
        assert world.usage("small").leased_bytes >= 128 * MIB
        assert c.ask("cuMemAlloc_v2", dptr=1, bytesize=160 * MIB)[0] == OUT_OF_MEMORY


def test_memory_may_be_mapped_in_the_arena_without_waiting(client: Client) -> None:
    base, size = 0x5000_0000_0000, 2 * MIB
    agreed = client.must("harpArena", base=base, bytes=64 * MIB, agreed=1)["agreed"]
    assert agreed != 0
    memory, location = client.new(), {"type": 1, "id": 0}
    names = ("compressionType", "gpuDirectRDMACapable", "usage", "reserved")
    prop = {"type": 1, "requestedHandleTypes": 0, "location": location}
    prop |= {f"allocFlags.{name}": 0 for name in names} | {"allocFlags.reserved": bytes(4)}
    client.send("cuMemCreate", handle=memory, size=size, prop=prop, flags=0)
    at = agreed + 4 * MIB
    client.send("cuMemMap", ptr=at, size=size, offset=0, handle=memory, flags=0)
    client.send(
        "cuMemSetAccess", ptr=at, size=size, count=1, desc=[{"location": location, "flags": 3}]
    )
    client.send("cuMemsetD32_v2", dstDevice=at, ui=11, N=1)
    assert sync(client) == SUCCESS
    assert number(client, at) == 11
