# SPDX-License-Identifier: Apache-2.0
"""Pinned host memory under libharp: charged by pages to the tenant's own quota of it."""

from __future__ import annotations

import select
import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from shim_script import client
from shim_world import MIB, ROOT, World, compile_c, soft_world

from harp.lease_wire import MemClass, Msg, Op

PAGE = 4096
PRELUDE = """
import ctypes as C, mmap, os, sys
cuda = C.CDLL("libcuda.so.1")
MIB, PAGE = 1 << 20, 4096
def raw(name, *args):
    return getattr(cuda, name)(*args)
def do(name, *args):
    status = raw(name, *args)
    assert status == 0, (name, status)
def pin(size, name="cuMemHostAlloc"):
    p = C.c_void_p()
    flags = (0,) if name == "cuMemHostAlloc" else ()
    return raw(name, C.byref(p), C.c_size_t(size), *flags), p
def unpin(p):
    do("cuMemFreeHost", p)
def say(word):
    print(word, flush=True)
    sys.stdin.readline()
do("cuInit", 0)
ctx = C.c_void_p()
do("cuCtxCreate_v2", C.byref(ctx), 0, 0)
"""


@pytest.fixture(scope="module")
def machine(native_dir: Path) -> Iterator[World]:
    with soft_world(native_dir) as made:
        yield made


def program(body: str) -> str:
    return PRELUDE + textwrap.dedent(body)


def tenant(world: World, name: str, quota: int, mem: int = 64 * MIB) -> None:
    world.tenant(name, mem=mem)
    world.set_tenant(name, free_bytes=quota)


def pinned(world: World, name: str) -> int:
    return world.usage(name).free_bytes


def test_quota_is_kept_to_the_page_and_denial_is_out_of_memory(machine: World) -> None:
    tenant(machine, "quota", 8 * PAGE)
    machine.python(
        "quota",
        program("""
        assert pin(8 * PAGE + 1)[0] == 2
        status, p = pin(5 * PAGE)
        assert status == 0
        status, q = pin(2 * PAGE + 1, "cuMemAllocHost_v2")
        assert status == 0
        assert pin(1)[0] == 2 and pin(1, "cuMemAllocHost_v2")[0] == 2
        unpin(q)
        assert pin(3 * PAGE)[0] == 0
        assert pin(PAGE)[0] == 2
        # device memory is another account, and full of its own
        at = C.c_uint64()
        do("cuMemAlloc_v2", C.byref(at), C.c_size_t(64 * MIB))
        unpin(p)
        assert pin(5 * PAGE)[0] == 0
        """),
    )
    assert machine.usage("quota").denials == 4
    assert pinned(machine, "quota") == 0  # gone with its process


def test_registered_pages_are_charged_until_they_are_unregistered(machine: World) -> None:
    tenant(machine, "register", 4 * PAGE)
    child = machine.start(
        "register",
        sys.executable,
        "-c",
        program("""
        area = mmap.mmap(-1, 8 * PAGE)
        at = C.addressof(C.c_char.from_buffer(area))
        def register(offset, size):
            return raw("cuMemHostRegister_v2", C.c_void_p(at + offset), C.c_size_t(size), 0)
        assert register(100, 4 * PAGE) == 2  # five pages
        assert register(100, 3 * PAGE) == 0  # four
        say("full")
        assert register(5 * PAGE, 1) == 2
        assert raw("cuMemHostUnregister", C.c_void_p(at + PAGE)) != 0
        say("still full")
        do("cuMemHostUnregister", C.c_void_p(at + 100))
        say("empty")
        assert register(5 * PAGE, 1) == 0
        assert register(5 * PAGE, 1) not in (0, 2)  # the driver's own error: charged once
        say("one")
        """),
    )
    for expected in (4, 4, 0, 1):
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline()
        assert pinned(machine, "register") == expected * PAGE
        child.stdin.write("\n")
        child.stdin.flush()
    assert child.wait(20) == 0


def test_without_a_quota_it_is_counted_and_goes_with_its_context(machine: World) -> None:
    tenant(machine, "counted", 0)
    child = machine.start(
        "counted",
        sys.executable,
        "-c",
        program("""
        assert pin(100 * MIB)[0] == 0 and pin(3)[0] == 0
        say("pinned")
        do("cuCtxDestroy_v2", ctx)
        say("gone")
        assert raw("cuMemHostAlloc", None, C.c_size_t(5), 0) != 0
        say("nothing")
        """),
    )
    for expected in (100 * MIB + PAGE, 0, 0):
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline()
        assert pinned(machine, "counted") == expected
        child.stdin.write("\n")
        child.stdin.flush()
    assert child.wait(20) == 0


