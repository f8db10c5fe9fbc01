# SPDX-License-Identifier: Apache-2.0
"""Charge rules of what the software GPU has not: arrays that say what they need, sparse tiles,
multicast, external memory, green contexts; over a fake driver. And rules against the truth.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from arbiter_world import until
from shim_world import GRANULE, MIB, ROOT, World, compile_c, soft_world

PRELUDE = """
import ctypes as C, sys
cuda = C.CDLL("libcuda.so.1")
MIB, n = 1 << 20, C.c_size_t
ZERO = C.c_uint64(0)
def raw(name, *args):
    return getattr(cuda, name)(*args)
def do(name, *args):
    status = raw(name, *args)
    assert status == 0, (name, status)
def free():
    f, t = C.c_size_t(), C.c_size_t()
    do("cuMemGetInfo_v2", C.byref(f), C.byref(t))
    return f.value // MIB
class Prop(C.Structure):
    _fields_ = [("type", C.c_int), ("handles", C.c_int), ("where", C.c_int), ("id", C.c_int),
                ("rest", C.c_char * 64)]
def physical(mib):
    h = C.c_uint64()
    do("cuMemCreate", C.byref(h), n(mib * MIB), C.byref(Prop(type=1, where=1)), ZERO)
    return h
class Array(C.Structure):
    _fields_ = [("w", n), ("h", n), ("d", n), ("format", C.c_uint), ("channels", C.c_uint),
                ("flags", C.c_uint)]
def array(width, height, flags=0):
    a = C.c_void_p()
    status = raw("cuArray3DCreate_v2", C.byref(a), C.byref(Array(width, height, 0, 32, 1, flags)))
    return status, a
do("cuInit", 0)
ctx = C.c_void_p()
def context():
    do("cuCtxCreate_v2", C.byref(ctx), 0, 0)
