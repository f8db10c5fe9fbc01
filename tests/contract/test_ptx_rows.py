# SPDX-License-Identifier: Apache-2.0
"""Kernels made for rows of sixteen threads compute, count and fault as those made for one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from ptx_harness import (
    ARENA_BASE,
    DONE,
    HEAD,
    ILLEGAL_ADDRESS,
    MISALIGNED,
    PAGE,
    TRAP,
    Device,
    Loaded,
    entry,
    pointers,
    ptxc,
    rows_and_quick,
)
from random_ptx import Kernel
from random_ptx_flow import call, carry, halves, local, reduce, two_predicates, uniform, warp
from random_ptx_model import DTYPE
from random_ptx_writer import Writer

PLACE = """
    mov.u32 %r0, %tid.x; mov.u32 %r1, %tid.y; mov.u32 %r2, %ntid.x;
    mad.lo.u32 %r3, %r1, %r2, %r0;
    mov.u32 %r4, %ctaid.x; mov.u32 %r5, %ntid.y; mul.lo.u32 %r5, %r5, %r2;
    mad.lo.u32 %r3, %r4, %r5, %r3;
    mul.wide.u32 %d0, %r3, 4; add.u64 %d1, %p0, %d0; add.u64 %d2, %p1, %d0;
    ld.global.u32 %r6, [%d1];
