# SPDX-License-Identifier: Apache-2.0
"""Kernels that do much work are compiled a second time, behind their program's back."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

PTX = """.version 7.0
.target sm_70
.address_size 64
.visible .entry mix(.param .u64 out, .param .u32 rounds)
{
    .reg .pred %p<2>;
    .reg .b32 %r<9>;
    .reg .b64 %d<4>;
    ld.param.u64 %d1, [out];
    ld.param.u32 %r1, [rounds];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.u32 %r5, %r2, %r3, %r4;
    mov.u32 %r6, %r5;
    mov.u32 %r7, 0;
AGAIN:
    mad.lo.u32 %r6, %r6, 1664525, 1013904223;
    add.u32 %r7, %r7, 1;
    setp.lt.u32 %p1, %r7, %r1;
    @%p1 bra AGAIN;
    mul.wide.u32 %d2, %r5, 4;
    add.u64 %d3, %d1, %d2;
    st.global.u32 [%d3], %r6;
    ret;
}
"""
THREADS = 256
#: launches `mix` as often as is said; prints what came out and the instructions counted, each time
PROGRAM = """
import ctypes as c, json, sys, time, zlib
ptx, blocks, rounds, launches, until, unload, between, pad_mib = json.loads(sys.argv[1])
cu = c.CDLL("libcuda.so.1")
def do(name, *a):
    status = getattr(cu, name)(*a)
    assert status == 0, (name, status)
do("cuInit", 0)
context, module, function = c.c_void_p(), c.c_void_p(), c.c_void_p()
out, size = c.c_uint64(), c.c_size_t(4 * 256 * blocks)
do("cuCtxCreate_v2", c.byref(context), 0, 0)
padding = ("//" + "x" * 1021 + chr(10)) * (pad_mib << 10)
do("cuModuleLoadData", c.byref(module), (ptx + padding).encode())
del padding
do("cuModuleGetFunction", c.byref(function), module, b"mix")
do("cuMemAlloc_v2", c.byref(out), size)
count = c.c_uint32(rounds)
params = (c.c_void_p * 2)(c.addressof(out), c.addressof(count))
words = (c.c_uint32 * (256 * blocks))()
if between:  # once it is compiled
    do("cuLaunchKernel", function, 1, 1, 1, 256, 1, 1, 0, None, params, None)
    exec(between)
told, end = [], time.monotonic() + 100
while len(told) < launches or (until and until not in open(sys.argv[2]).read()):
    assert time.monotonic() < end, "it does not come"
    do("cuLaunchKernel", function, blocks, 1, 1, 256, 1, 1, 0, None, params, None)
    do("cuMemcpyDtoH_v2", words, out, size)
    told.append(zlib.crc32(words))
if unload:
    do("cuModuleUnload", module)
    time.sleep(float(unload))
    do("cuMemAlloc_v2", c.byref(out), size)
else:  # what came is used
    do("cuLaunchKernel", function, blocks, 1, 1, 256, 1, 1, 0, None, params, None)
    do("cuMemcpyDtoH_v2", words, out, size)
    told.append(zlib.crc32(words))
print(json.dumps([told, list(words[:3])]))
"""
#: four instructions a round: hot after five launches
HOT_BLOCKS, HOT_ROUNDS = 64, 1000


def _expected(thread: int, rounds: int) -> int:
    for _ in range(rounds):
        thread = (thread * 1664525 + 1013904223) % 2**32
    return thread


class World:
    """A cache, a log and a compiler that keeps count of how it is called."""

    def __init__(self, env: dict[str, str], folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        self.log.touch()
        self.compiler("exec cc")
        self.env = env | {
            "XDG_CACHE_HOME": str(folder / "cache"),
            "HARP_SOFT_VERBOSE": str(self.log),
            "HARP_PTXC_CC": str(folder / "cc"),
        }

    def compiler(self, then: str) -> None:
        path = self.folder / "cc"
        path.write_text(f'#!/bin/sh\necho "$1" >> {self.folder}/levels\n{then} "$@"\n')
        path.chmod(0o755)

    def run(
        self,
        blocks: int,
        rounds: int,
        launches: int = 1,
        *,
        until: str = "",
        unload: str = "",
        ptx: str = PTX,
        between: str = "",
        pad_mib: int = 0,
    ) -> list[int]:
        """What came out, launch by launch: always the same."""
        arguments = json.dumps([ptx, blocks, rounds, launches, until, unload, between, pad_mib])
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, arguments, str(self.log)],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        told, words = json.loads(done.stdout)
        assert words == [_expected(thread, rounds) for thread in range(3)]
        assert len(set(told)) == 1
        return list(told)

    @property
    def levels(self) -> Counter[str]:
        return Counter((self.folder / "levels").read_text().split())

    @property
    def objects(self) -> set[str]:
        return {path.suffix for path in (self.folder / "cache/harp/ptx").iterdir()}


@pytest.fixture
def world(soft_env: dict[str, str], tmp_path: Path) -> World:
    return World(soft_env, tmp_path)


def test_a_kernel_that_does_little_is_compiled_once(world: World) -> None:
    world.run(2, 10, launches=20)
    assert world.levels == {"-O1": 1}
    assert "again" not in world.log.read_text()


def test_a_hot_kernel_comes_a_second_time_and_computes_the_same(world: World) -> None:
    world.run(HOT_BLOCKS, HOT_ROUNDS, until="kernel_compiled_again")
    assert world.levels == {"-O1": 1, "-O2": 1}
    assert world.objects == {".so"}, "no lock and no work folder is left"
    # The next process has the fast form from its first launch on, and compiles nothing.
    world.run(HOT_BLOCKS, HOT_ROUNDS, launches=3)
    assert world.levels == {"-O1": 1, "-O2": 1}
    assert world.log.read_text().count("compiled_again") == 1


def test_it_is_taken_over_in_the_middle_of_a_launch(world: World) -> None:
    world.run(16 * HOT_BLOCKS, 4 * HOT_ROUNDS)
    assert world.levels == {"-O1": 1, "-O2": 1}
    log = world.log.read_text()
    assert log.index("kernel_compiled_again") < log.index("kernel_goes_on kernel=mix block=")


def test_a_second_compile_that_fails_leaves_the_first(world: World) -> None:
    world.compiler('[ "$1" = -O1 ] || { echo "error: no" >&2; exit 1; }; exec cc')
    world.run(HOT_BLOCKS, HOT_ROUNDS, until="kernel_stays_quick")
    assert world.levels == {"-O1": 1, "-O2": 1}, "it is not asked again and again"
    assert world.objects == {".so"}


def test_a_compiler_that_is_killed_leaves_no_half_entry(world: World) -> None:
    ill = world.folder / "ill"
    ill.touch()
    die = ": > kernel.so; kill -9 $PPID; kill -9 $$"
    world.compiler(f'[ "$1" = -O1 ] || [ ! -e {ill} ] || {{ {die}; }}; exec cc')
    world.run(HOT_BLOCKS, HOT_ROUNDS, until="kernel_stays_quick")
    ill.unlink()
    world.run(HOT_BLOCKS, HOT_ROUNDS, until="kernel_compiled_again")
    assert world.levels == {"-O1": 1, "-O2": 2}


def test_a_module_may_go_while_its_kernel_is_compiled(world: World) -> None:
    world.compiler('[ "$1" = -O1 ] || sleep 1; exec cc')
    world.run(HOT_BLOCKS, HOT_ROUNDS, launches=6, unload="4")
    assert world.levels == {"-O1": 1, "-O2": 1}


def test_what_the_client_makes_of_its_environment_comes_too_late(world: World) -> None:
    """A thread of ours would read it while the client changes it."""
    change = "import os; os.environ['HARP_PTXC_CC'] = '/nowhere/cc'"
    world.run(HOT_BLOCKS, HOT_ROUNDS, until="kernel_compiled_again", between=change)
    assert world.levels == {"-O1": 1, "-O2": 1}


@pytest.fixture(scope="module")
def meddle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A library that stands in the way of what it is preloaded into."""
    out = tmp_path_factory.mktemp("meddle") / "meddle.so"
    source = Path(__file__).with_name("ptx_meddle.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", out, source, "-ldl"], check=True)
    return str(out)


