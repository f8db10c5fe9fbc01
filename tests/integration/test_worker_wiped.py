# SPDX-License-Identifier: Apache-2.0
"""What a session has left in device memory, the next tenant does not find there.

The software GPU gives memory back to the host, which wipes it, too: so these look at what was
there before that. At the end of a session that is the file of its memory, which the test has open.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ring_client import WANTED, Client, Worker
from shim_world import MIB, World, compile_c, soft_world
from worker_world import PTX, SUCCESS, alloc, gone, number, stream, sync, zero

HERE = Path(__file__).resolve().parent
MARK = struct.pack("<Q", 0x5EC4E75EC4E75EC4)
SIZE = 2 * MIB
DEVICE = {"type": 1, "id": 0}
ILLEGAL_ADDRESS = 700
INVALID_CONTEXT, CAPTURE_UNSUPPORTED = 201, 900

root_only = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root to look into a worker, which nobody else can"
)


@pytest.fixture(scope="module")
def world(native_dir: Path) -> Iterator[World]:
    with soft_world(native_dir) as made:
        made.tenant("remote", mem=512 * MIB)
        yield made


@pytest.fixture(scope="module")
def residue(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The software GPU, and before it one who looks into what is freed."""
    return compile_c(
        HERE / "worker_residue.c",
        tmp_path_factory.mktemp("residue") / "libresidue.so",
        "-shared",
        "-fPIC",
        "-Wl,--no-as-needed",
        str(world.cuda),
        f"-Wl,-rpath,{world.cuda.parent}",
    )


# --- what a session may have ----------------------------------------------------------------------


def mark(c: Client, at: int, size: int = SIZE) -> None:
    """Write the mark all over it."""
    c.must("cuMemcpyHtoD_v2", dstDevice=at, srcHost=MARK * 512, ByteCount=4096)
    for done in [4096 << i for i in range(20) if 4096 << i < size]:
        more = min(done, size - done)
        c.send("cuMemcpyDtoD_v2", dstDevice=at + done, srcDevice=at, ByteCount=more)
    assert sync(c) == SUCCESS


def linear(c: Client) -> int:
    at = alloc(c, SIZE)
    mark(c, at)
    return at


def pooled(c: Client) -> int:
    at = int(c.must("cuMemAllocAsync", dptr=1, bytesize=SIZE, hStream=stream(c))["dptr"])
    assert sync(c) == SUCCESS
    mark(c, at)
    return at


def array(c: Client, width: int = 1024, height: int = 64, depth: int = 4) -> int:
    """Of three dimensions; the mark is in its last row."""
    made, source = c.new(), linear(c)
    shape = {"Width": width, "Height": height, "Depth": depth}
    shape |= {"Format": 1, "NumChannels": 1, "Flags": 0}
    c.must("cuArray3DCreate_v2", pHandle=made, pAllocateArray=shape)
    names = ("srcXInBytes", "srcY", "srcZ", "srcLOD", "dstXInBytes", "dstLOD")
    copy = dict.fromkeys(names, 0) | {"srcMemoryType": 2, "srcDevice": source, "srcPitch": width}
    copy |= {"srcHeight": 1, "dstMemoryType": 3, "dstArray": made, "dstPitch": 0, "dstHeight": 0}
    copy |= {"dstY": height - 1, "dstZ": depth - 1, "WidthInBytes": width, "Height": 1, "Depth": 1}
    c.must("cuMemcpy3D_v2", pCopy=copy)
    c.must("cuMemFree_v2", dptr=source)
    return made


def physical(c: Client) -> int:
    """Memory by handle, in no place."""
    made = c.new()
    names = ("compressionType", "gpuDirectRDMACapable", "usage", "reserved")
    prop = {"type": 1, "requestedHandleTypes": 0, "location": DEVICE}
    prop |= {f"allocFlags.{name}": 0 for name in names} | {"allocFlags.reserved": bytes(4)}
    c.must("cuMemCreate", handle=made, size=SIZE, prop=prop, flags=0)
    return made


def mapped(c: Client, handle: int, access: int = 3) -> int:
    at = int(c.must("harpArena", base=0, bytes=SIZE, agreed=1)["agreed"])
    c.must("cuMemMap", ptr=at, size=SIZE, offset=0, handle=handle, flags=0)
    if access:
        desc = [{"location": DEVICE, "flags": access}]
        c.must("cuMemSetAccess", ptr=at, size=SIZE, count=1, desc=desc)
    return at


def by_handle(c: Client) -> int:
    """With the mark, and no mapping any more."""
    made = physical(c)
    at = mapped(c, made)
    mark(c, at)
    c.must("cuMemUnmap", ptr=at, size=SIZE)
    return made


