# SPDX-License-Identifier: Apache-2.0
"""harp-worker by what SESSION.md says: a program's calls over a ring, made as a tenant's."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import time
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
    Worker,
    WorkerGoneError,
    table_text,
)
from ring_client import NUMBERS as OPS
from shim_world import MIB, ROOT, World, soft_world

from harp.wire import decode_request, encode_request

SUCCESS, INVALID_VALUE, OUT_OF_MEMORY = 0, 1, 2
INVALID_IMAGE, INVALID_CONTEXT, FILE_NOT_FOUND, INVALID_HANDLE, NOT_SUPPORTED = (
    200,
    201,
    301,
    400,
    801,
)

PTX = b"""
.version 7.0
.target sm_70
.address_size 64
.visible .entry add(.param .u64 a, .param .u64 b, .param .u64 c, .param .u32 n)
{
    .reg .pred %p;
    .reg .b32 %r<6>;
    .reg .f32 %f<4>;
    .reg .b64 %d<8>;
    ld.param.u64 %d1, [a];
    ld.param.u64 %d2, [b];
    ld.param.u64 %d3, [c];
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r5, %r2, %r3, %r4;
    setp.ge.u32 %p, %r5, %r1;
    @%p bra DONE;
    mul.wide.u32 %d4, %r5, 4;
    add.u64 %d5, %d1, %d4;
    add.u64 %d6, %d2, %d4;
    add.u64 %d7, %d3, %d4;
    ld.global.f32 %f1, [%d5];
    ld.global.f32 %f2, [%d6];
    add.f32 %f3, %f1, %f2;
    st.global.f32 [%d7], %f3;
DONE:
    ret;
}
.visible .entry twice(.param .u64 at)
{
    .reg .b32 %r<2>;
    .reg .b64 %d<2>;
    ld.param.u64 %d1, [at];
    ld.global.u32 %r1, [%d1];
    shl.b32 %r1, %r1, 1;
    st.global.u32 [%d1], %r1;
    ret;
}
"""


@pytest.fixture(scope="module")
def world(native_dir: Path) -> Iterator[World]:
    with soft_world(native_dir) as made:
        made.tenant("remote", mem=1024 * MIB)
        made.tenant("small", mem=256 * MIB)
        yield made


def start(world: World, name: str = "remote") -> Worker:
    env = world.env(name)
    del env["LD_PRELOAD"]  # libharp is the driver that the worker opens
    return Worker(world.native, world.shim / "libcuda.so.1", env)


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    """A session that has a context."""
    with start(world) as worker:
        made = worker.dial()
        made.context()
        yield made
        status = worker.process.poll()
        assert status is None, f"the worker ended with {status}: {worker.words()}"


def alloc(c: Client, size: int = 4096) -> int:
    return int(c.must("cuMemAlloc_v2", dptr=1, bytesize=size)["dptr"])


def zero(c: Client) -> int:
    """A word that is 0, whatever streams do next."""
    at = alloc(c)
    c.must("cuMemcpyHtoD_v2", dstDevice=at, srcHost=bytes(4), ByteCount=4)
    assert sync(c) == SUCCESS  # a small copy returns before the device is done
    return at


def read(c: Client, at: int, size: int = 4) -> bytes:
    return bytes(c.must("cuMemcpyDtoH_v2", dstHost=b"", srcDevice=at, ByteCount=size)["dstHost"])


def number(c: Client, at: int) -> int:
    return int.from_bytes(read(c, at), "little")


def stream(c: Client) -> int:
    made = c.new()
    c.send("cuStreamCreate", phStream=made, Flags=1)
    return made


def fill(c: Client, at: int, value: int, on: int, **more: int) -> int:
    return c.send("cuMemsetD32Async", dstDevice=at, ui=value, N=1, hStream=on, **more)


def sync(c: Client, **more: int) -> int:
    return c.ask("cuCtxSynchronize", **more)[0]


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
        assert ask("cuMemsetD8_v2", dstDevice=wrong, uc=1, N=1)[0] == INVALID_VALUE
    assert ask("cuMemFree_v2", dptr=at)[0] == SUCCESS
    assert ask("cuMemsetD8_v2", dstDevice=at, uc=1, N=1)[0] == INVALID_VALUE


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
        assert other.process.wait(timeout=10) == 2
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


# --- host bytes -----------------------------------------------------------------------------------


def test_large_copies_go_through_the_bulk_area(client: Client) -> None:
    size = 3 << 20
    at, data = alloc(client, size), os.urandom(size)
    transfer, _ = client.announce(size, data)
    client.must("cuMemcpyHtoD_v2", dstDevice=at, srcHost=transfer, ByteCount=size)
    client.done(transfer)
    transfer, offset = client.announce(size)
    client.must("cuMemcpyDtoH_v2", dstHost=transfer, srcDevice=at, ByteCount=size)
    assert client.bulk(offset, size) == data


def test_async_copies_are_done_when_their_stream_has_passed(client: Client) -> None:
    size, on = 1 << 20, stream(client)
    at, flag, data = alloc(client, size), zero(client), os.urandom(size)
    client.send("cuStreamWaitValue32_v2", stream=on, addr=flag, value=1, flags=1)
    there, _ = client.announce(size, data)
    client.send("cuMemcpyHtoDAsync_v2", dstDevice=at, srcHost=there, ByteCount=size, hStream=on)
    back, offset = client.announce(size)
    client.send("cuMemcpyDtoHAsync_v2", dstHost=back, srcDevice=at, ByteCount=size, hStream=on)
    few, few_at = client.announce(4)
    client.send("cuMemcpyDtoHAsync_v2", dstHost=few, srcDevice=at, ByteCount=4, hStream=on)
    client.must("cuMemGetInfo_v2", free=1, total=1)
    assert not [r for r in client.got if r.flags & BULK_FLAG]  # their stream waits
    other = stream(client)
    fill(client, flag, 1, other)
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    done = [r.ack for r in client.got if r.flags & BULK_FLAG]  # before the reply
    assert done == [there.id, back.id, few.id]
    assert client.bulk(offset, size) == data
    assert client.bulk(few_at, 4) == data[:4]


def test_regions_come_back_whatever_becomes_of_the_call(client: Client) -> None:
    size = 1 << 17
    at = alloc(client, size)
    for name, values in (
        ("cuMemcpyHtoD_v2", {"dstDevice": 4096}),  # is not made
        ("cuMemcpyHtoD_v2", {"dstDevice": at, "ByteCount": size - 4}),  # says something else
        ("cuMemcpyHtoD_v2", {"dstDevice": at + size}),  # fails
    ):
        transfer, _ = client.announce(size, bytes(8))
        asked = {"srcHost": transfer, "ByteCount": size} | values
        assert client.ask(name, **asked)[0] == INVALID_VALUE
        client.done(transfer)
    transfer, _ = client.announce(size)
    sync(client)  # another call than the one it was for
    client.done(transfer)
    asked = {"dstDevice": at, "srcHost": transfer, "ByteCount": size}
    assert client.ask("cuMemcpyHtoD_v2", **asked)[0] == INVALID_VALUE  # it is over


def test_a_captured_copy_of_host_memory_is_not_made(client: Client) -> None:
    at, on, graph = alloc(client), stream(client), client.new()
    client.must("cuStreamBeginCapture_v2", hStream=on, mode=2)
    copy = {"dstDevice": at, "srcHost": b"1234", "ByteCount": 4, "hStream": on}
    assert client.ask("cuMemcpyHtoDAsync_v2", **copy)[0] == NOT_SUPPORTED
    fill(client, at, 7, on)
    client.must("cuStreamEndCapture", hStream=on, phGraph=graph)
    assert client.ask("cuMemcpyHtoDAsync_v2", **copy)[0] == SUCCESS
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    assert read(client, at) == b"1234"


# --- images ---------------------------------------------------------------------------------------


def test_an_image_is_put_once_and_is_what_it_says(client: Client) -> None:
    image = client.image(PTX)
    before = client.seq
    assert client.image(PTX) == image
    assert client.seq == before + 1  # found: not put again
    wrong = image | {"sha256": bytes(32)}
    put = {"image": wrong, "data": PTX, "bytes": len(PTX)}
    assert client.ask("harpImagePut", **put)[0] == INVALID_IMAGE
    assert client.must("harpImageFind", image=wrong, found=1)["found"] == 0
    assert client.ask("cuModuleLoadData", module=client.new(), image=wrong)[0] == FILE_NOT_FOUND
    client.must("cuModuleLoadData", module=client.new(), image=image)


def test_a_library_whose_binary_is_preserved_is_loaded(client: Client) -> None:
    """That it is, is the client's to say and of no use here: images of the worker's may go."""
    none = {"jitOptions": None, "jitOptionsValues": None, "numJitOptions": 0}
    told = {"libraryOptions": [1], "libraryOptionValues": [1], "numLibraryOptions": 1}
    library, kernel, at = client.new(), client.new(), zero(client)
    asked = {"library": library, "code": client.image(PTX)} | none | told
    answer = client.must("cuLibraryLoadData", **asked)
    assert answer["libraryOptionValues"] == [1]
    client.must("cuLibraryGetKernel", pKernel=kernel, library=library, name="twice")
    client.send("cuMemsetD32_v2", dstDevice=at, ui=4, N=1)
    client.launch(kernel, struct.pack("<Q", at), blocks=1, threads=1)
    assert number(client, at) == 8


def test_an_image_in_parts_is_gathered(client: Client) -> None:
    ptx = PTX + b"// " + b"x" * (300 << 10) + b"\n"
    image = {"sha256": hashlib.sha256(ptx).digest(), "bytes": len(ptx)}
    transfer = client.parts(ptx, 128 << 10)
    client.must("harpImagePut", image=image, data=transfer, bytes=len(ptx))
    client.must("cuModuleLoadData", module=client.new(), image=image)


def test_logs_of_the_compiler_come_before_the_reply(client: Client) -> None:
    image = client.image(
        b".version 7.0\n.target sm_70\n.address_size 64\n.entry x() { nonsense; }\0"
    )
    result, answer = client.ask(
        "cuModuleLoadDataEx",
        module=client.new(),
        image=image,
        numOptions=2,
        options=[5, 6],
        optionValues=[0, 4096],
    )
    assert result not in (SUCCESS, NOT_SUPPORTED)
    log = next(r for r in client.got if r.name == "harpJitLog")
    told = decode_request(log.op, log.body)
    assert told["which"] == 1
    assert "nonsense" in told["text"]
    assert answer["optionValues"][1] in (4096, len(told["text"]), len(told["text"]) + 1)


def test_a_link_is_made_and_tells_what_it_changes(client: Client) -> None:
    def create() -> int:
        state = client.new()
        options = {"numOptions": 3, "options": [5, 6, 2], "optionValues": [0, 4096, 0]}
        client.must("cuLinkCreate_v2", stateOut=state, **options)
        return state

    def add(state: int, data: bytes, size: int) -> int:
        none = {"name": None, "numOptions": 0, "options": None, "optionValues": None}
        image = client.image(data)
        asked = {"state": state, "type": 1, "data": image, "size": size} | none
        return client.ask("cuLinkAddData_v2", **asked)[0]

    link, many = create(), PTX
    for i in range(600):  # more than a reply has room for
        many += PTX[PTX.index(b".visible .entry twice") :].replace(b"twice", b"twice%d" % i)
    assert add(link, many, len(many) + 1) == INVALID_VALUE  # more than there is
    assert add(link, many, len(many)) == SUCCESS
    made = client.must("cuLinkComplete", state=link, cubinOut=1, sizeOut=1)
    lent = [r.body for r in client.got if r.ack == made["cubinOut"].id]
    assert [len(part) for part in lent[:-1]] == [64 << 10] * (len(lent) - 1)
    assert made["sizeOut"] == len(b"".join(lent))
    image = client.image(b"".join(lent))
    client.send("cuLinkDestroy", state=link)
    module, twice, at = client.new(), client.new(), zero(client)
    client.must("cuModuleLoadData", module=module, image=image)
    client.must("cuModuleGetFunction", hfunc=twice, hmod=module, name="twice")
    client.send("cuMemsetD32_v2", dstDevice=at, ui=4, N=1)
    client.launch(twice, struct.pack("<Q", at), blocks=1, threads=1)
    assert number(client, at) == 8

    link = create()
    client.got.clear()
    bad = b".version 7.0\n.target sm_70\n.address_size 64\n.entry x() { nonsense; }\0"
    result = add(link, bad, len(bad))
    assert result or client.ask("cuLinkComplete", state=link, cubinOut=1, sizeOut=1)[0]
    told = {r.name: decode_request(r.op, r.body) for r in client.got}
    assert "nonsense" in told["harpJitLog"]["text"]
    assert told["harpLinkValues"]["state"] == link
    assert told["harpLinkValues"]["values"][0] == 0  # an address of the worker's
    client.must("cuLinkDestroy", state=link)


# --- threads, and functions of the client's -------------------------------------------------------


def test_lanes_keep_the_programs_order(client: Client) -> None:
    """What is sent without waiting, by whatever thread, is made in the order of sending."""
    at, on = alloc(client), stream(client)
    for lane in (2, 3):
        client.send("cuCtxSetCurrent", ctx=client.current, lane=lane)
    for i in range(600):
        made = client.new()
        client.send("cuEventCreate", phEvent=made, Flags=2, lane=1 + i % 3)
        fill(client, at, i, on, lane=1 + (i + 1) % 3)
        client.send("cuEventRecord", hEvent=made, hStream=on, lane=1 + (i + 2) % 3)
        if i % 100 == 99:
            assert client.ask("cuEventSynchronize", hEvent=made, lane=1 + i % 3)[0] == SUCCESS
            assert number(client, at) == i


def test_a_thread_that_waits_keeps_no_other_from_calling(client: Client) -> None:
    flag, on, other = zero(client), stream(client), stream(client)
    client.send("cuCtxSetCurrent", ctx=client.current, lane=2)
    for turn in range(1, 21):
        client.send("cuStreamWaitValue32_v2", stream=on, addr=flag, value=turn, flags=0)  # >=
        asked = client.send("cuStreamSynchronize", how=WANTED, hStream=on)
        assert client.ask("cuStreamQuery", hStream=on, lane=2)[0] == 600, turn  # NOT_READY
        fill(client, flag, turn, other, lane=2)
        assert client.reply(asked, "cuStreamSynchronize", {})[0] == SUCCESS


def test_calls_that_wait_for_a_busy_lane_are_bounded(world: World) -> None:
    """12 MiB are answered once it goes on; more than 16 MiB end the session with a sentence."""
    size = 60 << 10
    with start(world) as worker:
        c = worker.dial()
        c.context()
        flag, at, on, other = zero(c), alloc(c, size), stream(c), stream(c)
        c.send("cuCtxSetCurrent", ctx=c.current, lane=2)
        copy = {"dstDevice": at, "srcHost": bytes(size), "ByteCount": size, "hStream": other}
        name = "cuMemcpyHtoDAsync_v2"

        def ask(count: int, turn: int) -> int:
            c.send("cuStreamWaitValue32_v2", stream=on, addr=flag, value=turn, flags=0)  # >=
            c.send("cuStreamSynchronize", how=WANTED, hStream=on, lane=2)
            asked = [c.send(name, how=WANTED, lane=2, **copy) for _ in range(count)]
            fill(c, flag, turn, other)
            return c.reply(asked[-1], name, {})[0]

        assert ask(205, 1) == SUCCESS
        with pytest.raises(WorkerGoneError):
            ask(300, 2)
        assert worker.process.wait(timeout=10) == 2
        assert "more than 16 MiB of calls wait" in worker.words()


def test_a_host_function_holds_its_stream_up(client: Client) -> None:
    at, on, ran = alloc(client), stream(client), []
    twice = client.function(PTX, "twice")

    def function(asked: dict[str, int]) -> None:
        ran.append((asked["ticket"], asked["status"]))

    client.functions[77] = client.functions[78] = function
    client.send("cuCtxSetCurrent", ctx=client.current, lane=2)
    fill(client, at, 1, on)
    client.send("cuLaunchHostFunc", hStream=on, fn=77, userData=None)
    # More than a stream has room for: the worker's thread blocks in a launch, and the answer comes
    # after the calls that are behind it.
    for _ in range(5000):
        client.launch(twice, struct.pack("<Q", at), blocks=1, threads=1, stream=on)
    fill(client, at, 9, on, lane=2)
    client.send("cuStreamAddCallback", hStream=on, callback=78, userData=None, flags=0)
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    assert ran == [(77, SUCCESS), (78, SUCCESS)]
    assert number(client, at) == 9


def test_a_host_functions_answer_is_read_behind_many_calls(client: Client) -> None:
    """The worker's thread blocks in a launch, and more calls are behind it than are held back."""
    size = 60 << 10
    at, to, on, ran = alloc(client), alloc(client, size), stream(client), []
    twice = client.function(PTX, "twice")
    copy = {"dstDevice": to, "srcHost": bytes(size), "ByteCount": size, "hStream": on}

    def function(asked: dict[str, int]) -> None:
        for _ in range(290):  # 17 MiB; another thread of a program does that
            client.send("cuMemcpyHtoDAsync_v2", lane=2, **copy)
        ran.append(asked["ticket"])

    client.functions[77] = function
    client.send("cuCtxSetCurrent", ctx=client.current, lane=2)
    client.send("cuLaunchHostFunc", hStream=on, fn=77, userData=None)
    for _ in range(5000):  # more than a stream has room for
        client.launch(twice, struct.pack("<Q", at), blocks=1, threads=1, stream=on)
    fill(client, at, 9, on, lane=2)
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    assert ran == [77]
    assert number(client, at) == 9


