# SPDX-License-Identifier: Apache-2.0
"""Threads that meet: warp instructions, barriers, atomics, polling, matrices, time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ptx_harness import (
    ABANDONED,
    DONE,
    HEAD,
    ILLEGAL_INSTRUCTION,
    TRAP,
    Device,
    Result,
    entry,
    load,
    pointers,
)

FULL = 0xFFFFFFFF


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ptx")


PRE = (
    "mov.u32 %r0, %tid.x; mul.wide.u32 %d0, %r0, 4; add.s64 %d1, %d0, %p0; add.s64 %d2, %d0, %p1;\n"
)


def lanes(
    body: str, data: Any, cache: Path, *, threads: int = 32, dtype: str = "u4", out: int = 1
) -> Any:
    """body reads %r1 = data[tid], leaves results in %r10.. (`out` of them); rows of results."""
    stores = "".join(f"st.global.b32 [%d2+{k * threads * 4}], %r{10 + k};\n" for k in range(out))
    text = HEAD + entry("lanes", 2, PRE + "ld.global.b32 %r1, [%d1];\n" + body + stores)
    device = Device()
    source, target = device.put(np.asarray(data, dtype=dtype)), device.alloc(threads * 4 * out)
    result = load(text, "lanes", cache).run(device, pointers(source, target), block=(threads,))
    assert result.stop == DONE, result
    return device.view(target, dtype, threads * out).reshape(out, threads).copy()


SHUFFLES: dict[str, Callable[[int, int, int, int], tuple[int, bool]]] = {
    # lane, b, low = first lane of the segment, c: (source, good)
    "up": lambda lane, b, low, c: (lane - b, lane - b >= low),
    "down": lambda lane, b, low, c: (lane + b, lane + b <= (low | c)),
    "bfly": lambda lane, b, low, c: (lane ^ b, lane ^ b <= (low | c)),
    "idx": lambda lane, b, low, c: (low | (b & c), (low | (b & c)) <= (low | c)),
}


@pytest.mark.parametrize("mode", SHUFFLES)
def test_shuffle_in_segments(mode: str, cache: Path) -> None:
    data = np.arange(100, 132)
    cases = [(width, b) for width in (32, 16, 8, 2) for b in (0, 1, 3, 9)]
    body = ""
    for i, (width, b) in enumerate(cases):
        c = (32 - width) << 8 | (0 if mode == "up" else 31)
        body += f"shfl.sync.{mode}.b32 %r{10 + 2 * i}|%q1, %r1, {b}, {c}, -1;\n"
        body += f"selp.u32 %r{11 + 2 * i}, 1, 0, %q1;\n"
    got = lanes(body, data, cache, out=2 * len(cases))
    for i, (width, b) in enumerate(cases):
        for lane in range(32):
            low = lane & (32 - width) & 31
            j, good = SHUFFLES[mode](lane, b, low, width - 1)
            assert got[2 * i + 1][lane] == good, (mode, width, b, lane)
            assert got[2 * i][lane] == data[j if good else lane], (mode, width, b, lane)


def test_shuffle_without_predicate_in_divergent_code(cache: Path) -> None:
    body = """
setp.lt.u32 %q1, %r0, 10; mov.u32 %r10, 0;
@!%q1 bra OTHER;
shfl.sync.bfly.b32 %r10, %r1, 1, 31, 0x3ff;
bra JOIN;
OTHER: shfl.sync.idx.b32 %r10, %r1, 20, 31, 0xfffffc00;
JOIN: bar.warp.sync -1;
"""
    data = np.arange(32) * 3
    got = lanes(body, data, cache)[0]
    assert list(got[:10]) == [data[i ^ 1] for i in range(10)]
    assert set(got[10:]) == {data[20]}


def test_votes_matches_and_reductions(cache: Path) -> None:
    rng = np.random.default_rng(5)
    data = rng.integers(0, 5, 64)
    body = """