def by_mapping(c: Client) -> int:
    """With the mark, no handle any more, and nobody may write there."""
    made = physical(c)
    at = mapped(c, made)
    mark(c, at)
    c.must("cuMemRelease", handle=made)
    desc = [{"location": DEVICE, "flags": 0}]
    c.must("cuMemSetAccess", ptr=at, size=SIZE, count=1, desc=desc)
    return at


KINDS = [linear, pooled, array, by_handle, by_mapping]


# --- the end of a session -------------------------------------------------------------------------


class Memory:
    """The files that a worker's device memory lies in, kept over its end."""

    def __init__(self, pid: int) -> None:
        folder = Path(f"/proc/{pid}/fd")
        links = [fd for fd in folder.iterdir() if "harp-soft-gpu" in str(fd.readlink())]
        self.files = [os.open(fd, os.O_RDONLY) for fd in links]
        assert self.files

    def has_mark(self) -> bool:
        """Whether it is anywhere in them."""
        for fd in self.files:
            at = 0
            while True:
                try:
                    at = os.lseek(fd, at, os.SEEK_DATA)
                except OSError:  # no more of it
                    break
                end = os.lseek(fd, at, os.SEEK_HOLE)
                for piece in range(at, end, 1 << 22):
                    if MARK in os.pread(fd, min(1 << 22, end - piece), piece):
                        return True
                at = end
        return False

    def close(self) -> None:
        for fd in self.files:
            os.close(fd)


def tenant(world: World, *options: str) -> Worker:
    env = world.env("remote")
    del env["LD_PRELOAD"]
    return Worker(world.native, world.shim / "libcuda.so.1", env, options=options)


def hang_up(worker: Worker) -> int:
    worker.sock.close()
    return 0


def end_it(worker: Worker) -> int:
    worker.process.send_signal(signal.SIGTERM)
    return 0


def lie(worker: Worker) -> int:
    """What no client may write."""
    assert worker.client is not None
    worker.client.put(1, b"", flags=1 << 20)
    return 2


@root_only
@pytest.mark.parametrize("kind", KINDS)
def test_what_a_session_has_at_its_end_is_wiped(world: World, kind: Callable[..., int]) -> None:
    for wiped in (True, False):
        with tenant(world, *(() if wiped else ("--no-wipe",))) as worker:
            c = worker.dial()
            c.context()
            kind(c)
            memory = Memory(worker.process.pid)
            assert memory.has_mark()
            worker.sock.close()
            assert worker.ended() == 0
            assert worker.words() == ""
        assert memory.has_mark() != wiped
        memory.close()


@pytest.mark.slow
@root_only
@pytest.mark.parametrize("how", [hang_up, end_it, lie])
def test_it_is_wiped_however_a_session_ends(world: World, how: Callable[[Worker], int]) -> None:
    with tenant(world) as worker:
        c = worker.dial()
        c.context()
        linear(c)
        memory = Memory(worker.process.pid)
        status = how(worker)
        assert worker.ended() == status
    assert not memory.has_mark()
    memory.close()


#: a program of its own: its session's memory has the mark; waits to be killed
PROGRAM = """
import json, sys, time
from pathlib import Path
import test_worker_wiped as t
worker = t.Worker(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.stdin.readline()))
client = worker.dial()
client.context()
t.linear(client)
print(worker.process.pid, flush=True)
time.sleep(100)
"""


