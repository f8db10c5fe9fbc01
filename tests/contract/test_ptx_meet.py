# SPDX-License-Identifier: Apache-2.0
"""Barrier objects in shared memory, clusters of one block, stack memory, parameters' addresses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ptx_harness import (
    DONE,
    HEAD,
    ILLEGAL_INSTRUCTION,
    STACK,
    Device,
    Result,
    entry,
    load,
    pointers,
    ptxc,
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ptx")


PRE = "mov.u32 %r0, %tid.x; mul.wide.u32 %d0, %r0, 4; add.s64 %d1, %d0, %p0;\n"


def run(
    body: str, cache: Path, *, threads: int = 64, before: str = "", words: int = 1
) -> tuple[Result, list[int]]:
    """The kernel's stop and `words` words of each thread, which the body leaves at [%d1]."""
    text = HEAD + before + entry("k", 1, PRE + body)
    device = Device()
    out = device.alloc(threads * 4 * words)
    result = load(text, "k", cache).run(device, pointers(out), block=(threads,))
    return result, [int(v) for v in device.view(out, np.uint32, threads * words)]


MBAR = ".shared .align 8 .b64 bar;\n.shared .align 4 .b32 cell;\n"
INIT = """
setp.eq.u32 %q0, %r0, 0;
@%q0 mbarrier.init.shared::cta.b64 [bar], 64;
@%q0 st.shared.u32 [cell], 0;
bar.sync 0;
"""


@pytest.mark.parametrize("wait", ["test_wait", "try_wait", "try_wait.parity", "test_wait.parity"])
def test_a_phase_ends_when_all_have_arrived(wait: str, cache: Path) -> None:
    body = (
        MBAR
        + INIT
        + f"""
mov.u32 %r5, 0;
AGAIN:
atom.shared.add.u32 %r1, [cell], 1;
mbarrier.arrive.shared::cta.b64 %d4, [bar];
WAIT: mbarrier.{wait}.shared::cta.b64 %q1, [bar], {"%r5" if "parity" in wait else "%d4"};
@!%q1 bra WAIT;
ld.shared.u32 %r2, [cell];
bar.sync 0;
xor.b32 %r5, %r5, 1;
setp.ne.u32 %q2, %r5, 0;
@%q2 bra AGAIN;
st.global.u32 [%d1], %r2;
"""
    )
    result, got = run(body, cache)
    assert result.stop == DONE, result
    assert got == [128] * 64


def test_counts_states_and_drops(cache: Path) -> None:
    body = (
        ".shared .align 8 .b64 bar;\n"
        """
mov.u64 %d3, bar; cvta.shared.u64 %d3, %d3;
mbarrier.init.b64 [%d3], 5;
mbarrier.arrive.b64 %d4, [%d3];
mbarrier.arrive.release.cta.b64 %d5, [%d3], 2;
mbarrier.pending_count.b64 %r4, %d4;
mbarrier.pending_count.b64 %r5, %d5;
mbarrier.arrive.noComplete.b64 %d6, [%d3], 1;
mbarrier.test_wait.b64 %q1, [%d3], %d6;
mbarrier.arrive_drop.b64 %d7, [%d3];
mbarrier.test_wait.b64 %q2, [%d3], %d6;
mbarrier.arrive.b64 %d8, [%d3];
mbarrier.pending_count.b64 %r6, %d8;
cp.async.mbarrier.arrive.b64 [%d3];
cp.async.mbarrier.arrive.noinc.b64 [%d3];
mbarrier.arrive.b64 %d8, [%d3];
mbarrier.pending_count.b64 %r7, %d8;
mbarrier.inval.b64 [%d3];
selp.u32 %r8, 1, 0, %q1; selp.u32 %r9, 1, 0, %q2;
st.global.v4.u32 [%d1], {%r4, %r5, %r6, %r7}; st.global.v2.u32 [%d1+16], {%r8, %r9};
"""
    )
    result, got = run(body, cache, threads=1, words=6)
    assert result.stop == DONE, result
    # One of five was dropped: four are awaited in the second phase.
    assert got == [5, 4, 4, 2, 0, 1]


GONE = "mbarrier.init.shared.b64 [bar], 1; mbarrier.inval.shared.b64 [bar];"