def test_a_captured_host_function_is_run_by_each_launch(client: Client) -> None:
    on, graph, executable, ran = stream(client), client.new(), client.new(), []
    client.functions[6] = lambda asked: ran.append(asked["ticket"])
    client.must("cuStreamBeginCapture_v2", hStream=on, mode=2)
    client.send("cuLaunchHostFunc", hStream=on, fn=6, userData=None)
    client.must("cuStreamEndCapture", hStream=on, phGraph=graph)
    client.must("cuGraphInstantiateWithFlags", phGraphExec=executable, hGraph=graph, flags=0)
    for _ in range(5):
        client.send("cuGraphLaunch", hGraph=executable, hStream=on)
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    assert ran == [6] * 5
    client.send("cuGraphDestroy", hGraph=graph)  # what it was made into goes on
    for _ in range(2):
        client.send("cuGraphLaunch", hGraph=executable, hStream=on)
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    assert ran == [6] * 7


def test_a_host_function_goes_with_what_was_updated_by_its_graph(client: Client) -> None:
    on, executable, ran = stream(client), client.new(), []
    client.functions[5] = client.functions[6] = lambda asked: ran.append(asked["ticket"])

    def captured(ticket: int) -> int:
        graph = client.new()
        client.must("cuStreamBeginCapture_v2", hStream=on, mode=2)
        client.send("cuLaunchHostFunc", hStream=on, fn=ticket, userData=None)
        client.must("cuStreamEndCapture", hStream=on, phGraph=graph)
        return graph

    first, second = captured(5), captured(6)
    client.must("cuGraphInstantiateWithFlags", phGraphExec=executable, hGraph=first, flags=0)
    client.must("cuGraphExecUpdate_v2", hGraphExec=executable, hGraph=second, resultInfo=1)
    for graph in (first, second):
        client.send("cuGraphDestroy", hGraph=graph)
    for _ in range(2):
        client.send("cuGraphLaunch", hGraph=executable, hStream=on)
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    assert ran == [6] * 2


