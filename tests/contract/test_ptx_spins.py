# SPDX-License-Identifier: Apache-2.0
"""Which loops harp-ptxc takes for waiting: threads in those give way, blocks in some run at once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from ptx_harness import DONE, HEAD, Device, entry, load, pointers, ptxc

GRID_SYNC, WAITS = 2, 16
ALONE, GIVES_WAY, ALL_BLOCKS = range(3)


class Loop(NamedTuple):
    """Statements from the label L on; what its threads, or all blocks, must do."""

    text: str
    kind: int


LOOPS = {
    "counts by the way": Loop("atom.global.add.u32 %r1, [%p0], 1; {next} @%q0 bra L;", ALONE),
    "looks by the way": Loop("ld.volatile.global.u32 %r1, [%p0]; {next} @%q0 bra L;", ALONE),
    "adds up what it looks at": Loop(
        "ld.relaxed.gpu.global.u32 %r1, [%p0]; add.u32 %r2, %r2, %r1; {next} @%q0 bra L;",
        ALONE,
    ),
    "skips what counts": Loop(
        "ld.global.u32 %r1, [%p0]; setp.lt.u32 %q1, %r1, 9; @%q1 bra M;\n"
        "atom.global.add.u32 %r2, [%p0+4], 1;\nM: {next} @%q0 bra L;",
        ALONE,
    ),
    "either counts": Loop(
        "ld.global.u32 %r1, [%p0]; setp.lt.u32 %q1, %r1, 9; @%q1 bra M;\n"
        "atom.global.add.u32 %r2, [%p0+4], 1; bra N;\n"
        "M: atom.global.add.u32 %r2, [%p0+8], 1;\nN: {next} @%q0 bra L;",
        ALONE,
    ),
    "waits for a flag": Loop(
        "ld.volatile.global.u32 %r1, [%p0]; setp.eq.u32 %q0, %r1, 0; @%q0 bra L;",
        ALL_BLOCKS,
    ),
    "waits through a chain": Loop(
        "ld.acquire.gpu.global.u32 %r1, [%p0]; add.u32 %r2, %r1, %r3; and.b32 %r4, %r2, 7;\n"
        "mov.u32 %r5, %r4; setp.ne.u32 %q1, %r5, 3; not.pred %q0, %q1; @!%q0 bra L;",
        ALL_BLOCKS,
    ),
    "waits with a guarded move": Loop(
        "ld.volatile.global.u32 %r1, [%p0]; setp.eq.u32 %q1, %r1, 0; mov.u32 %r2, 1;\n"
        "@%q1 mov.u32 %r2, 0; setp.eq.u32 %q0, %r2, 0; @%q0 bra L;",
        ALL_BLOCKS,
    ),
    "waits by a branch that decides": Loop(
        "ld.volatile.global.u32 %r1, [%p0]; setp.eq.u32 %q1, %r1, 0; mov.u32 %r2, 0; @%q1 bra M;\n"
        "mov.u32 %r2, 1;\nM: setp.eq.u32 %q0, %r2, 0; @%q0 bra L;",
        ALL_BLOCKS,
    ),
    "waits by a branch over another": Loop(
        "ld.volatile.global.u32 %r1, [%p0]; setp.eq.u32 %q1, %r1, 0; setp.eq.u32 %q2, %r9, 3;\n"
        "mov.u32 %r2, 0; @%q1 bra M; @%q2 bra N; add.u32 %r3, %r3, 1;\n"
        "N: mov.u32 %r2, 1;\nM: setp.eq.u32 %q0, %r2, 0; @%q0 bra L;",
        ALL_BLOCKS,
    ),
    "waits by leaving": Loop(
        "ld.volatile.global.u32 %r1, [%p0]; setp.ne.u32 %q0, %r1, 0; @%q0 ret; bra.uni L;",
        ALL_BLOCKS,
    ),
    "takes a lock": Loop(
        "atom.global.cas.b32 %r1, [%p0], 0, 1; setp.ne.u32 %q0, %r1, 0; @%q0 bra L;",
        GIVES_WAY,
    ),
    "adds by comparing": Loop(
        "add.u32 %r2, %r1, 1; atom.global.cas.b32 %r3, [%p0], %r1, %r2;\n"
        "setp.ne.u32 %q0, %r3, %r1; mov.u32 %r1, %r3; @%q0 bra L;",
        GIVES_WAY,
    ),
    "takes work": Loop(
        "atom.global.add.u32 %r1, [%p0], 1; setp.lt.u32 %q0, %r1, 64; @%q0 bra L;",
        GIVES_WAY,
    ),
    "waits in its block": Loop(
        "ld.volatile.shared.u32 %r1, [s]; setp.eq.u32 %q0, %r1, 0; @%q0 bra L;",
        GIVES_WAY,
    ),
    "waits for time": Loop(
        "mov.u64 %d1, %clock64; setp.lt.u64 %q0, %d1, 1000; @%q0 bra L;",
        GIVES_WAY,
    ),
    "hands it over in memory": Loop(
        "ld.volatile.global.u32 %r1, [%p0]; st.local.u32 [l], %r1; ld.local.u32 %r2, [l];\n"
        "setp.eq.u32 %q0, %r2, 0; @%q0 bra L;",
        ALL_BLOCKS,
    ),
    "hands it over in a warp": Loop(
        "ld.volatile.global.u32 %r1, [%p0]; shfl.sync.idx.b32 %r2, %r1, 0, 31, -1;\n"
        "setp.eq.u32 %q0, %r2, 0; @%q0 bra L;",
        ALL_BLOCKS,
    ),
    # the body in two pieces: what is watched lies behind the jump back
    "is laid out in pieces": Loop(
        "setp.ne.u32 %q0, %r1, 0; @%q0 ret; bra M;\nN: bra L;\n"
        "M: ld.volatile.global.u32 %r1, [%p0]; bra N;",
        ALL_BLOCKS,
    ),
    # two ways back to the header: one looks, the other decides
    "has two ways round": Loop(
        "xor.b32 %r4, %r4, 1; setp.eq.u32 %q1, %r4, 0; @%q1 bra M;\n"
        "ld.volatile.global.u32 %r1, [%p0]; bra L;\n"
        "M: setp.ne.u32 %q0, %r1, 0; @%q0 ret; bra L;",
        ALL_BLOCKS,
    ),
    "waits in a loop within": Loop(
        "M: ld.volatile.global.u32 %r1, [%p0]; setp.eq.u32 %q1, %r1, 0; @%q1 bra M;\n"
        "{next} @%q0 bra L;",
        ALL_BLOCKS,
    ),
    "waits by way of the carry flag": Loop(
        "ld.volatile.global.u32 %r1, [%p0]; sub.cc.u32 %r2, %r1, 1; subc.u32 %r3, 0, 0;\n"
        "setp.ne.u32 %q0, %r3, 0; @%q0 bra L;",
        ALL_BLOCKS,
    ),
    "skips what sets the carry flag": Loop(
        "ld.volatile.global.u32 %r1, [%p0]; setp.eq.u32 %q1, %r1, 0; @%q1 bra M;\n"
        "add.cc.u32 %r2, %r9, -1;\nM: addc.u32 %r3, 0, 0;\n"
        "setp.ne.u32 %q0, %r3, 0; @%q0 bra L;",
        ALL_BLOCKS,
    ),
    "carries what it does not look at": Loop(
        "ld.volatile.global.u32 %r1, [%p0]; sub.cc.u32 %r2, %r9, 1; subc.u32 %r3, 0, 0;\n"
        "{next} @%q0 bra L;",
        ALONE,
    ),
    "waits for memory": Loop(
        "{{ .param .b64 n; .param .b64 p; st.param.b64 [n], 64; call.uni (p), malloc, (n);\n"
        "ld.param.b64 %d1, [p]; }} setp.eq.u64 %q0, %d1, 0; @%q0 bra L;",
        GIVES_WAY,
    ),
    "jumps by a table": Loop(
        "ld.volatile.global.u32 %r1, [%p0]; and.b32 %r1, %r1, 1; brx.idx %r1, T;\nM:",
        ALL_BLOCKS,
    ),
}
NEXT = "add.u32 %r9, %r9, 1; setp.lt.u32 %q0, %r9, 16;"


def text_of(body: str) -> str:
    regs = ".local .align 4 .b8 l[4];"
    code = f"T: .branchtargets L, M;\nL: {body.format(next=NEXT)}"
    if "brx" not in body:
        code = code.split("\n", 1)[1]
    top = ".extern .func (.param .b64 p) malloc(.param .b64 n);\n"
    return HEAD + top + ".shared .align 4 .u32 s;\n" + entry("k", 1, code, regs)


@pytest.mark.parametrize("name", LOOPS)
def test_loops_that_wait(name: str) -> None:
    body, kind = LOOPS[name]
    out = ptxc("emit", "--kernel", "k", text=text_of(body))
    assert out.returncode == 0, out.stderr
    code = out.stdout[out.stdout.rindex("static void rt_kernel") :]
    assert ("RT_SPIN;" in code) == (kind != ALONE)
    flags = re.search(r"\.flags = (\d+)u", code)
    assert flags is not None
    assert bool(int(flags[1]) & GRID_SYNC) == (kind == ALL_BLOCKS)
    assert bool(int(flags[1]) & WAITS) == (kind != ALONE)
    if kind == ALONE:
        assert "#define RT_FIBERS 0" in out.stdout


def test_a_function_that_looks_waits_in_its_callers_loop(tmp_path: Path) -> None:
    """A thread that asks by calling lets the one that it waits for run."""
    top = (
        ".func (.param .b32 v) look(.param .b64 p)\n{\n.reg .b32 %r0; .reg .b64 %d0;\n"
        "ld.param.b64 %d0, [p]; ld.volatile.global.u32 %r0, [%d0]; st.param.b32 [v], %r0; ret;\n}\n"
    )
    body = """
mov.u32 %r1, %tid.x; setp.ne.u32 %q0, %r1, 0; @%q0 bra OTHER;
WAIT:
{ .param .b64 p; .param .b32 v; st.param.b64 [p], %p0;
call.uni (v), look, (p); ld.param.b32 %r2, [v]; }
setp.eq.u32 %q1, %r2, 0; @%q1 bra WAIT;
st.global.u32 [%p0+4], %r2; ret;
OTHER:
st.volatile.global.u32 [%p0], 7;
"""
    device = Device(poll_result=lambda n: int(n > 8))
    out = device.alloc(64)
    kernel = load(HEAD + top + entry("k", 1, body), "k", tmp_path)
    assert kernel.run(device, pointers(out), block=(2,)).stop == DONE
    assert list(device.view(out, "u4", 2)) == [7, 7]


def test_what_only_counts_counts_right(tmp_path: Path) -> None:
    device = Device()
    out = device.put(np.zeros(4, "u4"))
    kernel = load(text_of(LOOPS["either counts"].text), "k", tmp_path)
    assert kernel.run(device, pointers(out), block=(64,)).stop == DONE
    assert list(device.view(out, "u4", 4)) == [0, 0, 64 * 16, 0]