@pytest.mark.parametrize(
    "wrong",
    [
        "mbarrier.init.shared.b64 [bar], 0;",
        "mbarrier.init.shared.b64 [bar], 1; mbarrier.arrive.shared.b64 %d4, [bar], 2;",
        "mbarrier.init.shared.b64 [bar], 1; mbarrier.arrive.noComplete.shared.b64 %d4, [bar], 1;",
        f"{GONE} mbarrier.arrive.shared.b64 %d4, [bar];",
        "mbarrier.init.shared.b64 [bar], 0x100000;",
        "mbarrier.init.shared.b64 [bar], 1; mbarrier.arrive.shared.b64 %d4, [bar], 0;",
        f"{GONE} mbarrier.test_wait.shared.b64 %q1, [bar], %d4;",
        f"{GONE} mbarrier.test_wait.parity.shared.b64 %q1, [bar], %r1;",
        f"{GONE} cp.async.mbarrier.arrive.shared.b64 [bar];",
        "mbarrier.arrive.shared.b64 %d4, [bar];",
        "barrier.cluster.wait;",
        "barrier.cluster.arrive; barrier.cluster.arrive;",
        "mov.u64 %d3, 64; mapa.shared::cluster.u64 %d4, %d3, 1;",
    ],
)
def test_what_cannot_be_stops_the_block(wrong: str, cache: Path) -> None:
    result, _ = run(".shared .align 8 .b64 bar;\n" + wrong, cache, threads=1)
    assert result.stop == ILLEGAL_INSTRUCTION, result


def test_arriving_by_an_address_of_the_cluster(cache: Path) -> None:
    """Nobody is told the state; the phase ends all the same. Fences of what nobody has do nothing."""
    body = """
.shared .align 8 .b64 bar;
mbarrier.init.shared.b64 [bar], 3;
mbarrier.arrive.noComplete.shared.b64 %d4, [bar], 1;
mov.u64 %d5, bar; mapa.shared::cluster.u64 %d6, %d5, 0;
mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%d6];
fence.proxy.async.global; fence.proxy.async.shared::cta; fence.proxy.async.shared::cluster;
fence.acquire.sync_restrict::shared::cluster.cluster;
fence.release.sync_restrict::shared::cta.cluster;
fence.proxy.async::generic.acquire.sync_restrict::shared::cluster.cluster;
fence.proxy.async::generic.release.sync_restrict::shared::cta.cluster;
mbarrier.test_wait.shared.b64 %q1, [bar], %d4; selp.u32 %r1, 1, 0, %q1;
mbarrier.arrive_drop.shared::cluster.b64 _, [%d6], 1;
mbarrier.test_wait.shared.b64 %q2, [bar], %d4; selp.u32 %r2, 2, 0, %q2;
or.b32 %r1, %r1, %r2; st.global.u32 [%d1], %r1;
"""
    result, got = run(body, cache, threads=1)
    assert result.stop == DONE, result
    assert got == [2]


@pytest.mark.parametrize(
    ("wrong", "code", "words"),
    [
        ("mbarrier.arrive.shared::cluster.b64 %d4, [%d5];", 4, "`_` belongs here"),
        ("mbarrier.init.shared::cluster.b64 [%d5], 1;", 3, "form"),
        ("mbarrier.test_wait.shared::cluster.b64 %q1, [%d5], %d4;", 3, "form"),
    ],
)
def test_only_arriving_reaches_over_a_cluster(wrong: str, code: int, words: str) -> None:
    out = ptxc("emit", "--kernel", "k", text=HEAD + entry("k", 1, PRE + wrong))
    assert out.returncode == code
    assert words in out.stderr


def test_phases_are_counted_without_end(cache: Path) -> None:
    """The phase has 23 bits: it begins again at 0, and the barrier stays one."""
    body = """
.shared .align 8 .b64 bar;
mbarrier.init.shared.b64 [bar], 1;
mov.u32 %r1, 0;
AGAIN: mbarrier.arrive.shared.b64 %d4, [bar];
add.u32 %r1, %r1, 1; setp.lt.u32 %q1, %r1, 0x800001; @%q1 bra AGAIN;
mbarrier.test_wait.shared.b64 %q2, [bar], %d4;
selp.u32 %r2, 1, 0, %q2; st.global.u32 [%d1], %r2;
"""
    result, got = run(body, cache, threads=1)
    assert result.stop == DONE, result
    assert got == [1]