@root_only
def test_it_is_wiped_when_the_client_is_killed(world: World) -> None:
    env = world.env("remote")
    del env["LD_PRELOAD"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_"))}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, world.native, world.shim / "libcuda.so.1"],
        env=clean | {"PYTHONPATH": f"{HERE.parent.parent}:{HERE}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(json.dumps(env) + "\n")
        program.stdin.flush()
        pid = int(program.stdout.readline())
        memory = Memory(pid)
        assert memory.has_mark()
        program.kill()
        end = time.monotonic() + 3
        while not gone(pid):
            assert time.monotonic() < end
            time.sleep(0.02)
    assert not memory.has_mark()
    memory.close()


@pytest.mark.slow
@root_only
def test_a_device_that_does_not_come_to_rest_is_not_waited_for(world: World) -> None:
    """All is wiped all the same, and said to have been so while something ran."""
    with tenant(world) as worker:
        c = worker.dial()
        c.context()
        linear(c)
        on, flag = stream(c), zero(c)
        c.must("cuStreamWaitValue32_v2", stream=on, addr=flag, value=1, flags=1)  # for ever
        memory = Memory(worker.process.pid)
        worker.sock.close()
        assert worker.ended() == 0
        assert "wiped, but the device was not at rest" in worker.words()
    assert not memory.has_mark()
    memory.close()


# --- what a session frees -------------------------------------------------------------------------


def seen(world: World, residue: Path, use: Callable[[Client], None], *options: str) -> list[str]:
    """What the driver has found in what it was given back."""
    with Worker(world.native, residue, world.bare_env(), options=options) as worker:
        c = worker.dial()
        c.context()
        use(c)
        assert sync(c) == SUCCESS
        worker.process.kill()  # so that the end says nothing
        worker.process.wait()
        return worker.words().splitlines()


def free_linear(c: Client) -> None:
    c.must("cuMemFree_v2", dptr=linear(c))


def free_pitched(c: Client) -> None:
    made = c.must(
        "cuMemAllocPitch_v2", dptr=1, pPitch=1, WidthInBytes=1000, Height=64, ElementSizeBytes=4
    )
    mark(c, int(made["dptr"]), int(made["pPitch"]) * 64)
    c.must("cuMemFree_v2", dptr=made["dptr"])


def free_pooled(c: Client) -> None:
    c.must("cuMemFreeAsync", dptr=pooled(c), hStream=stream(c))


def free_pooled_at_once(c: Client) -> None:
    c.must("cuMemFree_v2", dptr=pooled(c))


def destroy_array(c: Client) -> None:
    made = array(c)
    c.must("cuArrayDestroy", hArray=made)


def release(c: Client) -> None:
    c.must("cuMemRelease", handle=by_handle(c))


def free_while_it_is_written(c: Client) -> None:
    """What another stream still does is waited for."""
    at, on, other, flag = alloc(c, SIZE), stream(c), stream(c), zero(c)
    source = linear(c)
    c.send("cuCtxSetCurrent", ctx=c.current, lane=2)
    c.send("cuStreamWaitValue32_v2", stream=on, addr=flag, value=1, flags=1)
    c.send("cuMemcpyDtoDAsync_v2", dstDevice=at, srcDevice=source, ByteCount=SIZE, hStream=on)
    asked = c.send("cuMemFree_v2", dptr=at, how=WANTED)
    time.sleep(0.2)  # it is under way
    c.send("cuMemsetD32Async", dstDevice=flag, ui=1, N=1, hStream=other, lane=2)
    assert c.reply(asked, "cuMemFree_v2", {})[0] == SUCCESS


@pytest.mark.parametrize(
    ("use", "last"),
    [
        (free_linear, "cuMemFree_v2"),
        (free_pitched, "cuMemFree_v2"),
        (free_pooled, "cuMemFreeAsync"),
        (free_pooled_at_once, "cuMemFree_v2"),
        (destroy_array, "cuArrayDestroy"),
        (release, "cuMemRelease"),
        (free_while_it_is_written, "cuMemFree_v2"),
    ],
)
def test_what_is_freed_is_wiped_first(
    world: World, residue: Path, use: Callable[[Client], None], last: str
) -> None:
    assert seen(world, residue, use)[-1] == f"{last} clean"
    assert seen(world, residue, use, "--no-wipe")[-1] == f"{last} dirty"


def test_physical_memory_is_wiped_with_its_last_mapping(world: World, residue: Path) -> None:
    """And not before: what is mapped twice, or has a handle, is the program's."""
    kept = bytearray()

    def use(c: Client) -> None:
        made = physical(c)
        first, second = mapped(c, made), mapped(c, made)
        mark(c, first)
        c.must("cuMemRelease", handle=made)
        c.must("cuMemUnmap", ptr=first, size=SIZE)
        told = c.must("cuMemcpyDtoH_v2", dstHost=b"", srcDevice=second, ByteCount=8)
        kept.extend(told["dstHost"])
        again = c.must("cuMemRetainAllocationHandle", handle=1, addr=second)["handle"]
        c.must("cuMemUnmap", ptr=second, size=SIZE)
        third = mapped(c, again)
        told = c.must("cuMemcpyDtoH_v2", dstHost=b"", srcDevice=third, ByteCount=8)
        kept.extend(told["dstHost"])
        c.must("cuMemRelease", handle=again)
        c.must("cuMemUnmap", ptr=third, size=SIZE)

    told = seen(world, residue, use)
    assert bytes(kept) == 2 * MARK
    assert told[0] == "cuMemRelease dirty"  # mapped, and the program's
    assert told[-1] == "cuMemRelease clean"  # the worker's own, after the last unmap
    assert seen(world, residue, use, "--no-wipe")[-1] == "cuMemRelease dirty"


def test_what_goes_with_its_context_is_wiped_first(
    world: World, residue: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tmp_path / "at"
    monkeypatch.setenv("RESIDUE_AT", str(where))

    def use(c: Client) -> None:
        made = c.new()
        c.must("cuCtxCreate_v2", pctx=made, flags=0, dev=0, lane=2)
        at = int(c.must("cuMemAlloc_v2", dptr=1, bytesize=SIZE, lane=2)["dptr"])
        c.must("cuMemcpyHtoD_v2", dstDevice=at, srcHost=MARK, ByteCount=8, lane=2)
        where.write_text(f"{at:x}")
        c.must("cuCtxDestroy_v2", ctx=made, lane=2)

    assert seen(world, residue, use) == ["cuCtxDestroy_v2 clean"]
    assert seen(world, residue, use, "--no-wipe") == ["cuCtxDestroy_v2 dirty"]


def test_what_the_session_still_has_is_left_alone(world: World, residue: Path) -> None:
    """Also by a context's use that is not its last one, and by a free that fails."""
    kept = bytearray()

    def use(c: Client) -> None:
        at, other = linear(c), linear(c)
        c.must("cuDevicePrimaryCtxRetain", pctx=c.new(), dev=0)
        c.must("cuDevicePrimaryCtxRelease_v2", dev=0)
        c.must("cuMemFree_v2", dptr=other)
        assert c.ask("cuMemFree_v2", dptr=at + 4096)[0] != SUCCESS
        told = c.must("cuMemcpyDtoH_v2", dstHost=b"", srcDevice=at, ByteCount=8)
        kept.extend(told["dstHost"])

    seen(world, residue, use)
    assert bytes(kept) == MARK


def test_freeing_ends_no_capture(world: World) -> None:
    """Though it writes, and may be waited for: by a stream of the worker's own."""
    with tenant(world) as worker:
        c = worker.dial()
        c.context()
        on, graph, at, other = stream(c), c.new(), alloc(c), linear(c)
        c.must("cuStreamBeginCapture_v2", hStream=on, mode=2)  # relaxed: freeing is allowed
        c.send("cuMemsetD32Async", dstDevice=at, ui=1, N=1, hStream=on)
        c.must("cuMemFree_v2", dptr=other)
        c.must("cuStreamEndCapture", hStream=on, phGraph=graph)


@pytest.mark.parametrize("mode", [0, 1])  # global, of the thread
def test_what_a_capture_keeps_from_being_freed_is_as_it_was(world: World, mode: int) -> None:
    with tenant(world) as worker:
        c = worker.dial()
        c.context()
        on, at = stream(c), zero(c)
        c.must("cuMemsetD32_v2", dstDevice=at, ui=7, N=1)
        c.must("cuStreamBeginCapture_v2", hStream=on, mode=mode)
        assert c.ask("cuMemFree_v2", dptr=at)[0] == CAPTURE_UNSUPPORTED
        c.ask("cuStreamEndCapture", hStream=on, phGraph=c.new())
        assert number(c, at) == 7


def test_what_no_context_frees_is_as_it_was(world: World) -> None:
    with tenant(world) as worker:
        c = worker.dial()
        c.context()
        at = zero(c)
        c.must("cuMemsetD32_v2", dstDevice=at, ui=7, N=1)
        c.must("cuCtxSetCurrent", ctx=0)
        assert c.ask("cuMemFree_v2", dptr=at)[0] == INVALID_CONTEXT
        c.must("cuCtxSetCurrent", ctx=c.current)
        assert number(c, at) == 7


@pytest.mark.parametrize("how", ["cuStreamEndCapture", "cuStreamDestroy_v2"])
def test_after_a_capture_memory_is_wiped_again(world: World, residue: Path, how: str) -> None:
    def use(c: Client) -> None:
        on, at = stream(c), linear(c)
        c.must("cuStreamBeginCapture_v2", hStream=on, mode=0)
        c.ask(how, **({"phGraph": c.new()} if how == "cuStreamEndCapture" else {}), hStream=on)
        c.must("cuMemFree_v2", dptr=at)

    assert seen(world, residue, use) == ["cuMemFree_v2 clean"]


def test_what_a_fault_has_made_unreachable_is_said(world: World) -> None:
    with tenant(world) as worker:
        c = worker.dial()
        c.context()
        linear(c)
        twice = c.function(PTX, "twice")
        c.launch(twice, struct.pack("<Q", 64), blocks=1, threads=1)
        assert sync(c) == ILLEGAL_ADDRESS
        worker.sock.close()
        assert worker.ended() == 0
        assert f"{SIZE} bytes and 0 arrays of the device are not wiped" in worker.words()