setp.gt.u32 %q1, %r1, 1;
vote.sync.ballot.b32 %r10, %q1, -1;
vote.sync.any.pred %q2, %q1, -1; selp.u32 %r11, 1, 0, %q2;
vote.sync.all.pred %q2, !%q1, -1; selp.u32 %r12, 1, 0, %q2;
vote.sync.uni.pred %q2, %q1, -1; selp.u32 %r13, 1, 0, %q2;
match.any.sync.b32 %r14, %r1, -1;
match.all.sync.b32 %r15|%q3, %r1, -1; selp.u32 %r16, 1, 0, %q3;
redux.sync.add.u32 %r17, %r1, -1;
redux.sync.max.s32 %r18, %r1, -1;
sub.u32 %r2, %r1, 3; redux.sync.min.s32 %r19, %r2, -1;
redux.sync.min.u32 %r20, %r2, -1;
redux.sync.xor.b32 %r21, %r1, -1;
elect.sync %r22|%q4, -1; selp.u32 %r23, 1, 0, %q4;
"""
    got = lanes(body, data, cache, threads=64, out=14)
    for warp in (0, 1):
        part = slice(warp * 32, warp * 32 + 32)
        v = data[part]
        yes = v > 1
        ballot = sum(int(y) << i for i, y in enumerate(yes))
        minus = (v - 3).astype("i4")
        expect = [
            ballot,
            int(yes.any()),
            int((~yes).all()),
            int(yes.all() or not yes.any()),
            None,
            0,
            0,
            v.sum(),
            v.max(),
            int(minus.min()) & FULL,
            minus.view("u4").min(),
            np.bitwise_xor.reduce(v),
            0,
            None,
        ]
        for row, want in zip(got, expect, strict=True):
            if want is not None:
                assert set(row[part]) == {want}
        assert [int(x) for x in got[4][part]] == [
            sum(1 << i for i in range(32) if v[i] == x) for x in v
        ]
        assert list(got[13][part]) == [1] + [0] * 31


def test_last_partial_warp_and_lanes_that_have_ended(cache: Path) -> None:
    body = """
setp.eq.u32 %q1, %r0, 3; @%q1 ret;
shfl.sync.down.b32 %r10, %r1, 1, 31, -1;
vote.sync.ballot.b32 %r11, 1, -1;
activemask.b32 %r12;
"""
    got = lanes(body, np.arange(40), cache, threads=40, out=3)
    assert got[0][0] == 1
    assert got[0][30] == 31
    assert set(got[1][:3]) == {FULL & ~8}
    assert set(got[1][32:]) == {0xFF}
    assert set(got[2][4:32]) == {FULL & ~8}


def test_activemask_gives_converged_lanes(cache: Path) -> None:
    body = """