def test_physical_memory_on_the_host_is_pinned_memory_too(machine: World) -> None:
    tenant(machine, "numa", 4 * MIB)
    machine.python(
        "numa",
        program("""
        class Prop(C.Structure):
            _fields_ = [("type", C.c_int), ("handles", C.c_int), ("where", C.c_int),
                        ("id", C.c_int), ("win32", C.c_void_p), ("flags", C.c_ubyte * 8)]
        def create(size):
            handle, prop = C.c_uint64(), Prop(1, 0, 3, 0)  # HOST_NUMA, node 0
            return raw("cuMemCreate", C.byref(handle), C.c_size_t(size), C.byref(prop),
                       C.c_uint64(0)), handle
        assert create(6 * MIB)[0] == 2
        status, handle = create(4 * MIB)
        assert status == 0, status
        assert pin(1)[0] == 2
        do("cuMemRelease", handle)
        assert pin(4 * MIB)[0] == 0
        at = C.c_uint64()
        do("cuMemAlloc_v2", C.byref(at), C.c_size_t(64 * MIB))
        """),
    )


@pytest.mark.parametrize("where", [2, 3], ids=["host", "node"])
def test_a_pool_of_the_host_is_pinned_memory_too(machine: World, where: int) -> None:
    tenant(machine, f"pool{where}", 8 * MIB)
    machine.python(
        f"pool{where}",
        program(f"""
        class Props(C.Structure):
            _fields_ = [("type", C.c_int), ("handles", C.c_int), ("where", C.c_int),
                        ("id", C.c_int), ("rest", C.c_char * 72)]
        pool, stream, word = C.c_void_p(), C.c_void_p(), C.c_void_p()
        do("cuMemPoolCreate", C.byref(pool), C.byref(Props(1, 0, {where}, 0)))
        do("cuStreamCreate", C.byref(stream), 1)
        def take(size):
            at = C.c_uint64()
            return raw("cuMemAllocFromPoolAsync", C.byref(at), C.c_size_t(size), pool, stream), at
        assert take(9 * MIB)[0] == 2
        status, word = pin(PAGE)
        C.memset(word, 0, 4)
        status, at = take(7 * MIB)
        assert status == 0, status
        assert pin(MIB)[0] == 2
        assert raw("cuMemFree_v2", C.c_uint64(at.value + 512)) == 1
        do("cuStreamWaitValue32_v2", stream, C.c_uint64(word.value), 1, 0)
        do("cuMemFreeAsync", at, stream)
        assert pin(MIB)[0] == 2                # not before the stream gets there
        C.memset(word, 1, 4)
        do("cuStreamSynchronize", stream)
        status, p = pin(7 * MIB)
        assert status == 0
        unpin(p)
        status, at = take(7 * MIB)
        assert status == 0 and pin(MIB)[0] == 2
        do("cuMemFree_v2", at)
        assert pin(7 * MIB)[0] == 0
        """),
    )


def test_an_arbiter_that_comes_back_hears_what_is_pinned(machine: World) -> None:
    tenant(machine, "again", 10 * PAGE)
    child = machine.start(
        "again",
        sys.executable,
        "-c",
        program("""
        status, p = pin(6 * PAGE)
        assert status == 0
        say("pinned")
        assert pin(5 * PAGE)[0] == 2
        assert pin(4 * PAGE)[0] == 0
        say("full")
        """),
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline()
    machine.stop_arbiter(signal.SIGKILL)
    machine.start_arbiter()
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.stdout.readline() == "full\n"
    assert pinned(machine, "again") == 10 * PAGE
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.wait(20) == 0


def test_an_older_arbiter_is_not_asked_and_a_newer_one_hears_of_it(
    native_dir: Path, tmp_path: Path
) -> None:
    fake = tmp_path / "fake-memory"
    fake.mkdir()
    options = ("-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-Wl,-Bsymbolic")
    source = ROOT / "tests" / "native" / "shim_fake_memory.c"
    real = compile_c(source, fake / "libcuda.so.1", *options)
    body = program("""
        assert pin(9 * PAGE)[0] == 0
        status, p = pin(5)
        assert status == 0
        unpin(p)
        say("pinned")
        assert pin(2 * PAGE)[0] == 0
        say("more")
    """)
    with client(native_dir, tmp_path, sys.executable, "-c", body, HARP_CUDA_REAL=str(real)) as made:
        old = made.arbiter()
        assert made.process.stdout is not None
        asked = []
        while not select.select([made.process.stdout], [], [], 0)[0]:
            if select.select([old.link], [], [], 0.05)[0]:
                msg = Msg.unpack(old.link.recv(4096))
                if msg.op == Op.LEASE_MEM:
                    old.say(
                        op=Op.MEM_GRANT, seq=msg.seq, cls=msg.cls, amount_bytes=msg.amount_bytes
                    )
                asked.append((msg.op, msg.cls))
        assert MemClass.HOST not in {cls for _, cls in asked}
        old.link.close()
        new = made.arbiter(classes=3)
        adopted = new.until(Op.ADOPT_MEM, cls=MemClass.HOST)
        assert adopted.amount_bytes == 9 * PAGE
        made.go()
        new.link.settimeout(20)
        leased = new.lease(MemClass.HOST)
        assert leased == 2 * PAGE
