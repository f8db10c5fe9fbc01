# SPDX-License-Identifier: Apache-2.0
"""The memory gate, over a fake driver that has every allocator: lease before, settle after."""

from __future__ import annotations

import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from shim_world import GRANULE, MIB, World, build_fake

PRELUDE = """
import ctypes as C, sys
cuda = C.CDLL("libcuda.so.1")
def raw(name, *args):
    return getattr(cuda, name)(*args)
def do(name, *args):
    status = raw(name, *args)
    assert status == 0, (name, status)
def alloc(size):
    p = C.c_uint64()
    status = raw("cuMemAlloc_v2", C.byref(p), C.c_size_t(size))
    return status, p.value
def free(p):
    do("cuMemFree_v2", C.c_uint64(p))
def info():
    f, t = C.c_size_t(), C.c_size_t()
    do("cuMemGetInfo_v2", C.byref(f), C.byref(t))
    return f.value, t.value
MIB = 1 << 20
do("cuInit", 0)
ctx = C.c_void_p()
def context():
    do("cuCtxCreate_v2", C.byref(ctx), 0, 0)
"""


def program(body: str) -> str:
    return PRELUDE + textwrap.dedent(body)


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_fake(tmp_path_factory.mktemp("fake"))


@pytest.fixture
def world(native_dir: Path, fake: Path) -> Iterator[World]:
    with World(native_dir, cuda=fake) as made:
        yield made


def test_program_sees_its_limit_and_free_can_be_had_in_one_piece(world: World) -> None:
    world.tenant("a", mem=256 * MIB)
    out = world.python(
        "a",
        program("""
        total = C.c_size_t()
        do("cuDeviceTotalMem_v2", C.byref(total), 0)
        assert total.value == 256 * MIB, total
        context()
        assert info() == (256 * MIB, 256 * MIB), info()
        status, p = alloc(256 * MIB)
        assert status == 0
        assert info() == (0, 256 * MIB)
        assert alloc(1)[0] == 2 and alloc(2 * MIB)[0] == 2
        free(p)
        assert info() == (256 * MIB, 256 * MIB)
        assert alloc(256 * MIB + 1)[0] == 2
        print("good")
        """),
    )
    assert out == "good\n"
    assert world.usage("a").leased_bytes == 0


def test_small_allocations_share_granules(world: World) -> None:
    world.tenant("a", mem=8 * MIB)
    world.python(
        "a",
        program("""
        context()
        small = [alloc(1024) for _ in range(2048)]
        assert all(s == 0 for s, _ in small)
        assert info()[0] == 6 * MIB, info()
        status, big = alloc(6 * MIB)
        assert status == 0
        # the granule is full, the limit reached
        assert alloc(1024)[0] == 2
        for _, p in small[:-1]:
            free(p)
        assert info()[0] == 0
        free(small[-1][1])
        assert info()[0] == 2 * MIB
        """),
    )


def test_small_allocation_fits_into_a_held_granule_at_the_limit(world: World) -> None:
    world.tenant("a", mem=4 * MIB)
    world.python(
        "a",
        program("""
        context()
        assert alloc(512)[0] == 0
        assert alloc(2 * MIB)[0] == 0
        assert info()[0] == 0
        assert alloc(512)[0] == 0      # no granule can be leased, but there is room
        assert alloc(2 * MIB)[0] == 2
        """),
    )