and.b32 %r2, %r0, 1; setp.eq.u32 %q1, %r2, 0; @%q1 bra EVEN;
activemask.b32 %r10; bra JOIN;
EVEN: activemask.b32 %r10;
JOIN:
"""
    got = lanes(body, np.zeros(32), cache)[0]
    assert set(got[::2]) == {0x55555555}
    assert set(got[1::2]) == {0xAAAAAAAA}


def test_ids_and_masks(cache: Path) -> None:
    names = [
        "laneid",
        "warpid",
        "lanemask_eq",
        "lanemask_lt",
        "lanemask_le",
        "lanemask_gt",
        "lanemask_ge",
    ]
    body = "".join(f"mov.u32 %r{10 + i}, %{n};\n" for i, n in enumerate(names))
    got = lanes(body, np.zeros(64), cache, threads=64, out=len(names))
    lane = np.arange(64) % 32
    assert (got[0] == lane).all()
    assert (got[1] == np.arange(64) // 32).all()
    one = (1 << lane).astype("u8")
    for row, want in zip(
        got[2:], [one, one - 1, 2 * one - 1, ~(2 * one - 1), ~(one - 1)], strict=True
    ):
        assert (row == (want & np.uint64(FULL))).all()


def run(
    body: str, cache: Path, *data: Any, block: int = 1, grid: int = 1, out: int = 16, **how: Any
) -> tuple[Result, Any, Device]:
    """Kernel `k` with one pointer per array of data, and one to `out` zeroed words."""
    device = Device()
    addrs = [device.put(np.asarray(d)) for d in data] + [device.alloc(out * 4)]
    text = how.pop("text", HEAD) + entry("k", len(addrs), body, how.pop("regs", ""))
    for name, value in how.pop("device", {}).items():
        setattr(device, name, value)
    result = load(text, "k", cache).run(
        device, pointers(*addrs), block=(block,), grid=(grid,), **how
    )
    return result, device.view(addrs[-1], "u4", out), device


REDUCE = """
.shared .align 4 .b8 part[1024];
mov.u32 %r0, %tid.x; mul.wide.u32 %d0, %r0, 4; add.s64 %d1, %d0, %p0; ld.global.u32 %r1, [%d1];
shl.b32 %r2, %r0, 2; mov.u32 %r3, part; add.u32 %r2, %r2, %r3; st.shared.u32 [%r2], %r1;
mov.u32 %r4, 128;
LOOP: bar.sync 0;
setp.ge.u32 %q1, %r0, %r4; @%q1 bra NEXT;
shl.b32 %r5, %r4, 2; add.u32 %r5, %r5, %r2; ld.shared.u32 %r6, [%r5]; ld.shared.u32 %r7, [%r2];
add.u32 %r7, %r7, %r6; st.shared.u32 [%r2], %r7;
NEXT: shr.u32 %r4, %r4, 1; setp.ne.u32 %q2, %r4, 0; @%q2 bra LOOP;
setp.ne.u32 %q3, %r0, 0; @%q3 ret;
ld.shared.u32 %r8, [part]; st.global.u32 [%p1], %r8;
"""


def test_block_reduction_through_shared_memory(cache: Path) -> None:
    data = np.random.default_rng(3).integers(0, 1 << 20, 256, dtype="u4")
    result, out, _ = run(REDUCE, cache, data, block=256)
    assert result.stop == DONE
    assert out[0] == data.sum()
    assert (result.load_bytes, result.store_bytes) == (1024, 4)


def test_barrier_reductions_and_counts(cache: Path) -> None:
    body = """
mov.u32 %r0, %tid.x; and.b32 %r1, %r0, 3; setp.eq.u32 %q1, %r1, 0;
bar.red.popc.u32 %r2, 0, %q1;
bar.red.and.pred %q2, 0, %q1; selp.u32 %r3, 1, 0, %q2;
bar.red.or.pred %q3, 0, !%q1; selp.u32 %r4, 1, 0, %q3;
// Half of the threads meet at barrier 1, the other half at barrier 2.
setp.lt.u32 %q4, %r0, 64; @%q4 bar.sync 1, 64; @!%q4 barrier.sync.aligned 2, 64;
mul.wide.u32 %d0, %r0, 4; add.s64 %d1, %d0, %p0;
shl.b32 %r3, %r3, 16; or.b32 %r2, %r2, %r3; shl.b32 %r4, %r4, 20; or.b32 %r2, %r2, %r4;
st.global.u32 [%d1], %r2;
"""
    result, out, _ = run(body, cache, block=128, out=128)
    assert result.stop == DONE
    assert set(out) == {32 | 1 << 20}


def test_producer_arrives_and_consumer_waits(cache: Path) -> None:
    body = """
.shared .align 4 .u32 box;
mov.u32 %r0, %tid.x; setp.lt.u32 %q1, %r0, 32; @%q1 bra WAIT;
setp.ne.u32 %q2, %r0, 32; @!%q2 st.shared.u32 [box], 77;
bar.arrive 3, 64; ret;
WAIT: bar.sync 3, 64; ld.shared.u32 %r1, [box]; st.global.u32 [%p0], %r1;
"""
    result, out, _ = run(body, cache, block=64)
    assert (result.stop, out[0]) == (DONE, 77)


def test_ended_threads_do_not_hold_a_barrier(cache: Path) -> None:
    body = """