def test_a_block_is_a_cluster_of_its_own(cache: Path) -> None:
    body = """
.shared .align 4 .b32 cell;
setp.eq.u32 %q0, %r0, 0;
@%q0 st.shared.u32 [cell], 0;
barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;
mov.u32 %r9, cell; mapa.shared::cluster.u32 %r8, %r9, 0;
atom.shared::cluster.add.u32 %r1, [%r8], 1;
setp.lt.u32 %q1, %r0, 10; // these end before the others arrive
@%q1 bra END;
barrier.cluster.arrive.release; barrier.cluster.wait.acquire;
ld.shared::cluster.u32 %r2, [%r8];
END:
mov.u32 %r3, %cluster_nctarank; mov.u32 %r4, %cluster_ctarank; mov.u32 %r5, %clusterid.x;
mov.u32 %r6, %nclusterid.x; mov.pred %q2, %is_explicit_cluster;
mad.lo.u32 %r3, %r3, 1000, %r4; mad.lo.u32 %r3, %r5, 50, %r3; mad.lo.u32 %r3, %r6, 10000, %r3;
@%q2 mov.u32 %r3, 0;
mov.u64 %d5, cell; cvta.shared::cluster.u64 %d5, %d5;
isspacep.shared::cluster %q3, %d5; @!%q3 mov.u32 %r3, 1;
mapa.u64 %d6, %d5, 0; getctarank.u64 %r7, %d6; add.u32 %r3, %r3, %r7;
fence.acquire.cluster; fence.release.gpu; fence.proxy.async; fence.mbarrier_init.release.cluster;
@!%q1 add.u32 %r3, %r3, %r2;
st.global.u32 [%d1], %r3;
"""
    result, got = run(body, cache)
    assert result.stop == DONE, result
    assert got == [11000] * 10 + [11064] * 54


def test_who_arrives_and_ends_counts_once(cache: Path) -> None:
    """Thread 0 arrives and ends; 1 waits; what 2 writes before it arrives is there for 1."""
    body = """
.shared .align 4 .b32 cell;
setp.eq.u32 %q0, %r0, 0; setp.eq.u32 %q1, %r0, 2;
@%q1 st.shared.u32 [cell], 7;
barrier.cluster.arrive;
@%q0 exit;
barrier.cluster.wait;
ld.shared.u32 %r2, [cell];
st.global.u32 [%d1], %r2;
"""
    result, got = run(body, cache, threads=3)
    assert result.stop == DONE, result
    assert got == [0, 7, 7]


@pytest.mark.parametrize(
    "alone",
    [
        "fence.acq_rel.cluster;",
        "ld.relaxed.cluster.global.u32 %r1, [%d1];",
        "atom.global.cluster.add.u32 %r1, [%d1], 1;",
        ".shared .align 8 .b64 m; cp.async.mbarrier.arrive.shared.b64 [m];",
        "barrier.cluster.arrive;",
    ],
)
@pytest.mark.parametrize("form", [(), ("--quick",)])
def test_what_is_of_clusters_compiles_alone(alone: str, form: tuple[str], cache: Path) -> None:
    text = HEAD + entry("k", 1, PRE + alone)
    made = ptxc("compile", *form, "--kernel", "k", "--cache", str(cache), text=text)
    assert made.returncode == 0, made.stderr


STACKED = """
.func (.param .b32 r) sum(.param .b32 n)
{
.reg .b32 %r<9>; .reg .b64 %d<9>; .reg .pred %q;
ld.param.u32 %r1, [n];
stacksave.u64 %d7;
alloca.u64 %d8, 40, 32;
mul.wide.u32 %d1, %r1, 4;
alloca.u64 %d2, %d1;
cvta.local.u64 %d3, %d2;
mov.u32 %r2, 0;
FILL: mad.wide.u32 %d4, %r2, 4, %d3;
mul.lo.u32 %r3, %r2, %r2; st.u32 [%d4], %r3;
add.u32 %r2, %r2, 1; setp.lt.u32 %q, %r2, %r1; @%q bra FILL;
mov.u32 %r5, 0;
SUM: sub.u32 %r2, %r2, 1; mad.wide.u32 %d4, %r2, 4, %d2;
ld.local.u32 %r4, [%d4]; add.u32 %r5, %r5, %r4;
setp.ne.u32 %q, %r2, 0; @%q bra SUM;
stackrestore.u64 %d7;
alloca.u64 %d6, 40, 32;
setp.ne.u64 %q, %d6, %d8; @%q mov.u32 %r5, 0;
st.param.b32 [r], %r5;
ret;
}
"""


def test_memory_on_the_stack(cache: Path) -> None:
    body = """
mov.u32 %r7, 0; mov.u32 %r8, 0;
MORE: add.u32 %r1, %r0, 1;
{ .param .b32 a; .param .b32 b; st.param.b32 [a], %r1; call (b), sum, (a); ld.param.b32 %r2, [b]; }
add.u32 %r8, %r8, %r2; add.u32 %r7, %r7, 1; setp.lt.u32 %q1, %r7, 300; @%q1 bra MORE;
st.global.u32 [%d1], %r8;
"""
    result, got = run(body, cache, before=STACKED)
    assert result.stop == DONE, result  # what a call takes, it gives back
    assert got == [300 * sum(k * k for k in range(n + 1)) for n in range(64)]