def test_every_other_way_to_memory_is_charged_and_given_back(world: World) -> None:
    world.tenant("a", mem=64 * MIB)
    world.python(
        "a",
        program("""
        context()
        p, q = C.c_uint64(), C.c_uint64()
        n = C.c_size_t
        def full():
            return info()[0]
        do("cuMemAllocManaged", C.byref(p), n(10 * MIB), 1)
        assert full() == 54 * MIB
        free(p.value)
        pitch = C.c_size_t()
        do("cuMemAllocPitch_v2", C.byref(p), C.byref(pitch), n(100), n(20 * 1024), 4)
        assert pitch.value == 512 and full() == 54 * MIB, full()
        free(p.value)
        for name in ("cuMemAllocAsync",):
            do(name, C.byref(p), n(6 * MIB), None)
            assert full() == 58 * MIB
            assert raw(name, C.byref(q), n(60 * MIB), None) == 2
            do("cuMemFreeAsync", p, None)
            assert full() == 64 * MIB
        pool = C.c_void_p()
        do("cuDeviceGetDefaultMemPool", C.byref(pool), 0)
        do("cuMemAllocFromPoolAsync", C.byref(p), n(6 * MIB), pool, None)
        assert full() == 58 * MIB
        free(p.value)
        class Prop(C.Structure):
            _fields_ = [("type", C.c_int), ("handles", C.c_int), ("where", C.c_int),
                        ("id", C.c_int), ("rest", C.c_char * 64)]
        prop = Prop(type=1, where=1)
        h = C.c_uint64()
        do("cuMemCreate", C.byref(h), n(32 * MIB), C.byref(prop), C.c_uint64(0))
        assert full() == 32 * MIB
        assert raw("cuMemCreate", C.byref(q), n(34 * MIB), C.byref(prop), C.c_uint64(0)) == 2
        va = C.c_uint64(0x7100_0000_0000)
        do("cuMemMap", va, n(32 * MIB), n(0), h, C.c_uint64(0))
        do("cuMemRelease", h)
        assert full() == 32 * MIB      # mapped memory lives on
        do("cuMemUnmap", va, n(32 * MIB))
        assert full() == 64 * MIB
        class Array(C.Structure):
            _fields_ = [("w", n), ("h", n), ("format", C.c_uint), ("channels", C.c_uint)]
        class Array3(C.Structure):
            _fields_ = [("w", n), ("h", n), ("d", n), ("format", C.c_uint),
                        ("channels", C.c_uint), ("flags", C.c_uint)]
        a = C.c_void_p()
        do("cuArrayCreate_v2", C.byref(a), C.byref(Array(1024, 1024, 32, 1)))
        assert full() == 60 * MIB
        do("cuArrayDestroy", a)
        do("cuArray3DCreate_v2", C.byref(a), C.byref(Array3(256, 256, 256, 1, 1, 0)))
        assert full() == 48 * MIB
        do("cuArrayDestroy", a)
        assert raw("cuArray3DCreate_v2", C.byref(a),
                   C.byref(Array3(1 << 20, 1 << 20, 256, 1, 4, 0))) == 2
        do("cuMipmappedArrayCreate", C.byref(a), C.byref(Array3(2048, 1024, 0, 32, 1, 0)), 2)
        assert full() == 54 * MIB
        do("cuMipmappedArrayDestroy", a)
        assert full() == 64 * MIB
        do("cuCtxSetLimit", 2, n(24 * MIB))        # device heap: 8 MiB before
        assert full() == 48 * MIB
        assert raw("cuCtxSetLimit", 0, n(64 << 10)) == 2   # stacks of all threads: 645 MiB
        do("cuCtxDestroy_v2", ctx)
        context()
        assert full() == 64 * MIB
        """),
    )
    assert world.usage("a").leased_bytes == 0


def test_names_that_are_not_known_are_withheld_from_the_limited(world: World) -> None:
    world.tenant("a", mem=64 * MIB)
    world.tenant("free")
    body = program("""
        context()
        fn, status = C.c_void_p(), C.c_int(7)
        print(raw("cuGetProcAddress_v2", b"cuSomethingNew", C.byref(fn), 13000, C.c_uint64(0),
                  C.byref(status)), status.value, fn.value is None)
        """)
    assert world.python("a", body) == "500 1 True\n"
    assert "unknown_name name=cuSomethingNew" in world.log("a")
    assert world.python("free", body) == "0 0 False\n"


def test_addresses_by_name_are_ours_in_each_version(world: World) -> None:
    world.tenant("a", mem=64 * MIB)
    world.python(
        "a",
        program("""
        context()
        fn, status = C.c_void_p(), C.c_int()
        do("cuGetProcAddress_v2", b"cuMemAlloc", C.byref(fn), 13000, C.c_uint64(0), C.byref(status))
        assert fn.value == C.cast(cuda.cuMemAlloc_v2, C.c_void_p).value
        p = C.c_uint64()
        by_name = C.CFUNCTYPE(C.c_int, C.c_void_p, C.c_size_t)(fn.value)
        assert by_name(C.byref(p), 65 * MIB) == 2
        do("cuGetProcAddress_v2", b"cuGetProcAddress", C.byref(fn), 12000, C.c_uint64(0),
           C.byref(status))
        assert fn.value == C.cast(cuda.cuGetProcAddress_v2, C.c_void_p).value
        """),
    )


def test_unknown_free_and_bad_arguments_are_the_drivers_business(world: World) -> None:
    world.tenant("a", mem=64 * MIB)
    world.python(
        "a",
        program("""
        p = C.c_uint64()
        assert raw("cuMemAlloc_v2", C.byref(p), C.c_size_t(MIB)) == 0   # the fake needs no context
        context()
        assert raw("cuMemAlloc_v2", None, C.c_size_t(MIB)) == 1
        assert raw("cuMemAlloc_v2", C.byref(p), C.c_size_t(0)) == 1
        assert raw("cuMemFree_v2", C.c_uint64(12345)) == 1
        assert raw("cuMemFree_v2", C.c_uint64(0)) == 1
        assert raw("cuCtxCreate_v2", C.byref(ctx), 0, 7) == 0    # the fake takes any
        assert info()[0] == 64 * MIB
        """),
    )


