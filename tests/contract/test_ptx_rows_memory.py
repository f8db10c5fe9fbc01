# SPDX-License-Identifier: Apache-2.0
"""Rows whose threads compute their own addresses, and what they keep while they wait."""

from __future__ import annotations

from collections.abc import Sequence
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
    Device,
    Loaded,
    entry,
    pointers,
    rows_and_quick,
)

WORDS = range(0, 64, 4)
TOP = 1 << 32
SHARED = 512  #: bytes; all addresses there are offsets

#: %d5, or %r5 and the low half of it: where each thread's word lies, read from a table
OFFSET = """
    mov.u32 %r0, %tid.x; mul.wide.u32 %d0, %r0, 8; add.u64 %d1, %p0, %d0;
    ld.global.u64 %d5, [%d1]; cvt.u32.u64 %r5, %d5; mul.wide.u32 %d0, %r0, 4;
    add.u64 %d2, %p1, %d0; add.u64 %d6, %p2, %d5; mov.u32 %r7, 0;
"""
#: shared memory holds its own offsets
FILL = f"""
    mov.u32 %r8, 0; F: st.shared.u32 [%r8], %r8; add.u32 %r8, %r8, 4;
    setp.lt.u32 %q0, %r8, {SHARED}; @%q0 bra F; bar.sync 0;
"""
END = "st.global.u32 [%d2], %r7;"
BODIES = {
    "load": f"{OFFSET} ld.global.u32 %r7, [%d6+128]; {END}",
    "store": f"{OFFSET} st.global.u32 [%d6+128], %r0; {END}",
    "load of two": f"{OFFSET} ld.global.v2.u32 {{%r7, %r6}}, [%d6+128]; add.u32 %r7, %r7, %r6; {END}",
    "load over its address": f"{OFFSET} ld.global.u64 %d6, [%d6+128]; cvt.u32.u64 %r7, %d6; {END}",
    "shared": f"{OFFSET} {FILL} ld.shared.u32 %r7, [%r5]; {END}",
    "shared, ahead": f"{OFFSET} {FILL} ld.shared.u32 %r7, [%r5+16]; {END}",
    "shared by 64 bits": f"{OFFSET} {FILL} ld.shared.u32 %r7, [%d5+16]; {END}",
    "shared store": f"{OFFSET} {FILL} st.shared.u32 [%r5], %r0; bar.sync 0; ld.shared.u32 %r7, [64]; {END}",
    "some threads only": f"""
        {OFFSET} {FILL} setp.lt.u64 %q1, %d5, 40; @%q1 ld.shared.u32 %r7, [%r5]; {END}""",
}
PATTERNS: dict[str, Sequence[int]] = {
    "in order": list(WORDS),
    "double words in order": [2 * w for w in WORDS],
    "backwards": list(reversed(WORDS)),
    "two change places": [4, 0, *WORDS[2:]],
    "the last is elsewhere": [*WORDS[:15], 128],
    "the first is elsewhere": [96, *WORDS[1:]],
    "all at one place": [64] * 16,
    "two at one place": [*WORDS[:14], 52, 52],
    "in order, misaligned": [w + 1 for w in WORDS],
    "the last is misaligned": [*WORDS[:15], 62],
    "the last that fit": [SHARED - 64 + w for w in WORDS],
    "one too far": [SHARED - 60 + w for w in WORDS],
    "begins behind the end": [SHARED + w for w in WORDS],
    "begins below the start": [(w - 4) % TOP**2 for w in WORDS],
    "round the end of 32 bits": [(TOP - 16 + w) % TOP for w in WORDS],
    "round the end of 64 bits": [(w - 16) % TOP**2 for w in WORDS],
    "the low halves alone in order": [w + (TOP if w == 20 else 0) for w in WORDS],
}


