# SPDX-License-Identifier: Apache-2.0
"""Cases of what kernels call of the device's runtime: its heap, and barriers of the whole grid."""

from __future__ import annotations

import ctypes as c
import os
import resource
from pathlib import Path

import numpy as np
from soft_mod_cases_context import limit
from soft_mod_driver import (
    ILLEGAL_ADDRESS,
    INVALID_VALUE,
    LAUNCH_FAILED,
    SOFTWARE,
    Driver,
    Params,
    case,
    main,
)

MIB = 1 << 20
OUT_OF_MEMORY = 2
HEAP = 2  # CU_LIMIT_MALLOC_HEAP_SIZE
UNDEFINED = "what CUDA leaves undefined"

TOP = b""".version 7.0
.target sm_70
.address_size 64
.extern .func (.param .b64 p) malloc(.param .b64 n);
.extern .func free(.param .b64 p);
.extern .func (.param .b64 h) cudaCGGetIntrinsicHandle(.param .b32 scope);
.extern .func (.param .b32 e) cudaCGSynchronize(.param .b64 h, .param .b32 flags);
"""
ASK = (
    "{ .param .b64 n; .param .b64 p; st.param.b64 [n], %d2; "
    "call.uni (p), malloc, (n); ld.param.b64 %d1, [p]; }"
)
GIVE = "{ .param .b64 p; st.param.b64 [p], %d1; call.uni free, (p); }"
MEET = (
    "{ .param .b64 h; .param .b32 f; .param .b32 e; st.param.b64 [h], %d1; "
    "st.param.b32 [f], 0; call.uni (e), cudaCGSynchronize, (h, f); }"
)
HANDLE = (
    "{ .param .b32 s; .param .b64 h; st.param.b32 [s], 1; "
    "call.uni (h), cudaCGGetIntrinsicHandle, (s); ld.param.b64 %d1, [h]; }"
)


def kernel(name: str, body: str) -> bytes:
    """One of `out` and `n`: %p its thread's word of `out`, %i its number, %n the argument."""
    return (
        f".visible .entry {name}(.param .u64 out, .param .u64 n)\n{{\n"
        ".reg .b64 %d<8>; .reg .b64 %p; .reg .b32 %r<8>; .reg .b32 %i; .reg .pred %q<2>;\n"
        "ld.param.u64 %p, [out]; ld.param.u64 %d2, [n];\n"
        "mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ntid.x; mov.u32 %r2, %tid.x;\n"
        "mad.lo.u32 %i, %r0, %r1, %r2; mad.wide.u32 %p, %i, 8, %p;\n"
        f"{body}\nret;\n}}\n"
    ).encode()


KERNELS = TOP + b"".join(
    (
        # a block of n bytes for each thread, with the thread's number in its first word
        kernel(
            "take",
            f"{ASK} st.global.u64 [%p], %d1; setp.ne.u64 %q0, %d1, 0; @%q0 st.u32 [%d1], %i;",
        ),
        kernel("look", "ld.global.u64 %d1, [%p]; ld.u32 %d3, [%d1]; st.global.u64 [%p], %d3;"),
        kernel("give", f"ld.global.u64 %d1, [%p]; {GIVE}"),
        # n times: a block of a size of its own, filled, checked, given back; counts what is wrong
        kernel(
            "churn",
            f"""
    cvt.u32.u64 %r4, %d2;
    mov.u64 %d4, 0;
AGAIN:
    mad.lo.u32 %r5, %i, 7, %r4; and.b32 %r5, %r5, 255; add.u32 %r5, %r5, 1; // words
    mul.wide.u32 %d2, %r5, 4;
    {ASK}
    setp.eq.u64 %q0, %d1, 0; @%q0 bra WRONG;
    mov.u32 %r6, 0; mov.u64 %d3, %d1;
FILL:
    add.u32 %r7, %r6, %i; st.u32 [%d3], %r7; add.u64 %d3, %d3, 4;
    add.u32 %r6, %r6, 1; setp.lt.u32 %q0, %r6, %r5; @%q0 bra FILL;
    mov.u32 %r6, 0; mov.u64 %d3, %d1;
CHECK:
    add.u32 %r7, %r6, %i; ld.u32 %r0, [%d3]; setp.ne.u32 %q1, %r0, %r7; @%q1 add.u64 %d4, %d4, 1;
    add.u64 %d3, %d3, 4; add.u32 %r6, %r6, 1; setp.lt.u32 %q0, %r6, %r5; @%q0 bra CHECK;
    {GIVE}
    bra NEXT;
WRONG:
    add.u64 %d4, %d4, 1000000;
NEXT:
    sub.u32 %r4, %r4, 1; setp.ne.u32 %q0, %r4, 0; @%q0 bra AGAIN;
    st.global.u64 [%p], %d4;""",
        ),
        # n rounds: each thread adds what the next one of the grid has
        kernel(
            "ring",
            f"""
    mov.u32 %r3, %nctaid.x; mul.lo.u32 %r3, %r3, %r1;
    add.u32 %r4, %i, 1; rem.u32 %r4, %r4, %r3;
    ld.param.u64 %d3, [out]; mad.wide.u32 %d3, %r4, 8, %d3;
    cvt.u32.u64 %r5, %d2;
    {HANDLE}
    setp.eq.u64 %q0, %d1, 0; @%q0 bra NONE;
AGAIN:
    ld.global.u64 %d4, [%d3]; ld.global.u64 %d5, [%p]; add.u64 %d4, %d4, %d5;
    {MEET}
    st.global.u64 [%p], %d4;
    {MEET}
    sub.u32 %r5, %r5, 1; setp.ne.u32 %q0, %r5, 0; @%q0 bra AGAIN;
    ret;
NONE:
    st.global.u64 [%p], -1;""",
        ),
        kernel("meet", f"{HANDLE} {MEET} st.global.u64 [%p], 1;"),
        # block 0 does not come
        kernel("most_meet", f"setp.eq.u32 %q0, %r0, 0; @%q0 ret; {HANDLE} {MEET}"),
    )
)