"""
#: what each thread does with its word, %r6, before it stores %r7
BODIES = {
    "straight": "xor.b32 %r7, %r6, %r3;",
    "tid.y and a constant": "mad.lo.u32 %r7, %r1, 1000, 7; add.u32 %r7, %r7, %r0;",
    "guarded": "mov.u32 %r7, 5; setp.gt.u32 %q0, %r6, 50; @%q0 add.u32 %r7, %r6, 1;",
    "guard negated": "mov.u32 %r7, 5; setp.gt.u32 %q0, %r6, 50; @!%q0 mov.u32 %r7, %tid.x;",
    "if and else": """
        setp.gt.u32 %q0, %r6, 50; @%q0 bra BIG; mul.lo.u32 %r7, %r6, 3; bra END;
        BIG: sub.u32 %r7, %r6, 50; END:""",
    "all branch alike": "setp.lt.u32 %q0, %r6, 1000; mov.u32 %r7, 1; @!%q0 bra E; neg.s32 %r7, %r6; E:",
    "loop of the thread's own length": """
        mov.u32 %r7, 0; and.b32 %r8, %r6, 7;
        L: setp.eq.u32 %q0, %r8, 0; @%q0 bra E; add.u32 %r7, %r7, %r8; sub.u32 %r8, %r8, 1; bra L;
        E:""",
    "loop of one length": """
        mov.u32 %r7, 0; mov.u32 %r8, 0;
        L: mad.lo.u32 %r7, %r7, 31, %r6; add.u32 %r8, %r8, 1; setp.lt.u32 %q0, %r8, 9; @%q0 bra L;""",
    "some end": "mov.u32 %r7, 9; setp.gt.u32 %q0, %r6, 90; @%q0 exit; add.u32 %r7, %r7, %r6;",
    "a register that is and is not the same": """
        mov.u32 %r7, 3; setp.gt.u32 %q0, %r6, 20; @%q0 mov.u32 %r7, 4; mad.lo.u32 %r7, %r7, 8, %r0;""",
    "divided": "rem.u32 %r8, %r6, 7; div.u32 %r7, 1000, %r6; mad.lo.u32 %r7, %r7, 8, %r8;",
    "floats": """
        cvt.rn.f32.u32 %f0, %r6; sqrt.rn.f32 %f1, %f0; fma.rn.f32 %f2, %f0, %f1, 0f3DCCCCCD;
        div.rn.f32 %f2, %f2, 0f40400000; mov.b32 %r7, %f2;""",
    "rounded up": """
        cvt.rn.f32.u32 %f0, %r6; add.rp.f32 %f1, %f0, 0f2B8CBCCC; mov.b32 %r7, %f1;""",
    "doubles": """
        cvt.rn.f64.u32 %g0, %r6; mul.rn.f64 %g0, %g0, 0d3FD5555555555555;
        cvt.rn.f32.f64 %f0, %g0; mov.b32 %r7, %f0;""",
    "backwards": """
        sub.u32 %r8, 0, %r0; add.u32 %r8, %r8, %r2; mad.lo.u32 %r8, %r1, %r2, %r8; sub.u32 %r8, %r8, 1;
        mul.wide.u32 %d3, %r8, 4; add.u64 %d3, %p0, %d3; ld.global.u32 %r7, [%d3];""",
    "steps of two words": """
        shl.b32 %r8, %r0, 3; cvt.u64.u32 %d3, %r8; add.u64 %d3, %p0, %d3;
        ld.global.v2.u32 {%r7, %r9}, [%d3]; xor.b32 %r7, %r7, %r9;""",
    "an address that wraps at 32 bits": """
        add.u32 %r8, %r0, 0xfffffff8; add.u32 %r9, %r8, 8; mul.wide.u32 %d3, %r8, 4;
        mul.wide.s32 %d4, %r8, 4; sub.u64 %d5, %d3, %d4; shr.u64 %d6, %d5, 33; cvt.u32.u64 %r7, %d6;""",
    "signed, and wraps": """
        add.s32 %r8, %r0, 0x7ffffff8; mul.wide.s32 %d3, %r8, 2; cvt.s64.s32 %d4, %r8;
        sub.s64 %d5, %d3, %d4; shr.u64 %d6, %d5, 8; cvt.u32.u64 %r7, %d6;""",
    "all to one word": "mov.u32 %r7, %r6; red.global.add.u32 [%p2], %r6;",
    "one word for all": "ld.global.u32 %r8, [%p0]; add.u32 %r7, %r6, %r8;",
    "gathered": """
        and.b32 %r8, %r6, 15; mul.wide.u32 %d3, %r8, 4; add.u64 %d3, %p0, %d3;
        ld.global.u32 %r7, [%d3];""",
    "shared": """
        shl.b32 %r8, %r3, 2; mov.u32 %r9, 1020; and.b32 %r8, %r8, %r9; mov.u32 %r10, 0;
        st.shared.u32 [%r8], %r6; bar.sync 0; ld.shared.u32 %r7, [%r8]; bar.sync 0;""",
    "shared, reversed": """
        mad.lo.u32 %r8, %r1, %r2, %r0; shl.b32 %r9, %r8, 2; st.shared.u32 [%r9], %r6; bar.sync 0;
        sub.u32 %r9, %r5, %r8; shl.b32 %r9, %r9, 2; ld.shared.u32 %r7, [%r9+-4];""",
    "halved until one is left": """
        mad.lo.u32 %r8, %r1, %r2, %r0; shl.b32 %r9, %r8, 2; st.shared.u32 [%r9], %r6; bar.sync 0;
        shr.u32 %r10, %r5, 1;
        L: setp.eq.u32 %q0, %r10, 0; @%q0 bra E; setp.ge.u32 %q1, %r8, %r10; @%q1 bra SKIP;
        shl.b32 %r11, %r10, 2; add.u32 %r11, %r11, %r9; ld.shared.u32 %r12, [%r11];
        ld.shared.u32 %r13, [%r9]; add.u32 %r13, %r13, %r12; st.shared.u32 [%r9], %r13;
        SKIP: bar.sync 0; shr.u32 %r10, %r10, 1; bra L;
        E: ld.shared.u32 %r7, [0];""",
    "one word of two is written again": """
        ld.global.v2.u32 {%r8, %r9}, [%p0]; add.u32 %r9, %r9, %r0; xor.b32 %r7, %r8, %r9;""",
    "half of a double word goes round a loop": """
        mov.u32 %r10, 0; mov.u32 %r11, 3; mov.b64 %d3, {%r11, %r10}; mov.b64 {%r8, %r9}, %d3;
        L: add.u32 %r8, %r8, %r0; add.u32 %r9, %r9, 1; setp.lt.u32 %q0, %r9, 5; @%q0 bra L;
        xor.b32 %r7, %r8, %r9;""",
    "one predicate of two is joined with the thread's own": """
        setp.gt.u32 %q2, %r6, 50; setp.gt.s32 %q0|%q1, %r5, 8; and.pred %q1, %q1, %q2;
        selp.u32 %r7, 1, 0, %q0; @%q1 add.u32 %r7, %r7, 2;""",
    "two predicates, one also read": """
        setp.gt.u32 %q2, %r6, 50; setp.gt.u32 %q0, %r2, 8; setp.ne.xor.u32 %q0|%q1, %r5, 8, %q0;
        and.pred %q1, %q1, %q2; selp.u32 %r7, 1, 0, %q0; @%q1 add.u32 %r7, %r7, 2;""",
    "compared along the row": """
        mov.u32 %r7, 0; mov.u32 %r8, 15; setp.le.u32 %q0, %r0, %r8; @%q0 add.u32 %r7, %r7, 1;
        setp.lt.u32 %q0, %r0, 15; @%q0 add.u32 %r7, %r7, 2; setp.gt.s32 %q1, 16, %r0;
        @%q1 bra A; add.u32 %r7, %r7, 4; A: setp.ls.u32 %q1, %r8, %r0; @%q1 bra B;
        add.u32 %r7, %r7, 8; B: add.u32 %r9, %r7, %r0; setp.ge.u32 %q2, %r9, 33; @!%q2 bra C;
        add.u32 %r7, %r7, 16; C: selp.u32 %r9, 32, 0, %q0; add.u32 %r7, %r7, %r9;""",
    # the first thread and the last agree, those between them do not; a register grows by one number
    "compared along the row, past the end of the range": """
        mov.u32 %r7, 0; add.u32 %r8, %r0, 0xfffffff8; setp.gt.u32 %q0, %r8, 5;
        @%q0 add.u32 %r7, %r7, 1; add.s32 %r8, %r0, 0x7ffffff8; setp.lt.s32 %q0, %r8, 0x7ffffffc;
        @%q0 add.u32 %r7, %r7, 2; sub.u32 %r9, 7, %r0; setp.gt.u32 %q0, 5, %r9;
        @%q0 add.u32 %r7, %r7, 4; sub.s32 %r9, 0x80000008, %r0; setp.le.s32 %q0, %r9, 8;
        @%q0 add.u32 %r7, %r7, 8; cvt.u64.u32 %d3, %r0; add.u64 %d4, %d3, 0xfffffffffffffff8;
        setp.hi.u64 %q1, %d4, 5; @%q1 add.u32 %r7, %r7, 16;
        add.s64 %d4, %d3, 0x7ffffffffffffff8; mov.u64 %d5, 0x7ffffffffffffffc;
        setp.ge.s64 %q1, %d4, %d5; @%q1 add.u32 %r7, %r7, 32;
        sub.u64 %d6, 7, %d3; setp.lo.u64 %q1, %d6, 5; @%q1 bra C; add.u32 %r7, %r7, 64; C:""",
    "some end before the barrier": """
        mov.u32 %r7, 1; mad.lo.u32 %r8, %r1, %r2, %r0; shl.b32 %r9, %r8, 2; st.shared.u32 [%r9], %r6;
        setp.gt.u32 %q0, %r6, 60; @%q0 exit; bar.sync 0; ld.shared.u32 %r7, [%r9];""",
}
SHAPES = ((1,), (15,), (16,), (17,), (64,), (40, 3), (16, 16), (33, 2, 2), (8, 8))


def _run(code: Loaded, words: Sequence[int], block: Sequence[int]) -> tuple[object, ...]:
    device = Device()
    source = device.put(np.array(words, np.uint32))
    out = device.put(np.full(len(words), 0xDEAD, np.uint32))
    total = device.put(np.zeros(1, np.uint32))
    result = code.run(device, pointers(source, out, total), block=block, grid=(2,), dyn_shared=2048)
    return (
        result.stop,
        result.fault_where,
        result.fault_addr,
        (result.instructions, result.load_bytes, result.store_bytes) if not result.stop else None,
        device.view(out, np.uint32, len(words))[:512].tolist(),
        device.view(total, np.uint32, 1).tolist(),
    )


@pytest.mark.parametrize("name", BODIES)
def test_rows_and_single_threads_are_alike(name: str, tmp_path: Path) -> None:
    text = HEAD + entry("k", 3, f"{PLACE}{BODIES[name]}\nst.global.u32 [%d2], %r7;")
    rows, quick = rows_and_quick(text, "k", tmp_path)
    random = np.random.default_rng(5)
    for block in SHAPES:
        for top in (100, 40):  # so that rows part, or none does
            words = random.integers(1, top, 2048).tolist()
            if (got := _run(rows, words, block)) != (want := _run(quick, words, block)):
                pytest.fail(f"{block}, up to {top}: {got} is not {want}")
            assert got[0] == DONE


def test_a_row_at_the_end_of_mapped_memory_faults_where_a_thread_does(tmp_path: Path) -> None:
    body = """
        mov.u32 %r0, %tid.x; mul.wide.u32 %d0, %r0, 4; add.u64 %d1, %p0, %d0;
        mov.u32 %r1, 1; st.global.u32 [%d1], %r1;"""
    rows, quick = rows_and_quick(HEAD + entry("k", 1, body), "k", tmp_path)
    for at, stop in ((-40, ILLEGAL_ADDRESS), (-128, DONE), (-39, MISALIGNED), (8, ILLEGAL_ADDRESS)):
        seen = []
        for code in (rows, quick):
            device = Device()
            start = ARENA_BASE + 7 * PAGE + at
            result = code.run(device, pointers(start), block=(32,))
            before = device.view(ARENA_BASE + 7 * PAGE - 128, np.uint8, 128).tolist()
            seen.append((result.stop, result.fault_addr, result.fault_where, before))
        assert seen[0] == seen[1]
        assert seen[0][0] == stop


@pytest.mark.parametrize("last", [28, 27, 60, -4])
def test_a_row_at_the_end_of_shared_memory_faults_where_a_thread_does(
    last: int, tmp_path: Path
) -> None:
    """64 threads of 4 bytes each, from `last` before the end of 256 on."""
    body = f"""
        mov.u32 %r0, %tid.x; shl.b32 %r1, %r0, 2; add.u32 %r1, %r1, {256 - last};
        st.shared.u32 [%r1], %r0; ld.shared.u32 %r2, [%r1];
        mul.wide.u32 %d0, %r0, 4; add.u64 %d1, %p0, %d0; st.global.u32 [%d1], %r2;"""
    seen = []
    for code in rows_and_quick(HEAD + entry("k", 1, body), "k", tmp_path):
        device = Device()
        result = code.run(device, pointers(ARENA_BASE), block=(16,), dyn_shared=256)
        words = device.view(ARENA_BASE, np.uint32, 16).tolist()
        seen.append(
            (result.stop, result.fault_addr, result.fault_where, words if not result.stop else None)
        )
    assert seen[0] == seen[1]
    assert seen[0][0] == {28: ILLEGAL_ADDRESS, 27: MISALIGNED, 60: ILLEGAL_ADDRESS}.get(
        last, ILLEGAL_ADDRESS
    )


def test_a_row_across_two_pages_readsrows_and_quick(tmp_path: Path) -> None:
    body = """
        mov.u32 %r0, %tid.x; mul.wide.u32 %d0, %r0, 4; add.u64 %d1, %p0, %d0; add.u64 %d2, %p1, %d0;
        ld.global.u32 %r1, [%d1]; st.global.u32 [%d2], %r1;"""
    rows, quick = rows_and_quick(HEAD + entry("k", 2, body), "k", tmp_path)
    for code in (rows, quick):
        device = Device()
        device.view(ARENA_BASE + PAGE - 32, np.uint32, 16)[:] = np.arange(16)
        out = ARENA_BASE + 3 * PAGE
        assert code.run(device, pointers(ARENA_BASE + PAGE - 32, out), block=(16,)).stop == DONE
        assert device.view(out, np.uint32, 16).tolist() == list(range(16))
        device.map[1] = 2  # may be written, not read
        result = code.run(device, pointers(ARENA_BASE + PAGE - 32, out), block=(16,))
        assert (result.stop, result.fault_addr) == (ILLEGAL_ADDRESS, ARENA_BASE + PAGE)


@pytest.mark.parametrize(
    ("at", "fault"), [(2 * PAGE - 64, None), (2 * PAGE - 40, 2 * PAGE), (-4, -4), (-64, -64)]
)
def test_a_row_at_the_arenas_ends_faults_where_a_thread_does(
    at: int, fault: int | None, tmp_path: Path
) -> None:
    """All its pages are mapped; what lies behind the map is not to be looked at."""
    body = """
        mov.u32 %r0, %tid.x; mul.wide.u32 %d0, %r0, 4; add.u64 %d1, %p0, %d0;
        ld.global.u32 %r1, [%d1];"""
    for code in rows_and_quick(HEAD + entry("k", 1, body), "k", tmp_path):
        device = Device(pages=2)
        device.map = np.full(3, 3, np.uint8)
        result = code.run(device, pointers(ARENA_BASE + at), block=(16,))
        if fault is None:
            assert result.stop == DONE
        else:
            assert (result.stop, result.fault_addr) == (ILLEGAL_ADDRESS, ARENA_BASE + fault)


def test_a_row_whose_threads_are_not_all_aligned_faults_where_a_thread_does(tmp_path: Path) -> None:
    """Pairs of words, a word apart: every other thread is misaligned."""
    body = """
        mov.u32 %r0, %tid.x; mul.wide.u32 %d0, %r0, 4; add.u64 %d1, %p0, %d0;
        ld.global.v2.u32 {%r1, %r2}, [%d1]; st.global.v2.u32 [%d1+1024], {%r1, %r2};"""
    for code in rows_and_quick(HEAD + entry("k", 1, body), "k", tmp_path):
        result = code.run(Device(), pointers(ARENA_BASE), block=(16,))
        assert (result.stop, result.fault_addr) == (MISALIGNED, ARENA_BASE + 4)


def test_a_row_that_reaches_beyond_two_pages_reads_all_of_them(tmp_path: Path) -> None:
    body = f"""
        mov.u32 %r0, %tid.x; mul.wide.u32 %d0, %r0, {PAGE // 8}; add.u64 %d1, %p0, %d0;
        mul.wide.u32 %d0, %r0, 4; add.u64 %d2, %p1, %d0; ld.global.u32 %r1, [%d1]; st.global.u32 [%d2], %r1;"""
    for code in rows_and_quick(HEAD + entry("k", 2, body), "k", tmp_path):
        device = Device()
        out = ARENA_BASE + 5 * PAGE
        device.map[1] = 2  # the middle one may be written, not read
        result = code.run(device, pointers(ARENA_BASE + PAGE // 2, out), block=(16,))
        assert (result.stop, result.fault_addr) == (ILLEGAL_ADDRESS, ARENA_BASE + PAGE)


def test_a_barrier_that_not_all_reach_ends_the_block(tmp_path: Path) -> None:
    """A row parts before it: those who come wait, the others spin no more and have ended."""
    body = """
        mov.u32 %r0, %tid.x; setp.lt.u32 %q0, %r0, 20; @%q0 bra A; bar.sync 1; bra E;
        A: bar.sync 2; E:"""
    rows, quick = rows_and_quick(HEAD + entry("k", 1, body), "k", tmp_path)
    for code in (rows, quick):
        device = Device()
        result = code.run(device, pointers(ARENA_BASE), block=(48,))
        assert result.stop == TRAP
        assert "bar.sync" in result.fault_where


def test_parted_rows_poll_as_often_as_threads(tmp_path: Path) -> None:
    """No thread of them comes near the instructions between two polls: together they do."""
    body = """
        mov.u32 %r0, %tid.x; and.b32 %r1, %r0, 7; add.u32 %r1, %r1, 2500;
        L: sub.u32 %r1, %r1, 1; setp.ne.u32 %q0, %r1, 0; @%q0 bra L;
        mul.wide.u32 %d0, %r0, 4; add.u64 %d1, %p0, %d0; st.global.u32 [%d1], %r1;"""
    polls = []
    for code in rows_and_quick(HEAD + entry("k", 1, body), "k", tmp_path):
        device = Device()
        result = code.run(device, pointers(ARENA_BASE), block=(1024,))
        assert result.stop == DONE
        assert device.polls - 1 == result.instructions >> 20  # one as the block begins
        polls.append(device.polls)
    assert polls[0] == polls[1] > 5


def test_a_kernel_named_as_an_instruction_does_not_call_itself() -> None:
    body = "mov.u32 %r0, %tid.x; add.u32 %r1, %r0, 1;"
    c = ptxc("emit", "--kernel", "add", text=HEAD + entry("add", 1, body)).stdout
    assert "#define RT_FIBERS 0\n#define RT_RECURSIVE 0\n" in c


class RowKernel(Kernel):
    """A random kernel of what rows are made for, with results of several registers."""

    def _table(self) -> list[tuple[Callable[[Writer], None], float]]:
        never = {local, call, carry, warp, reduce}
        table = [(step, 0 if step in never else weight) for step, weight in super()._table()]
        return [*table, (uniform, 4), (halves, 2), (two_predicates, 3)]


def _random(seed: int, folder: Path, steps: int) -> bool:
    kernel = RowKernel(np.random.default_rng([seed, steps]), steps)
    if "#define RT_ROWS 1\n" not in ptxc("emit", "--kernel", "random", text=kernel.ptx).stdout:
        return False
    seen = []
    for code in rows_and_quick(kernel.ptx, "random", folder):
        device = Device()
        arrays = [device.put(data) for data in kernel.inputs.values()]
        out, cells = device.put(np.zeros(kernel.out_bytes, np.uint8)), device.alloc(64)
        result = code.run(
            device, pointers(*arrays, out, cells), block=(kernel.threads,), grid=(kernel.blocks,)
        )
        assert result.stop == DONE
        raw = device.view(out, np.uint8, kernel.out_bytes).reshape(-1, kernel.count, 8)
        for at, (kind, expected) in enumerate(kernel.outputs):
            dtype = np.dtype(DTYPE[kind])
            got = np.ascontiguousarray(raw[at, :, : dtype.itemsize]).view(dtype).reshape(-1)
            bits = np.dtype(f"u{dtype.itemsize}")
            wrong = got.view(bits) != expected.view(bits)
            if kind.startswith("f"):  # one NaN is as good as another
                wrong &= ~(np.isnan(got) & np.isnan(expected))
            assert not wrong.any(), f"seed {seed}, output {at} ({kind}), thread {wrong.argmax()}"
        seen.append((result.instructions, result.load_bytes, result.store_bytes))
    assert seen[0] == seen[1]
    return True


def test_random_kernels_of_rows_compute_what_numpy_says(tmp_path: Path) -> None:
    assert sum(_random(seed, tmp_path, 25) for seed in range(8)) >= 6


@pytest.mark.slow
def test_more_random_kernels_of_rows(tmp_path: Path) -> None:
    assert sum(_random(seed, tmp_path, 60) for seed in range(100, 160)) >= 40