mov.u32 %r0, %tid.x; setp.gt.u32 %q1, %r0, 20; @%q1 exit;
bar.sync 0; st.global.u32 [%p0], 5;
"""
    result, out, _ = run(body, cache, block=64)
    assert (result.stop, out[0]) == (DONE, 5)


def test_block_that_can_never_go_on_is_stopped(cache: Path) -> None:
    body = "mov.u32 %r0, %tid.x; setp.eq.u32 %q1, %r0, 0; @%q1 bar.sync 1, 64; bar.sync 0;"
    result, _, _ = run(body, cache, block=32)
    assert result.stop == TRAP
    assert "bar.sync" in result.fault_where


def test_lane_outside_its_own_mask_is_an_error(cache: Path) -> None:
    result, _, _ = run("shfl.sync.idx.b32 %r1, %r2, 0, 31, 0xff00;", cache, block=32)
    assert result.stop == ILLEGAL_INSTRUCTION
    assert "shfl.sync.idx.b32" in result.fault_where


ATOMICS = {
    # op.type: (initial, combine(old, value))
    "add.u32": (5, lambda o, v: o + v),
    "add.u64": (1 << 40, lambda o, v: o + v),
    "min.u32": (1 << 31, min),
    "max.u32": (3, max),
    "min.s32": (5, lambda o, v: min(o, v - 20)),
    "max.s64": (-(1 << 40), max),
    "and.b32": (FULL, lambda o, v: o & v),
    "or.b64": (0, lambda o, v: o | v),
    "xor.b32": (9, lambda o, v: o ^ v),
    "inc.u32": (0, lambda o, v: 0 if o >= 40 else o + 1),
    "dec.u32": (0, lambda o, v: 40 if o == 0 or o > 40 else o - 1),
}


def atomic_text(number: int, form: str, space: str) -> str:
    """red and atom of one form by every thread; box number `number` starts and ends in memory."""
    op, kind = form.split(".")
    bits = kind[1:]
    reg = "%d" if bits == "64" else "%r"
    value = f"cvt.u64.u32 {reg}5, %r0;" if bits == "64" else f"mov.b32 {reg}5, %r0;"
    if form == "min.s32":
        value = "sub.s32 %r5, %r0, 20;"
    if op in ("inc", "dec"):
        value = "mov.b32 %r5, 40;"
    at = 8 * number
    target = {".global": f"[%p0+{at}]", ".shared": f"[box+{at}]", "": f"[%d10+{at}]"}[space]
    place = (
        f".global.b{bits} {{}}[%p0+{at}]"
        if space == ".global"
        else f".shared.b{bits} {{}}[box+{at}]"
    )
    head, tail = place.split("{}")
    return f"""
ld.global.b{bits} {reg}6, [%p0+{at}]; @%q1 st.shared.b{bits} [box+{at}], {reg}6; bar.sync 0;
{value} red{space}.{form} {target}, {reg}5; atom{space}.{form} {reg}7, {target}, {reg}5;
bar.sync 0; ld{head}{reg}8, {tail}; @%q1 st.global.b{bits} [%p1+{at}], {reg}8;
"""


@pytest.mark.parametrize("space", [".global", ".shared", ""])
def test_atomics(space: str, cache: Path) -> None:
    body = """
.shared .align 8 .b8 box[128];
mov.u32 %r0, %tid.x; setp.eq.u32 %q1, %r0, 0; mov.u64 %d10, box; cvta.shared.u64 %d10, %d10;
"""
    body += "".join(atomic_text(i, form, space) for i, form in enumerate(ATOMICS))
    start = np.array([first % (1 << 64) for first, _ in ATOMICS.values()], dtype="u8")
    result, out, _ = run(body, cache, start, block=96, out=32)
    assert result.stop == DONE, result
    for i, (form, (want, combine)) in enumerate(ATOMICS.items()):
        for v in (x for t in range(96) for x in (t, t)):
            want = combine(want, v)
        mask = (1 << int(form.split(".")[1][1:])) - 1
        assert int(out.view("u8")[i]) & mask == want & mask, form


def test_float_atomics_swaps_and_locks(cache: Path) -> None:
    body = """