def start(d: Driver, name: str, out: c.c_uint64, n: int, *shape: int) -> None:
    function = d.function(d.module(KERNELS), name)
    d.launch(function, Params(out, c.c_uint64(n)), (shape[0], 1, 1), (shape[1], 1, 1))


def together(d: Driver, name: str, out: c.c_uint64, n: int, *shape: int) -> None:
    params = Params(out, c.c_uint64(n))
    d.keep.append(params)
    function = d.function(d.module(KERNELS), name)
    rest = (shape[0], 1, 1, shape[1], 1, 1, 0, None)
    d.ok("cuLaunchCooperativeKernel", function, *rest, params.array)


def words(d: Driver, count: int) -> c.c_uint64:
    return d.up_now(np.zeros(count, "u8"))


def address_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


@case
def what_kernels_allocate_outlives_them(d: Driver) -> None:
    """Blocks of their own for all threads, which later kernels, of other modules too, read."""
    out = words(d, 256)
    start(d, "take", out, 100, 4, 64)
    at = np.sort(d.down(out, 256, "u8"))
    assert (at % 16 == 0).all()
    assert (np.diff(at) >= 100).all(), "two blocks share bytes"
    more = words(d, 256)
    start(d, "take", more, 100, 4, 64)
    both = np.sort(np.concatenate([at, d.down(more, 256, "u8")]))
    assert (np.diff(both) >= 100).all(), "what an earlier launch has was given again"
    start(d, "look", out, 0, 4, 64)
    np.testing.assert_array_equal(d.down(out, 256, "u8"), np.arange(256))


@case
def a_full_heap_gives_nothing(d: Driver) -> None:
    """And everything again when all is given back, in pieces of another size."""
    d.ok("cuCtxSetLimit", HEAP, c.c_size_t(MIB))
    out = words(d, 64)
    for n in (64 << 10, 24 << 10, 100 << 10):
        start(d, "take", out, n, 2, 32)
        got = d.down(out, 64, "u8")
        count = int((got != 0).sum())
        assert MIB // n // 2 < count <= MIB // n, (n, count)
        if n == 100 << 10:  # the other way round: what lies behind is free already
            out = d.up_now(got[::-1].copy())
        start(d, "give", out, 0, 2, 32)  # of nothing too
    one = words(d, 1)
    for _ in range(2):
        start(d, "take", one, MIB * 3 // 4, 1, 1)
        assert d.down(one, 1, "u8")[0] != 0
        start(d, "give", one, 0, 1, 1)
    for n in (MIB + 1, 1 << 40, 2**64 - 1):
        start(d, "take", one, n, 1, 1)
        assert d.down(one, 1, "u8")[0] == 0
    d.fails(INVALID_VALUE, "cuCtxSetLimit", HEAP, c.c_size_t(2 * MIB))  # too late
    assert limit(d, HEAP) == MIB


@case(only=SOFTWARE, why="takes the software GPU's own memory away")
def a_heap_that_could_not_be_had_may_be_smaller(d: Driver) -> None:
    out = words(d, 1)
    take = d.function(d.module(KERNELS), "take")
    start(d, "ring", out, 1, 1, 1)  # threads begun
    d.ok("cuFuncLoad", take)
    d.ok("cuCtxSetLimit", HEAP, c.c_size_t(2 << 30))
    d.sync()
    params = Params(out, c.c_uint64(64))
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_bytes() + (64 << 20), limits[1]))
    result = d.try_launch(take, params)
    resource.setrlimit(resource.RLIMIT_AS, limits)
    assert result == OUT_OF_MEMORY
    d.ok("cuCtxSetLimit", HEAP, c.c_size_t(MIB))
    d.launch(take, params)
    assert d.down(out, 1, "u8")[0] != 0
    d.fails(INVALID_VALUE, "cuCtxSetLimit", HEAP, c.c_size_t(2 * MIB))  # too late