"""


def program(body: str) -> str:
    return PRELUDE + textwrap.dedent(body)


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fake-memory")
    options = ("-shared", "-fPIC", "-w", "-Wl,-soname,libcuda.so.1", "-Wl,-Bsymbolic")
    source = ROOT / "tests" / "native" / "shim_fake_memory.c"
    return compile_c(source, folder / "libcuda.so.1", *options)


@pytest.fixture
def world(native_dir: Path, fake: Path) -> Iterator[World]:
    with World(native_dir, cuda=fake) as made:
        made.tenant("a", mem=64 * MIB)
        yield made
        assert made.usage("a").leased_bytes == 0


def test_arrays_are_charged_what_the_driver_says_they_need(world: World) -> None:
    world.python(
        "a",
        program("""
        context()
        status, a = array(1000, 1024)   # 3 MiB as the driver says; 4000 bytes a row by formula
        assert (status, free()) == (0, 60)
        do("cuArrayDestroy", a)
        assert free() == 64
        assert array(1, 1 << 20)[0] == 2  # 3 GiB, by formula 4 MiB
        small = [array(100, 128)[1] for _ in range(3)]  # 384 KiB each
        assert free() == 62
        small.append(array(100, 128)[1])   # 896 KiB are left, in at most four gaps: perhaps none
        assert free() == 60                # that is large enough
        for a in small:
            do("cuArrayDestroy", a)
        assert free() == 64
        m = C.c_void_p()
        do("cuMipmappedArrayCreate", C.byref(m), C.byref(Array(1000, 1024, 0, 32, 1, 0)), 3)
        assert free() == 60
        do("cuMipmappedArrayDestroy", m)
        array(100, 128), array(1000, 1024)
        assert free() == 58
        do("cuCtxDestroy_v2", ctx)
        context()
        assert free() == 64
        """),
    )


def test_without_such_arrays_a_formula_is_the_upper_bound(world: World) -> None:
    world.python(
        "a",
        program("""
        context()
        status, a = array(1000, 1024)   # 4000 KiB
        assert (status, free()) == (0, 60)
        small = [array(16, 16)[1] for _ in range(16)]   # 64 KiB each: 1 MiB is left, in 17 gaps
        assert free() == 58
        small.append(array(16, 16)[1])
        assert free() == 56
        """),
        FAKE_FAIL="deferred",
    )


def test_tiles_of_sparse_arrays_keep_their_memory_charged(world: World) -> None:
    world.python(
        "a",
        program("""
        context()
        class Tile(C.Structure):
            _fields_ = [("resource", C.c_int), ("array", C.c_void_p), ("what", C.c_int),
                        ("level", C.c_uint64 * 4), ("op", C.c_int), ("kind", C.c_int),
                        ("memory", C.c_uint64), ("offset", C.c_uint64), ("mask", C.c_uint),
                        ("flags", C.c_uint), ("reserved", C.c_uint * 2)]
        assert C.sizeof(Tile) == 96
        status, a = array(1000, 1024, 0x40)  # sparse: takes nothing itself
        assert (status, free()) == (0, 64)
        one, two = physical(4), physical(6)
        assert free() == 54
        tiles = (Tile * 3)(*(Tile(array=a, op=1, memory=h.value) for h in (one, two, one)))
        do("cuMemMapArrayAsync", tiles, 3, None)
        do("cuMemRelease", one)
        do("cuMemRelease", two)
        assert free() == 54
        do("cuArrayDestroy", a)
        assert free() == 64
        status, a = array(1000, 1024, 0x40)
        h = physical(4)
        do("cuMemMapArrayAsync", C.byref(Tile(array=a, op=1, memory=h.value)), 1, None)
        do("cuMemRelease", h)
        assert free() == 60
        do("cuCtxDestroy_v2", ctx)  # takes the array along, and that its tiles
        context()
        assert free() == 64
        """),
    )


def test_multicast_keeps_what_is_bound_charged_and_takes_nothing_itself(world: World) -> None:
    world.python(
        "a",
        program("""
        context()
        class Multicast(C.Structure):
            _fields_ = [("devices", C.c_uint), ("size", n), ("kinds", C.c_uint64),
                        ("flags", C.c_uint64)]
        def multicast():
            h = C.c_uint64()
            do("cuMulticastCreate", C.byref(h), C.byref(Multicast(2, 32 * MIB, 0, 0)))
            do("cuMulticastAddDevice", h, 0)
            return h
        m = multicast()
        assert free() == 64
        one, two, va = physical(4), physical(6), C.c_uint64(0x7100_0000_0000)
        do("cuMulticastBindMem", m, n(0), one, n(0), n(4 * MIB), ZERO)
        do("cuMemMap", va, n(6 * MIB), n(0), two, ZERO)
        do("cuMulticastBindAddr", m, n(8 * MIB), C.c_uint64(va.value + MIB), n(5 * MIB), ZERO)
        for h in (one, two):
            do("cuMemRelease", h)
        do("cuMemUnmap", va, n(6 * MIB))
        assert free() == 54
        do("cuMulticastUnbind", m, 0, n(8 * MIB), n(6 * MIB))
        assert free() == 60
        other = physical(8)
        do("cuMulticastBindMem", m, n(8 * MIB), other, n(0), n(8 * MIB), ZERO)
        do("cuMemRelease", other)
        do("cuMemMap", va, n(32 * MIB), n(0), m, ZERO)  # the object is mapped, so it lives on
        do("cuMemRelease", m)
        assert free() == 52
        do("cuMemUnmap", va, n(32 * MIB))
        assert free() == 64
        """),
    )


IMPORT = """
context()
class Desc(C.Structure):
    _fields_ = [("type", C.c_int), ("handle", C.c_uint64 * 2), ("size", C.c_uint64),
                ("flags", C.c_uint), ("reserved", C.c_uint * 16)]
assert C.sizeof(Desc) == 104
def bring(size):
    m = C.c_void_p()
    return raw("cuImportExternalMemory", C.byref(m), C.byref(Desc(type=1, size=size))), m
