# SPDX-License-Identifier: Apache-2.0
"""Cases of blocks that wait for each other: in loops of their own, and at the grid's barrier."""

from __future__ import annotations

import ctypes as c
import resource
import time
from itertools import pairwise
from pathlib import Path

from soft_mod_cases_runtime import HANDLE, MEET, TOP, UNDEFINED, address_bytes, kernel, words
from soft_mod_driver import (
    ILLEGAL_ADDRESS,
    OUT_OF_RESOURCES,
    SOFTWARE,
    Driver,
    Params,
    case,
    main,
)

FALLS = 6
LOOK = b"""
.func (.param .b32 v) look_at(.param .b64 a)
{
    .reg .b32 %r0; .reg .b64 %d0;
    ld.param.b64 %d0, [a]; ld.volatile.global.u32 %r0, [%d0]; st.param.b32 [v], %r0;
    ret;
}
"""
KERNELS = (
    TOP
    + LOOK
    + b"".join(
        (
            # all blocks arrive at out[0], and look by exchanging n for n whether the others have
            kernel(
                "arrive",
                """
    setp.ne.u32 %q0, %r2, 0; @%q0 ret;
    ld.param.u64 %d3, [out]; cvt.u32.u64 %r5, %d2;
    atom.global.add.u32 %r4, [%d3], 1;
WAIT:
    atom.global.cas.b32 %r4, [%d3], %r5, %r5; setp.ne.u32 %q1, %r4, %r5; @%q1 bra WAIT;
    st.global.u32 [%p+4], 1;""",
            ),
            # the same, with much local memory
            kernel(
                "arrive_large",
                """
    .local .align 8 .b8 large[32768];
    ld.param.u64 %d3, [out]; cvt.u32.u64 %r5, %d2;
    st.local.u32 [large], %r5; ld.local.u32 %r6, [large+4];
    atom.global.add.u32 %r4, [%d3], 1;
WAIT:
    atom.global.cas.b32 %r4, [%d3], %r5, %r5; setp.ne.u32 %q1, %r4, %r5; @%q1 bra WAIT;""",
            ),
            # they look by calling
            kernel(
                "ask",
                """
    setp.ne.u32 %q0, %r2, 0; @%q0 ret;
    ld.param.u64 %d3, [out]; cvt.u32.u64 %r5, %d2;
    atom.global.add.u32 %r4, [%d3], 1;
WAIT:
    { .param .b64 a; .param .b32 v; st.param.b64 [a], %d3;
    call.uni (v), look_at, (a); ld.param.b32 %r4, [v]; }
    setp.ne.u32 %q1, %r4, %r5; @%q1 bra WAIT;
    st.global.u32 [%p+4], 1;""",
            ),
            # block 0 comes when the host, at n, says so
            kernel(
                "late",
                f"""
    setp.ne.u32 %q0, %r0, 0; @%q0 bra HERE;
WAIT:
    ld.volatile.global.u32 %r4, [%d2]; setp.eq.u32 %q1, %r4, 0; @%q1 bra WAIT;
HERE:
    {HANDLE} {MEET} st.global.u64 [%p], 1;""",
            ),
            # block 0 writes to where nothing is when all others, n, are there
            kernel(
                "fall",
                f"""
    ld.param.u64 %d3, [out]; setp.eq.u32 %q0, %r0, 0; @%q0 bra WAIT;
    atom.global.add.u32 %r4, [%d3], 1;
    {HANDLE} {MEET} ret;
WAIT:
    ld.volatile.global.u32 %r4, [%d3]; cvt.u64.u32 %d4, %r4; setp.ne.u64 %q1, %d4, %d2;
    @%q1 bra WAIT;
    st.global.u32 [8], 1;""",
            ),
        )
    )
)


def start(d: Driver, name: str, out: c.c_uint64, n: int, *shape: int) -> None:
    function = d.function(d.module(KERNELS), name)
    d.launch(function, Params(out, c.c_uint64(n)), (shape[0], 1, 1), (shape[1], 1, 1))


def together(d: Driver, name: str, out: c.c_uint64, n: int, blocks: int) -> None:
    params = Params(out, c.c_uint64(n))
    d.keep.append(params)
    function = d.function(d.module(KERNELS), name)
    d.ok("cuLaunchCooperativeKernel", function, blocks, 1, 1, 1, 1, 1, 0, None, params.array)


@case
def blocks_that_wait_are_joined_by_those_they_wait_for(d: Driver) -> None:
    """However they look at memory, and in a plain launch: its blocks are all resident."""
    for name in ("arrive", "ask"):
        for blocks in (3, 96):
            out = words(d, blocks * 32)
            start(d, name, out, blocks, blocks, 32)
            got = d.down(out, blocks * 32 * 2, "u4")
            assert got[0] == blocks
            assert (got[1::64] == 1).all()


@case(only=SOFTWARE, why="takes the software GPU's own memory away", env={"HARP_SOFT_WORKERS": "2"})
def a_block_that_others_wait_for_and_that_has_no_memory_fails(d: Driver) -> None:
    """Else they would wait for ever."""
    blocks, threads = 16, 1024
    out = words(d, blocks * threads)
    start(d, "arrive_large", out, threads, 1, threads)  # compiled, threads begun
    d.ok("cuMemsetD8_v2", out, 0, c.c_size_t(8))
    d.sync()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_bytes() + (160 << 20), limits[1]))
    start(d, "arrive_large", out, threads * blocks, blocks, threads)
    result = d.call("cuCtxSynchronize")
    resource.setrlimit(resource.RLIMIT_AS, limits)
    assert result == OUT_OF_RESOURCES


def threads() -> set[Path]:
    return set(Path("/proc/self/task").iterdir())


def sleeps(of: set[Path]) -> int:
    """How often these threads have gone to sleep."""
    texts = [(task / "status").read_text() for task in of]
    return sum(int(text.split("\nvoluntary_ctxt_switches:")[1].split()[0]) for text in texts)


@case(only=SOFTWARE, why="looks at the software GPU's threads")
def a_grid_that_waits_sleeps(d: Driver) -> None:
    """One of its threads looks now and then whether the launch was given up, not each."""
    blocks, host, flag = 200, c.c_void_p(), c.c_uint64()
    d.ok("cuMemHostAlloc", c.byref(host), c.c_size_t(4096), 2)
    word = c.c_uint32.from_address(host.value or 0)
    word.value = 0
    d.ok("cuMemHostGetDevicePointer_v2", c.byref(flag), host, 0)
    out, others = words(d, blocks), threads()
    together(d, "late", out, flag.value, blocks)
    while len(those := threads() - others) < blocks - 1:
        time.sleep(0.01)
    counts = [sleeps(those)]
    for _ in range(4):
        time.sleep(0.2)
        counts.append(sleeps(those))
    word.value = 1
    assert (d.down(out, blocks, "u8") == 1).all()
    # in the first they may be on their way to the barrier; 50 looks a second each were 2000
    assert min(after - before for before, after in pairwise(counts)) < blocks, counts


@case(only=SOFTWARE, why=UNDEFINED)
def what_stops_a_block_is_told_not_that_others_wait_for_it(d: Driver) -> None:
    for _ in range(FALLS):
        d.apart(falls)


def falls(d: Driver) -> None:
    together(d, "fall", words(d, 256), 63, 64)
    d.fails(ILLEGAL_ADDRESS, "cuCtxSynchronize")


if __name__ == "__main__":
    main()