@case
def blocks_allocate_at_the_same_time(d: Driver) -> None:
    out = words(d, 1024)
    start(d, "churn", out, 40, 16, 64)
    assert not d.down(out, 1024, "u8").any()
    start(d, "take", out, 7 * MIB, 1, 1)
    assert d.down(out, 1, "u8")[0] != 0, "what was given back is in pieces"


@case
def the_heap_is_the_contexts(d: Driver) -> None:
    """Paid for with the limit, gone with the context, and another one's is its own."""
    d.ok("cuCtxSetLimit", HEAP, c.c_size_t(4 * MIB))
    out, before = words(d, 1), d.free_bytes()
    start(d, "take", out, 3 * MIB, 1, 1)
    d.sync()
    module = d.free_bytes()
    other = d.handle("cuCtxCreate_v2", 0, d.device)
    with_two = d.free_bytes()
    d.ok("cuCtxSetLimit", HEAP, c.c_size_t(40 * MIB))
    assert with_two - d.free_bytes() == 32 * MIB
    mine = words(d, 1)
    with_word = d.free_bytes()
    start(d, "take", mine, 30 * MIB, 1, 1)
    assert d.down(mine, 1, "u8")[0] != 0
    assert with_word - d.free_bytes() <= 2 * MIB  # the module at most
    d.ok("cuCtxDestroy_v2", other)
    d.ok("cuCtxSetCurrent", d.ctx)
    assert d.free_bytes() == module
    assert before - module <= 2 * MIB
    start(d, "take", out, 3 * MIB, 1, 1)
    assert d.down(out, 1, "u8")[0] == 0, "the first is still there"


@case
def no_call_knows_the_heap(d: Driver) -> None:
    out = words(d, 1)
    start(d, "take", out, 4096, 1, 1)
    at = c.c_uint64(int(d.down(out, 1, "u8")[0]))
    room = np.zeros(64, "u8")
    d.fails(INVALID_VALUE, "cuMemcpyDtoH_v2", room.ctypes.data_as(c.c_void_p), at, c.c_size_t(64))
    d.fails(INVALID_VALUE, "cuMemcpyHtoD_v2", at, room.ctypes.data_as(c.c_void_p), c.c_size_t(64))
    d.fails(INVALID_VALUE, "cuMemFree_v2", at)


@case(only=SOFTWARE, why=UNDEFINED)
def what_malloc_did_not_give_is_not_freed(d: Driver) -> None:
    out = words(d, 1)
    start(d, "take", out, 4096, 1, 1)
    d.down(out, 1, "u8")
    start(d, "give", out, 0, 1, 1)
    d.sync()
    start(d, "give", out, 0, 1, 1)  # twice
    d.fails(ILLEGAL_ADDRESS, "cuCtxSynchronize")


@case(only=SOFTWARE, why=UNDEFINED)
def the_middle_of_a_block_is_not_freed(d: Driver) -> None:
    out = words(d, 1)
    start(d, "take", out, 4096, 1, 1)
    middle = d.up_now(d.down(out, 1, "u8") + 1024)
    start(d, "give", middle, 0, 1, 1)
    d.fails(ILLEGAL_ADDRESS, "cuCtxSynchronize")


@case
def grids_meet(d: Driver) -> None:
    """Every thread of every block is there before one goes on, round after round."""
    blocks, threads, rounds = 48, 40, 5
    data = np.arange(blocks * threads, dtype="u8")
    out = d.up_now(data)
    together(d, "ring", out, rounds, blocks, threads)
    for _ in range(rounds):
        data = data + np.roll(data, -1)
    np.testing.assert_array_equal(d.down(out, len(data), "u8"), data)
    together(d, "ring", out, 1, 1, threads)  # one block is a grid, too
    first = data[:threads]
    np.testing.assert_array_equal(d.down(out, threads, "u8"), first + np.roll(first, -1))


@case
def a_launch_that_is_not_cooperative_has_no_handle(d: Driver) -> None:
    out = words(d, 64)
    start(d, "ring", out, 3, 2, 32)
    assert (d.down(out, 64, "u8") == 2**64 - 1).all()


@case(only=SOFTWARE, why=UNDEFINED)
def who_meets_without_a_handle_is_stopped(d: Driver) -> None:
    start(d, "meet", words(d, 64), 0, 2, 32)
    d.fails(LAUNCH_FAILED, "cuCtxSynchronize")


@case(only=SOFTWARE, why=UNDEFINED)
def a_grid_that_cannot_meet_is_stopped(d: Driver) -> None:
    """A block has ended that the others wait for."""
    together(d, "most_meet", words(d, 256), 0, 8, 32)
    d.fails(LAUNCH_FAILED, "cuCtxSynchronize")


if __name__ == "__main__":
    main()