mov.u32 %r0, %tid.x; cvt.rn.f32.u32 %f1, %r0; cvt.rn.f64.u32 %g1, %r0;
atom.global.add.f32 %f2, [%p1], %f1; red.global.add.f64 [%p1+8], %g1;
atom.global.add.noftz.f16x2 %r1, [%p1+16], 0x3c004000;
atom.global.exch.b32 %r2, [%p1+20], %r0;
// A lock that every thread of the block takes once; the others must not starve its holder.
TRY: atom.acquire.gpu.global.cas.b32 %r3, [%p0], 0, 1; setp.ne.u32 %q1, %r3, 0; @%q1 bra TRY;
ld.volatile.global.u32 %r4, [%p1+24]; add.u32 %r4, %r4, 1; st.volatile.global.u32 [%p1+24], %r4;
membar.gl; st.release.gpu.global.u32 [%p0], 0;
"""
    result, out, _ = run(body, cache, np.zeros(4, dtype="u4"), block=128)
    assert result.stop == DONE
    assert out.view("f4")[0] == sum(range(128))
    assert out.view("f8")[1] == sum(range(128))
    assert list(out[4:5].view("f2")) == [256.0, 128.0]
    assert out[6] == 128


def test_thread_that_polls_lets_the_others_run(cache: Path) -> None:
    body = """
mov.u32 %r0, %tid.x; setp.eq.u32 %q1, %r0, 50; @%q1 bra SET;
WAIT: ld.volatile.global.u32 %r1, [%p0]; setp.eq.u32 %q2, %r1, 0; @%q2 bra WAIT;
red.global.add.u32 [%p1], 1; ret;
SET: st.volatile.global.u32 [%p0], 1;
"""
    result, out, _ = run(body, cache, np.zeros(4, dtype="u4"), block=64)
    assert (result.stop, out[0]) == (DONE, 63)


@pytest.mark.parametrize("block", [1, 64])
def test_endless_loop_polls_the_host_and_can_be_abandoned(block: int, cache: Path) -> None:
    watch = "ld.volatile.global.u32 %r1, [%p0];" if block > 1 else ""
    body = f"LOOP: {watch} add.u32 %r2, %r2, 1; bra LOOP;"
    result, _, device = run(
        body,
        cache,
        np.zeros(4, dtype="u4"),
        block=block,
        device={"poll_result": lambda n: int(n > 20)},
    )
    assert result.stop == ABANDONED
    assert device.polls == 21


def test_nanosleep_is_virtual_and_moves_the_thread_clock(cache: Path) -> None:
    body = """
mov.u64 %d1, %globaltimer; mov.u32 %r1, 0;
LOOP: nanosleep.u32 1000000; add.u32 %r1, %r1, 1; setp.lt.u32 %q1, %r1, 20; @%q1 bra LOOP;
mov.u64 %d2, %globaltimer; sub.u64 %d3, %d2, %d1; st.global.u64 [%p0], %d3;
"""
    result, out, _ = run(body, cache, block=4)
    assert result.sleep_ns == 20_000_000
    assert 20_000_000 <= out.view("u8")[0] < 20_100_000


def test_instruction_and_byte_counters_are_exact(cache: Path) -> None:
    body = """