"""


def test_external_memory_is_charged_to_who_imports_it(world: World) -> None:
    world.python(
        "a",
        program(
            IMPORT
            + textwrap.dedent("""
        status, m = bring(5 * MIB)
        assert (status, free()) == (0, 58)
        assert bring(60 * MIB)[0] == 2
        do("cuDestroyExternalMemory", m)
        assert free() == 64
        assert bring(60 * MIB)[0] == 0
        do("cuCtxDestroy_v2", ctx)
        context()
        assert free() == 64
        """)
        ),
    )
    assert "external_memory_charged dev=0 bytes=6291456 owner=external" in world.log("a")


def test_an_import_that_fails_leaves_nothing(world: World) -> None:
    body = program(IMPORT + "assert bring(5 * MIB)[0] == 801\nassert free() == 64\n")
    world.python("a", body, FAKE_FAIL="cuImportExternalMemory")


def overhead(world: World) -> int:
    return world.usage("a").overhead_bytes


def test_green_contexts_are_charged_the_primary_one(world: World) -> None:
    child = world.start(
        "a",
        sys.executable,
        "-c",
        program("""
        def say():
            print("", flush=True)
            sys.stdin.readline()
        g, h, p = C.c_void_p(), C.c_void_p(), C.c_void_p()
        do("cuGreenCtxCreate", C.byref(g), None, 0, 1)
        do("cuGreenCtxCreate", C.byref(h), None, 0, 1)
        say()
        do("cuGreenCtxDestroy", g)
        do("cuDevicePrimaryCtxRetain", C.byref(p), 0)
        do("cuGreenCtxDestroy", h)
        say()
        do("cuDevicePrimaryCtxRelease_v2", 0)
        say()
        do("cuGreenCtxCreate", C.byref(g), None, 0, 1)
        do("cuGreenCtxDestroy", g)
        say()
        """),
    )
    assert child.stdout is not None
    assert child.stdin is not None
    for expected in (64 * MIB, 64 * MIB, 0, 0):
        assert child.stdout.readline() == "\n", child.communicate()[1]
        # What is given back is told, not asked: it comes by another connection than the question.
        until(lambda want=expected: overhead(world) == want, f"{expected} bytes of overhead")
        child.stdin.write("\n")
        child.stdin.flush()
    assert child.wait(20) == 0


def test_a_green_context_that_is_refused_leaves_nothing(world: World) -> None:
    body = 'g = C.c_void_p()\nassert raw("cuGreenCtxCreate", C.byref(g), None, 0, 1) == 801\n'
    body += "active, flags = C.c_int(7), C.c_uint()\n"
    body += 'do("cuDevicePrimaryCtxGetState", 0, C.byref(flags), C.byref(active))\n'
    world.python("a", program(body + "assert active.value == 0\n"), FAKE_FAIL="cuGreenCtxCreate")


# --- rules against the truth ------------------------------------------------------------------


@pytest.mark.slow
def test_ledger_of_code_arrays_and_limits_is_the_devices(native_dir: Path) -> None:
    """What the engine says of the process, beyond its context, is what was charged."""
    with soft_world(native_dir, devices="h100-80g") as world:
        world.tenant("a", mem=4096 * MIB)
        child = world.start(
            "a",
            sys.executable,
            "-c",
            program("""
            HEAD = b".version 8.0\\n.target sm_75\\n.address_size 64\\n"
            def text(variable, lines):
                return (HEAD + b".visible .global .b8 room[%d];\\n" % variable
                        + b".visible .entry k() {\\n.reg .b32 %r0;\\nmov.u32 %r0, 0;\\n"
                        + b"add.u32 %r0, %r0, 1;\\n" * lines + b"ret;\\n}\\n")
            def say():
                print(4096 - free(), flush=True)
                sys.stdin.readline()
            context()
            say()
            modules, f = [], C.c_void_p()
            many = 150000
            for variable, lines in ((40 * MIB, 9), (1000, many), (5 * MIB, many), (70000, many)):
                modules.append(C.c_void_p())
                do("cuModuleLoadData", C.byref(modules[-1]), text(variable, lines))
            say()
            for m in modules:
                for _ in range(2):
                    do("cuModuleGetFunction", C.byref(f), m, b"k")
            say()
            arrays = [array(2000 * (1 + i % 3), 1 + 500 * (i % 5)) for i in range(12)]
            assert all(status == 0 for status, _ in arrays)
            say()
            do("cuCtxSetLimit", 2, n(100 * MIB))
            do("cuCtxSetLimit", 0, n(2048))
            say()
            do("cuCtxSetLimit", 2, n(9 * MIB))
            do("cuModuleUnload", modules[1])
            for _, a in arrays[::2]:
                do("cuArrayDestroy", a)
            say()
            """),
        )
        assert child.stdout is not None
        assert child.stdin is not None
        base = None
        for _ in range(6):
            line = child.stdout.readline()
            assert line, child.communicate()[1]
            held = int(line) * MIB
            told = subprocess.run(
                [native_dir / "harp-soft-truth", "--json"],
                env=world.bare_env(),
                capture_output=True,
                check=True,
            )
            rows = json.loads(told.stdout)["processes"]
            (row,) = [row for row in rows if row["pid"] == child.pid]
            truth = int(row["mem_bytes"]) + int(row["context_bytes"])
            base = truth if base is None else base
            assert held - max(GRANULE, held // 100) <= truth - base <= held + GRANULE, (truth, held)
            child.stdin.write("\n")
            child.stdin.flush()
        assert child.wait(20) == 0