@pytest.mark.parametrize("size", ["20000", "0xffffffffffffffff", "0x100000000"])
def test_more_than_the_stack_holds(size: str, cache: Path) -> None:
    result, _ = run(f"mov.u64 %d3, {size}; alloca.u64 %d4, %d3, 16;", cache, threads=1)
    assert result.stop == STACK, result


TAKEN = """
.func (.param .b32 r) pick(.param .align 8 .b8 s[24], .param .b32 i, .param .align 8 .b8 t[8])
{
.local .align 8 .b8 depot[8];
.reg .b32 %r<9>; .reg .b64 %d<9>;
ld.param.u32 %r1, [i];
mov.b64 %d1, s;
mad.wide.u32 %d2, %r1, 4, %d1;
ld.param.u32 %r2, [%d2]; // as LLVM 14 reads it
cvta.local.u64 %d3, %d2;
ld.u32 %r3, [%d3]; // and as LLVM 22 does
st.local.u32 [%d1+20], %r3; // it is the function's own copy
ld.param.u32 %r4, [s+20];
mov.b64 %d4, t; ld.local.u32 %r5, [%d4+4];
mov.b64 %d5, depot; st.local.u32 [%d5+4], 9;
add.u32 %r6, %r2, %r4; mad.lo.u32 %r6, %r5, 100, %r6;
st.param.b32 [r], %r6;
ret;
}
"""


def test_a_parameters_address(cache: Path) -> None:
    body = """
{ .param .align 8 .b8 s[24]; .param .b32 i; .param .align 8 .b8 t[8]; .param .b32 r;
rem.u32 %r1, %r0, 5;
st.param.v2.u32 [s], {10, 11}; st.param.v2.u32 [s+8], {12, 13}; st.param.v2.u32 [s+16], {14, 15};
st.param.u32 [i], %r1; st.param.v2.u32 [t], {0, %r0};
call (r), pick, (s, i, t);
ld.param.u32 %r2, [r];
ld.param.u32 %r3, [s+20]; }
mad.lo.u32 %r2, %r3, 100000, %r2;
st.global.u32 [%d1], %r2;
"""
    body = body.replace("{10, 11}", "{%r10, %r11}").replace("{12, 13}", "{%r12, %r13}")
    body = body.replace("{14, 15}", "{%r14, %r15}").replace("{0, %r0}", "{%r16, %r0}")
    values = "".join(f"mov.u32 %r{n}, {n if n < 16 else 0};\n" for n in range(10, 17))
    body = body.replace("ld.param.u32 %r3, [s+20]; }", "}\nmov.u32 %r3, 0;")
    result, got = run(values + body, cache, before=TAKEN)
    assert result.stop == DONE, result
    assert got == [2 * (10 + n % 5) + 100 * n for n in range(64)]


def test_a_constants_address_is_known(cache: Path) -> None:
    text = HEAD + (
        ".const .align 4 .b32 c[4];\n.global .align 4 .b32 g[4];\n.const .align 4 .b32 last[2];\n"
    )
    text += entry(
        "k",
        1,
        """
mov.u64 %d1, c; cvta.const.u64 %d1, %d1; isspacep.const %q1, %d1;
add.u64 %d2, %d1, 15; isspacep.const %q2, %d2;
add.u64 %d3, %d1, 16; isspacep.const %q3, %d3;
mov.u64 %d4, g; isspacep.const %q4, %d4;
mov.u64 %d5, last; isspacep.const %q5, %d5;
isspacep.const %q6, %p0;
selp.u32 %r1, 1, 0, %q1; selp.u32 %r2, 2, 0, %q2; selp.u32 %r3, 4, 0, %q3;
selp.u32 %r4, 8, 0, %q4; selp.u32 %r5, 16, 0, %q5; selp.u32 %r6, 32, 0, %q6;
add.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r3; add.u32 %r1, %r1, %r4;
add.u32 %r1, %r1, %r5; add.u32 %r1, %r1, %r6;
st.global.u32 [%p0], %r1;
""",
    )
    device = Device()
    out, c, g, last = (device.alloc(n) for n in (4, 16, 16, 8))
    result = load(text, "k", cache).run(device, pointers(out), global_addrs=(c, g, last))
    assert result.stop == DONE, result
    assert int(device.view(out, np.uint32, 1)[0]) == 1 + 2 + 16