mov.u32 %r0, %tid.x; mul.wide.u32 %d0, %r0, 16; add.s64 %d0, %d0, %p0;
ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%d0]; ld.u8 %r5, [%d0];
setp.lt.u32 %q1, %r0, 10; @%q1 st.global.u16 [%d0], %h1; @%q1 bra END; add.u32 %r6, %r6, 1;
END: mov.u32 %r7, 0;
LOOP: add.u32 %r7, %r7, 1; setp.lt.u32 %q2, %r7, 5; @%q2 bra LOOP;
"""
    result, _, _ = run(body, cache, np.zeros(128, dtype="u4"), block=32)
    # 2 parameter loads, 8 to the branch, 1 for those that do not jump, mov, the loop, ret
    assert result.instructions == 32 * (2 + 8 + 1 + 15 + 1) + 22
    assert (result.load_bytes, result.store_bytes) == (32 * 17, 20)


MMA = {
    "m16n8k16.row.col.f32.f16.f16.f32": (16, "f2", False),
    "m16n8k8.row.col.f32.f16.f16.f32": (8, "f2", False),
    "m16n8k16.row.col.f16.f16.f16.f16": (16, "f2", True),
    "m16n8k8.row.col.f32.tf32.tf32.f32": (8, "f4", False),
    "m16n8k4.row.col.f32.tf32.tf32.f32": (4, "f4", False),
}


@pytest.mark.parametrize("form", MMA)
def test_matrix_multiply(form: str, cache: Path) -> None:
    k, dtype, half = MMA[form]
    rng = np.random.default_rng(8)
    a = rng.integers(-4, 5, (16, k)).astype(dtype)
    b = rng.integers(-4, 5, (k, 8)).astype(dtype)
    c = rng.integers(-4, 5, (16, 8)).astype("f4")
    per = 4 // np.dtype(dtype).itemsize
    regs = np.zeros((32, 10), dtype="u4")
    na, nb = 16 * k // 32 // per, k * 8 // 32 // per
    for lane in range(32):
        g, t = divmod(lane, 4)
        if per == 2:
            av = [a[g + 8 * (i >> 1 & 1), t * 2 + (i & 1) + 8 * (i >> 2)] for i in range(2 * na)]
            bv = [b[t * 2 + (i & 1) + 8 * (i >> 1), g] for i in range(2 * nb)]
        else:
            av = [a[g + 8 * (i & 1), t + 4 * (i >> 1)] for i in range(na)]
            bv = [b[t + 4 * i, g] for i in range(nb)]
        regs[lane, :na] = np.array(av, dtype=dtype).view("u4")
        regs[lane, 4 : 4 + nb] = np.array(bv, dtype=dtype).view("u4")
        cv = [c[g + 8 * (i >> 1), t * 2 + (i & 1)] for i in range(4)]
        packed = np.array(cv, dtype="f2" if half else "f4").view("u4")
        regs[lane, 6 : 6 + len(packed)] = packed
    nc = 2 if half else 4
    names = lambda start, n: "{" + ", ".join(f"%r{start + i}" for i in range(n)) + "}"
    loads = "".join(f"ld.global.b32 %r{10 + i}, [%d0+{4 * i}];\n" for i in range(10))
    stores = "".join(f"st.global.b32 [%d1+{4 * i}], %r{30 + i};\n" for i in range(nc))
    body = f"""
mov.u32 %r0, %tid.x; mad.wide.u32 %d0, %r0, 40, %p0; mad.wide.u32 %d1, %r0, 16, %p1;
{loads} mma.sync.aligned.{form} {names(30, nc)}, {names(10, na)}, {names(14, nb)}, {names(16, nc)};
{stores}
"""
    result, out, _ = run(body, cache, regs, block=32, out=128)
    assert result.stop == DONE, result
    want = a.astype("f4") @ b.astype("f4") + c
    for lane in range(32):
        g, t = divmod(lane, 4)
        got = out[lane * 4 : lane * 4 + nc].view("f2" if half else "f4")
        assert [float(x) for x in got] == [
            want[g + 8 * (i >> 1), t * 2 + (i & 1)] for i in range(4)
        ]


def test_blocks_see_their_place_in_the_grid(cache: Path) -> None:
    body = """
mov.u32 %r0, %ctaid.x; mov.u32 %r1, %nctaid.x; mov.u32 %r2, %ntid.x; mov.u32 %r3, %smid;
mad.lo.u32 %r4, %r1, 100, %r2; mad.wide.u32 %d0, %r0, 8, %p0; st.global.u32 [%d0], %r4;
st.global.u32 [%d0+4], %r3;
"""
    result, out, _ = run(body, cache, block=7, grid=5)
    assert result.stop == DONE
    assert list(out[0:10:2]) == [507] * 5
    assert list(out[1:10:2]) == [0, 1, 2, 3, 4]