def test_a_fork_that_keeps_the_compilers_pipes_open_is_not_waited_for(
    world: World, meddle: str
) -> None:
    world.env |= {"LD_PRELOAD": meddle, "MEDDLE_FORK": "1"}
    start = time.monotonic()
    world.run(2, 10)
    assert time.monotonic() - start < 100, "the time for a compile is 300 s"
    assert world.levels == {"-O1": 1}


#: sixteen threads at a time need a larger stack each than one
MEETING = PTX.replace("AGAIN:", "bar.sync 0;\nAGAIN:")


def _scratch(native_dir: Path, cache: Path, *form: str) -> int:
    """Bytes that a block of `mix` needs."""
    made = subprocess.run(
        [native_dir / "harp-ptxc", "compile", *form, "--kernel", "mix", "--cache", cache],
        input=MEETING,
        capture_output=True,
        text=True,
        check=True,
    )
    words = (ctypes.c_uint64 * 5).in_dll(ctypes.CDLL(made.stdout.strip()), "harp_kernel")
    return int(words[3] + THREADS * words[4])


def test_a_second_form_that_needs_more_than_there_is_leaves_the_first(
    world: World, meddle: str, native_dir: Path, tmp_path: Path
) -> None:
    quick = _scratch(native_dir, tmp_path / "q", "--quick")
    assert _scratch(native_dir, tmp_path / "f") > quick
    world.env |= {"LD_PRELOAD": meddle, "MEDDLE_BYTES": str(quick)}
    world.run(16 * HOT_BLOCKS, 4 * HOT_ROUNDS, ptx=MEETING)
    log = world.log.read_text()
    assert log.index("kernel_compiled_again") < log.index('kernel=mix why="no host memory')
    assert "kernel_failed" not in log


def test_hot_kernels_share_one_copy_of_their_module(world: World) -> None:
    """Four wait or are compiled: 16 MiB of text are there once more for none of them."""
    world.compiler('[ "$1" = -O1 ] || sleep 3; exec cc')
    world.env["MALLOC_MMAP_THRESHOLD_"] = "1000000"  # what is freed goes back at once
    kernels = "".join(PTX[PTX.index(".visible") :].replace(" mix(", f" mix{n}(") for n in range(4))
    look = """
def anon_mib():
    return int(open("/proc/self/status").read().split("RssAnon:")[1].split()[0]) >> 10
def launch(n, how_often):
    f = c.c_void_p()
    do("cuModuleGetFunction", c.byref(f), module, b"mix%d" % n)
    for _ in range(how_often):
        do("cuLaunchKernel", f, blocks, 1, 1, 256, 1, 1, 0, None, params, None)
    do("cuCtxSynchronize")
for n in range(4):
    launch(n, 1)
before = anon_mib()
for n in range(4):
    launch(n, 8)
assert anon_mib() - before < 24, (before, anon_mib())
while open(sys.argv[2]).read().count("compiled_again kernel=mix") < 4:
    time.sleep(0.1)
"""
    world.run(HOT_BLOCKS, HOT_ROUNDS, ptx=PTX + kernels, between=look, pad_mib=16)