#: more host functions than a worker has tickets at a time
MANY = 66000


def test_a_host_function_that_is_refused_costs_nothing(client: Client) -> None:
    on, ran = stream(client), []
    client.functions[7] = lambda asked: ran.append(asked["ticket"])
    for _ in range(MANY):
        client.send("cuStreamAddCallback", hStream=on, callback=7, userData=None, flags=1)
    assert sync(client) == INVALID_VALUE
    client.send("cuStreamAddCallback", hStream=on, callback=7, userData=None, flags=0)
    assert sync(client) == SUCCESS
    assert ran == [7]


def host_node(c: Client, graph: int, ticket: int) -> int:
    node = c.new()
    none = {"dependencies": None, "numDependencies": 0}
    params = {"fn": ticket, "userData": None}
    c.send("cuGraphAddHostNode", phGraphNode=node, hGraph=graph, nodeParams=params, **none)
    return node


def test_host_functions_go_with_their_graph(client: Client) -> None:
    for _ in range(MANY // 1000):
        graph = client.new()
        client.send("cuGraphCreate", phGraph=graph, flags=0)
        for _ in range(1000):
            host_node(client, graph, 8)
        client.send("cuGraphDestroy", hGraph=graph)
        assert sync(client) == SUCCESS


def test_a_nodes_host_function_may_be_replaced_again_and_again(client: Client) -> None:
    on, graph, executable, ran = stream(client), 0, client.new(), []
    client.functions[8] = client.functions[9] = lambda asked: ran.append(asked["ticket"])
    for i in range(MANY - 6000):  # these are there to stay
        if i % 1000 == 0:
            graph = client.new()
            client.send("cuGraphCreate", phGraph=graph, flags=0)
        node = host_node(client, graph, 8)
    graph = client.new()
    client.send("cuGraphCreate", phGraph=graph, flags=0)
    node = host_node(client, graph, 8)
    client.must("cuGraphInstantiateWithFlags", phGraphExec=executable, hGraph=graph, flags=0)
    for i in range(6501):
        params = {"fn": 8 + i % 2, "userData": None}
        client.send(
            "cuGraphExecHostNodeSetParams", hGraphExec=executable, hNode=node, nodeParams=params
        )
        if i % 3000 == 9:
            client.send("cuGraphLaunch", hGraph=executable, hStream=on)
            assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    client.send("cuGraphLaunch", hGraph=executable, hStream=on)
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    assert ran == [9, 9, 9, 8]


def test_a_host_function_is_run_while_its_thread_waits(client: Client) -> None:
    on, ran = stream(client), []
    client.functions[5] = lambda asked: ran.append(asked["ticket"])
    for turn in range(30):
        client.send("cuLaunchHostFunc", hStream=on, fn=5, userData=None)
        assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
        assert len(ran) == turn + 1


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


# --- opening, and the end -------------------------------------------------------------------------

#: a program of its own: a session with 256 MiB; tells of the worker, and waits to be killed
PROGRAM = """
import json, os, sys, time
from pathlib import Path
from ring_client import Worker
native, driver, forks = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "forks"
worker = Worker(native, driver, json.loads(sys.stdin.readline()))
client = worker.dial()
client.context()
client.must("cuMemAlloc_v2", dptr=1, bytesize=256 << 20)
child = os.fork() if forks else 0
if not forks or child:
    print(worker.process.pid, child, flush=True)
time.sleep(100)
"""


def held(world: World, pid: int) -> int:
    """Bytes that a process has, by the engine's ledger; -1: it is not there."""
    tool = [world.native / "harp-soft-truth", "--json"]
    env = world.bare_env()
    told = subprocess.run(tool, env=env, capture_output=True, check=True, text=True).stdout
    rows = json.loads(told)["processes"]
    return next((int(row["mem_bytes"]) for row in rows if row["pid"] == pid), -1)


def gone(pid: int) -> bool:
    """Whether a process has ended. Who waits for it may be gone as well."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def is_back(world: World, pid: int) -> None:
    """In three seconds, as is promised: the worker is gone, and what it had is the device's."""
    end = time.monotonic() + 3
    while held(world, pid) > 0 or not gone(pid):
        assert time.monotonic() < end, held(world, pid)
        time.sleep(0.02)


@pytest.mark.parametrize("how", ["alone", "forks"])
def test_a_killed_clients_memory_is_back_in_three_seconds(world: World, how: str) -> None:
    """Also where a child of it keeps the socket open."""
    env = world.env("remote")
    del env["LD_PRELOAD"]
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, world.native, world.shim / "libcuda.so.1", how],
        env={k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_"))}
        | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/integration'}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    with program:
        program.stdin.write(json.dumps(env) + "\n")
        program.stdin.flush()
        worker, child = map(int, program.stdout.readline().split())
        assert held(world, worker) >= 256 * MIB
        program.kill()
        is_back(world, worker)
        if child:
            os.kill(child, signal.SIGKILL)


#: sends both ends of a connection that is its own, and dies
MAKER = """
import socket, sys
made = socket.socketpair()
to = socket.socket(fileno=int(sys.argv[1]))
socket.send_fds(to, [b"2"], [end.fileno() for end in made])
"""


def test_a_client_that_is_dead_before_it_is_watched_leaves_nothing(world: World) -> None:
    """Somebody else has its socket, and nobody has its pid any more."""
    here, there = socket.socketpair()
    with here, there:
        asked = [sys.executable, "-c", MAKER, str(there.fileno())]
        subprocess.run(asked, pass_fds=[there.fileno()], check=True)
        _, (ours, theirs), _, _ = socket.recv_fds(here, 1, 2)
    env = world.env("remote")
    del env["LD_PRELOAD"]
    pair = socket.socket(fileno=ours), socket.socket(fileno=theirs)
    with Worker(world.native, world.shim / "libcuda.so.1", env, pair) as worker:
        worker.dial()
        assert worker.process.wait(timeout=10) == 0


def test_a_client_that_hangs_up_in_the_middle_leaves_nothing(world: World) -> None:
    with start(world) as worker:
        c = worker.dial()
        c.context()
        on, flag = stream(c), zero(c)
        alloc(c, 64 * MIB)
        c.send("cuStreamWaitValue32_v2", stream=on, addr=flag, value=1, flags=1)
        c.send("cuStreamSynchronize", how=WANTED, hStream=on)  # for ever
        c.sock.close()
        assert worker.process.wait(timeout=5) == 0
        is_back(world, worker.process.pid)


def test_a_killed_worker_is_seen_at_once(world: World) -> None:
    with start(world) as worker:
        c = worker.dial()
        c.context()
        worker.process.kill()
        began = time.monotonic()
        with pytest.raises(WorkerGoneError):
            sync(c)
        assert time.monotonic() - began < 10  # and not the 30 s that a client waits


def test_other_tables_are_refused_with_both_versions(world: World) -> None:
    with start(world) as worker:
        with pytest.raises(ConnectionRefusedError, match="9\\.9\\.9"):
            worker.dial(table_text("0" * 64, "9.9.9"))
        assert worker.process.wait(timeout=5) == 1


def test_no_driver_is_said(world: World) -> None:
    env = world.env("remote")
    del env["LD_PRELOAD"]
    with Worker(world.native, Path("/nowhere/libcuda.so.1"), env) as worker:
        with pytest.raises(ConnectionRefusedError, match="driver cannot be opened"):
            worker.dial()
        assert "/nowhere/libcuda.so.1" in worker.words()


def test_what_it_is_started_with_is_checked(native_dir: Path) -> None:
    for wrong in ((), ("--socket",), ("--socket", "x", "--driver", "y"), ("--what", "1")):
        done = subprocess.run(
            [native_dir / "harp-worker", *wrong], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert done.stderr.startswith("usage: harp-worker --socket FD --driver PATH")