def _run(code: Loaded, offsets: Sequence[int], data: int) -> tuple[object, ...]:
    device = Device()
    table = device.put(np.array([*offsets, 0, 8, 16, 24], np.uint64))  # the last: no row
    out = device.put(np.full(32, 0xDEAD, np.uint32))
    device.view(ARENA_BASE + PAGE, np.uint32, 4 * PAGE // 4)[:] = np.arange(PAGE, dtype=np.uint32)
    result = code.run(device, pointers(table, out, data), block=(20,), dyn_shared=SHARED)
    near = device.view(min(data, ARENA_BASE + 6 * PAGE), np.uint32, 256)
    return (
        result.stop,
        result.fault_addr,
        result.fault_where,
        (result.instructions, result.load_bytes, result.store_bytes) if not result.stop else None,
        device.view(out, np.uint32, 32).tolist() if not result.stop else None,
        near.tolist(),
    )


@pytest.mark.parametrize("name", BODIES)
def test_threads_with_addresses_of_their_own_are_as_alone(name: str, tmp_path: Path) -> None:
    rows, quick = rows_and_quick(HEAD + entry("k", 3, BODIES[name]), "k", tmp_path)
    stops = set()
    # All is mapped; a page ends, the next of which is; what is mapped ends behind a row, and in it.
    for data in (
        ARENA_BASE + PAGE,
        ARENA_BASE + 3 * PAGE - 160,
        ARENA_BASE + 7 * PAGE - 192,
        ARENA_BASE + 7 * PAGE - 188,
    ):
        for pattern, offsets in PATTERNS.items():
            got, want = _run(rows, offsets, data), _run(quick, offsets, data)
            assert got == want, f"{pattern}, from {data - ARENA_BASE:#x}"
            stops.add(got[0])
    assert DONE in stops
    assert {ILLEGAL_ADDRESS, MISALIGNED} & stops or "some" in name


def test_words_in_order_are_read_where_they_lie(tmp_path: Path) -> None:
    """What both forms might get wrong."""
    for name, first in (("load", 128), ("shared", 0), ("shared, ahead", 16)):
        for code in rows_and_quick(HEAD + entry("k", 3, BODIES[name]), "k", tmp_path / name):
            words = np.array(_run(code, list(WORDS), ARENA_BASE + PAGE)[4])
            assert (words[:16] * (4 if name == "load" else 1)).tolist() == [
                first + w for w in WORDS
            ]


KEPT = """
    mov.u32 %r0, %tid.x; mov.u32 %r1, %tid.y; mov.u32 %r2, %ntid.x; mad.lo.u32 %r3, %r1, %r2, %r0;
    mul.wide.u32 %d0, %r3, 4; add.u64 %d1, %p0, %d0; add.u64 %d2, %p1, %d0; ld.global.u32 %r6, [%d1];
    cvt.u16.u32 %h1, %r6; cvt.u64.u32 %d3, %r6; mul.lo.u64 %d3, %d3, 0x100000001;
    cvt.rn.f32.u32 %f1, %r6; cvt.rn.f64.u32 %g1, %r6; setp.gt.u32 %q1, %r6, 50;
    mov.b128 %z0, {%d3, %d0}; mov.u32 %r8, 0;
    L: shl.b32 %r9, %r3, 2; st.shared.u32 [%r9], %r6; bar.sync 0;
    ld.global.u32 %r10, [%p2]; add.u32 %r6, %r6, %r10; add.u16 %h1, %h1, 3;
    add.u64 %d3, %d3, 5; fma.rn.f32 %f1, %f1, 0f3F000000, 0f3F800000;
    fma.rn.f64 %g1, %g1, 0d3FE0000000000000, 0d3FF0000000000000; @%q1 add.u32 %r6, %r6, 7;
    mov.b128 {%d4, %d5}, %z0; add.u64 %d4, %d4, %d3; mov.b128 %z0, {%d4, %d5};
    xor.b32 %r9, %r9, 4; ld.shared.u32 %r11, [%r9]; add.u32 %r6, %r6, %r11; bar.sync 0;
    add.u32 %r8, %r8, 1; setp.lt.u32 %q0, %r8, 5; @%q0 bra L;
    mov.b32 %r9, %f1; xor.b32 %r7, %r6, %r9; cvt.u32.u16 %r9, %h1; xor.b32 %r7, %r7, %r9;
    mov.b64 {%r9, %r10}, %g1; xor.b32 %r7, %r7, %r9; xor.b32 %r7, %r7, %r10;
    mov.b128 {%d4, %d5}, %z0; xor.b64 %d4, %d4, %d5; mov.b64 {%r9, %r10}, %d4;
    xor.b32 %r7, %r7, %r9; xor.b32 %r7, %r7, %r10; selp.u32 %r9, 1, 0, %q1; xor.b32 %r7, %r7, %r9;
    st.global.u32 [%d2], %r7;"""


@pytest.mark.parametrize("block", [(16, 8), (32, 4), (17, 6), (128, 1), (8, 8)])
@pytest.mark.parametrize("far", [False, True], ids=["in the arena", "the host's"])
def test_what_a_row_keeps_while_it_waits_is_its_own(
    block: tuple[int, int], far: bool, tmp_path: Path
) -> None:
    """Registers of all widths, over barriers; far: a thread asks the host between them."""
    text = HEAD.replace("8.0", "8.3") + entry("k", 3, KEPT, ".reg .b128 %z<2>;")
    seen = []
    for code in rows_and_quick(text, "k", tmp_path):
        device = Device()
        source = device.put(np.random.default_rng(3).integers(1, 100, 256).astype(np.uint32))
        out, word = device.put(np.zeros(256, np.uint32)), device.put(np.array([9], np.uint32))
        if far:
            word = 0x1234_0000
            device.mapped[word] = np.array([9], np.uint32)
        result = code.run(device, pointers(source, out, word), block=block, dyn_shared=1024)
        assert result.stop == DONE
        counts = (result.instructions, result.load_bytes, result.store_bytes)
        seen.append((counts, device.view(out, np.uint32, 256).tolist()))
    assert seen[0] == seen[1]
    assert len(set(seen[0][1])) > 32


PARTED = """
    mov.u32 %r0, %tid.x; mov.u32 %r1, %tid.y; mov.u32 %r2, %ntid.x; mad.lo.u32 %r3, %r1, %r2, %r0;
    mul.wide.u32 %d0, %r3, 4; add.u64 %d1, %p0, %d0; add.u64 %d2, %p1, %d0; ld.global.u32 %r6, [%d1];
    setp.gt.u32 %q1, %r6, 50; bar.sync 0; @%q1 bra A; add.u32 %r6, %r6, 1; A: bar.sync 0;
    mov.u32 %r7, %tid.y; mov.u32 %r8, %tid.x; shl.b32 %r7, %r7, 16; add.u32 %r7, %r7, %r8;
    mov.u32 %r8, %tid.z; shl.b32 %r8, %r8, 24; add.u32 %r7, %r7, %r8; st.global.u32 [%d2], %r7;"""


def test_threads_of_a_row_that_parts_know_their_places(tmp_path: Path) -> None:
    for code in rows_and_quick(HEAD + entry("k", 2, PARTED), "k", tmp_path):
        device = Device()
        source = device.put(np.random.default_rng(3).integers(1, 100, 128).astype(np.uint32))
        out = device.put(np.zeros(128, np.uint32))
        assert code.run(device, pointers(source, out), block=(32, 4)).stop == DONE
        places = [x + (y << 16) for y in range(4) for x in range(32)]
        assert device.view(out, np.uint32, 128).tolist() == places


#: accesses of threads whose words, bytes and so on lie %1 bytes apart, at [%d1] and [%d2]
WIDTHS = {
    "bytes": (1, "ld.global.u8 %r7, [%d1]; add.u32 %r7, %r7, 1; st.global.u8 [%d2], %r7;"),
    "signed bytes": (4, "ld.global.s8 %r7, [%d1]; st.global.u32 [%d2], %r7;"),
    "signed halves": (
        2,
        "ld.global.s16 %r7, [%d1]; shr.s32 %r7, %r7, 4; st.global.u16 [%d2], %r7;",
    ),
    "halves": (2, "ld.global.u16 %h1, [%d1]; add.u16 %h1, %h1, 1; st.global.u16 [%d2], %h1;"),
    "words made wide": (
        4,
        "ld.global.s32 %d3, [%d1]; shr.s64 %d3, %d3, 8; st.global.u32 [%d2], %d3;",
    ),
    "double words": (8, "ld.global.u64 %d3, [%d1]; add.u64 %d3, %d3, 1; st.global.u64 [%d2], %d3;"),
    "floats": (4, "ld.global.f32 %f1, [%d1]; neg.f32 %f1, %f1; st.global.f32 [%d2], %f1;"),
    "every other word": (
        8,
        "ld.global.u32 %r7, [%d1]; add.u32 %r7, %r7, 1; st.global.u32 [%d2], %r7;",
    ),
    "two words": (8, "ld.global.v2.u32 {%r7, %r8}, [%d1]; st.global.v2.u32 [%d2], {%r8, %r7};"),
}


@pytest.mark.parametrize("own", [False, True], ids=["known", "seen when it runs"])
@pytest.mark.parametrize("name", WIDTHS)
def test_what_rows_read_and_write_is_as_wide_as_it_says(
    name: str, own: bool, tmp_path: Path
) -> None:
    apart, access = WIDTHS[name]
    lanes = "ld.global.u32 %r0, [%d4];" if own else ""  # what is loaded is known to nobody
    body = f"""
        mov.u32 %r0, %tid.x; mul.wide.u32 %d0, %r0, 4; add.u64 %d4, %p2, %d0; {lanes}
        mul.wide.u32 %d5, %r0, {apart}; add.u64 %d1, %p0, %d5; add.u64 %d2, %p1, %d5; {access}"""
    seen = []
    for code in rows_and_quick(HEAD + entry("k", 3, body), "k", tmp_path):
        device = Device()
        source = device.put(np.random.default_rng(7).integers(0, 256, 512).astype(np.uint8))
        out = device.put(np.full(512, 0xCC, np.uint8))
        lane = device.put(np.arange(32, dtype=np.uint32))
        assert code.run(device, pointers(source, out, lane), block=(32,)).stop == DONE
        seen.append(device.view(out, np.uint8, 512).tolist())
    assert seen[0] == seen[1]
    assert any(byte != 0xCC for byte in seen[0])