def test_a_full_device_denies_without_a_limit_too(world: World) -> None:
    world.tenant("a")
    world.tenant("b")
    holder = world.start(
        "a",
        sys.executable,
        "-c",
        program("""
        context()
        assert alloc(3000 * MIB)[0] == 0
        print("held", flush=True)
        sys.stdin.read()
        """),
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    world.python(
        "b",
        program("""
        context()
        # 4096 - 3000 - two contexts of 64
        assert info()[0] == 968 * MIB, info()
        assert alloc(970 * MIB)[0] == 2
        assert alloc(968 * MIB)[0] == 0
        """),
    )


def test_no_grant_passes_everything_through(world: World) -> None:
    world.tenant("a", mem=64 * MIB)
    env = world.env("a")
    del env["HARP_GRANT"]
    out = world.python(
        None,
        program("""
        context()
        assert info() == (4096 * MIB, 4096 * MIB)
        assert alloc(1000 * MIB)[0] == 0
        print(len([l for l in open("/proc/self/task/%d/children" % __import__("os").getpid())]))
        """),
        LD_PRELOAD=env["LD_PRELOAD"],
        HARP_CUDA_REAL=env["HARP_CUDA_REAL"],
    )
    assert out == "0\n"
    assert world.clients() == []


@pytest.mark.slow
def test_unreachable_arbiter_fails_closed(world: World) -> None:
    world.tenant("a", mem=64 * MIB)
    world.stop_arbiter()
    world.sockets.pop("a").close()
    out = world.python(
        "a",
        program("""
        import time
        start = time.monotonic()
        status = raw("cuCtxCreate_v2", C.byref(ctx), 0, 0)
        first = time.monotonic() - start
        again = raw("cuCtxCreate_v2", C.byref(ctx), 0, 0)
        print(status, again, 4 < first < 8, time.monotonic() - start - first < 1)
        """),
    )
    assert out == "2 2 True True\n"
    assert "arbiter_unreachable" in world.log("a")
    world.start_arbiter = lambda: None  # type: ignore[method-assign]


@pytest.mark.parametrize("processes", [8, pytest.param(64, marks=pytest.mark.slow)])
def test_racing_processes_fill_the_limit_and_never_pass_it(
    native_dir: Path, fake: Path, processes: int
) -> None:
    with World(native_dir, cuda=fake, overhead=8 * MIB) as world:
        race(world, processes)


def race(world: World, processes: int) -> None:
    limit = 256 * MIB
    world.tenant("a", mem=limit)
    code = program("""
        context()
        print("ready", flush=True)
        sys.stdin.readline()
        held = 0
        while alloc(2 * MIB)[0] == 0:
            held += 1
        print(held, flush=True)
        sys.stdin.read()
        """)
    racers = [world.start("a", sys.executable, "-c", code) for _ in range(processes)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    # one is stopped in mid-race: it strands nothing, for it keeps no slack
    racers[0].send_signal(signal.SIGSTOP)
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    held = [int(r.stdout.readline()) for r in racers[1:] if r.stdout is not None]
    use = world.usage("a")
    assert use.leased_bytes == sum(held) * GRANULE <= limit
    assert limit - use.leased_bytes <= GRANULE
    racers[0].send_signal(signal.SIGCONT)


def test_arbiter_comes_back_and_learns_what_is_held(world: World) -> None:
    world.tenant("a", mem=64 * MIB)
    child = world.start(
        "a",
        sys.executable,
        "-c",
        program("""
        context()
        assert alloc(40 * MIB)[0] == 0
        print("held", flush=True)
        sys.stdin.readline()
        print(alloc(40 * MIB)[0], alloc(20 * MIB)[0], flush=True)
        sys.stdin.readline()
        """),
    )
    assert child.stdout is not None
    assert child.stdin is not None
    assert child.stdout.readline() == "held\n"
    world.stop_arbiter(signal.SIGKILL)
    world.start_arbiter()
    child.stdin.write("\n")
    child.stdin.flush()
    assert child.stdout.readline() == "2 0\n"
    assert world.usage("a").leased_bytes == 60 * MIB


def test_forked_child_is_a_client_of_its_own(world: World) -> None:
    world.tenant("a", mem=64 * MIB)
    out = world.python(
        "a",
        program("""
        import os
        context()
        assert alloc(40 * MIB)[0] == 0
        r, w = os.pipe()
        if os.fork() == 0:
            do("cuInit", 0)
            context()
            # the fake, unlike a driver, works in a child: all the better to see the ledger
            os.write(w, b"%d %d %d" % (info()[0] // MIB, alloc(40 * MIB)[0], alloc(20 * MIB)[0]))
            os._exit(0)
        os.close(w)
        text = os.read(r, 100).decode()
        os.wait()
        print(text, alloc(2 * MIB)[0])
        """),
    )
    assert out == "24 2 0 0\n"
