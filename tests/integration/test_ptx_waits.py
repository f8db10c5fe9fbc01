# SPDX-License-Identifier: Apache-2.0
"""Blocks that wait for others which have not begun: both forms of a kernel, few and many workers.

And blocks that take turns, which need no threads more than there are workers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_ptx_hot import World

from harp.native import find

BLOCKS = 96
TIMEOUT_S = 60  #: a hang is a failure

HEAD = """.version 7.0
.target sm_70
.address_size 64
.func (.param .b32 v) look(.param .b64 a)
{
    .reg .b32 %r0; .reg .b64 %d0;
    ld.param.b64 %d0, [a]; ld.volatile.global.u32 %r0, [%d0]; st.param.b32 [v], %r0;
    ret;
}
"""
#: all arrive at out[0], and look whether it is n
LOOKS = {
    "compares": "atom.global.cas.b32 %r1, [%d0], %r9, %r9;",
    "adds": "atom.global.or.b32 %r1, [%d0], 0;",
    "calls": "{ .param .b64 a; .param .b32 v; st.param.b64 [a], %d0;"
    " call.uni (v), look, (a); ld.param.b32 %r1, [v]; }",
}
ARRIVE = """
    atom.global.add.u32 %r2, [%d0], 1;
WAIT:
    LOOK
    setp.ne.u32 %q0, %r1, %r9; @%q0 bra WAIT;
    atom.global.add.u32 %r2, [%d0+4], 1;
"""
#: a lock at out[0]; who has it first works for n rounds
HOLD = """
WAIT:
    atom.global.cas.b32 %r1, [%d0], 0, 1; setp.ne.u32 %q0, %r1, 0; @%q0 bra WAIT;
    ld.volatile.global.u32 %r1, [%d0+4]; add.u32 %r2, %r1, 1;
    st.volatile.global.u32 [%d0+4], %r2;
    setp.ne.u32 %q0, %r1, 0; @%q0 bra FREE;
    mov.u32 %r3, 0;
WORK:
    add.u32 %r3, %r3, 1; setp.lt.u32 %q0, %r3, %r9; @%q0 bra WORK;
FREE:
    atom.global.exch.b32 %r1, [%d0], 0;
"""
PROGRAM = """
import ctypes as c, json, os, sys, time
ptx, blocks, n = json.loads(sys.argv[1])
cu = c.CDLL("libcuda.so.1")
def do(name, *a):
    status = getattr(cu, name)(*a)
    assert status == 0, (name, status)
do("cuInit", 0)
context, module, function, out = c.c_void_p(), c.c_void_p(), c.c_void_p(), c.c_uint64()
do("cuCtxCreate_v2", c.byref(context), 0, 0)
do("cuModuleLoadData", c.byref(module), ptx.encode())
do("cuModuleGetFunction", c.byref(function), module, b"k")
do("cuMemAlloc_v2", c.byref(out), c.c_size_t(8))
do("cuMemsetD8_v2", out, 0, c.c_size_t(8))
do("cuCtxSynchronize")
count = c.c_uint32(n)
params = (c.c_void_p * 2)(c.addressof(out), c.addressof(count))
do("cuLaunchKernel", function, blocks, 1, 1, 1, 1, 1, 0, None, params, None)
most = 0
while cu.cuStreamQuery(None) == 600:
    most = max(most, len(os.listdir("/proc/self/task")))
    time.sleep(0.001)
words = (c.c_uint32 * 2)()
do("cuMemcpyDtoH_v2", words, out, c.c_size_t(8))
print(json.dumps([most, *words]))
"""


def kernel(body: str) -> str:
    return (
        f"{HEAD}.visible .entry k(.param .u64 out, .param .u32 n)\n{{\n"
        ".reg .b32 %r<10>; .reg .b64 %d0; .reg .pred %q0;\n"
        f"ld.param.u64 %d0, [out]; ld.param.u32 %r9, [n];\n{body}ret;\n}}\n"
    )


@pytest.fixture
def world(soft_env: dict[str, str], tmp_path: Path) -> World:
    return World(soft_env, tmp_path)


def run(world: World, form: str, ptx: str, n: int, *, workers: int) -> tuple[int, ...]:
    """The most threads that were seen, and what lies in out."""
    command = [str(find(world.env).file("harp-ptxc")), "compile", "--kernel", "k"]
    folder = world.folder / "cache/harp/ptx"
    rest = ["--cache", str(folder), *(["--quick"] if form == "quick" else [])]
    subprocess.run([*command, *rest], env=world.env, input=ptx, text=True, check=True)
    level = {"quick": "-O1", "fast": "-O2"}[form]
    assert world.levels == {level: 1}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([ptx, BLOCKS, n])],
        env=world.env | {"HARP_SOFT_WORKERS": str(workers)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert world.levels[level] == 1
    return tuple(json.loads(done.stdout))


@pytest.mark.parametrize("workers", [1, 2, 6])
@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("form", ["quick", "fast"])
def test_blocks_that_wait_are_joined_by_the_others(
    form: str, look: str, workers: int, world: World
) -> None:
    ptx = kernel(ARRIVE.replace("LOOK", LOOKS[look]))
    assert run(world, form, ptx, BLOCKS, workers=workers)[1:] == (BLOCKS, BLOCKS)


@pytest.mark.parametrize("form", ["quick", "fast"])
def test_blocks_that_wait_for_one_that_works_are_not_joined(form: str, world: World) -> None:
    """Threads more would only take the processor from who has the lock."""
    workers, others = 6, 6
    most, lock, count = run(world, form, kernel(HOLD), 200_000_000, workers=workers)
    assert (lock, count) == (0, BLOCKS)
    assert workers <= most <= workers + others
