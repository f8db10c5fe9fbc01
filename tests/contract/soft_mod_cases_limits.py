# SPDX-License-Identifier: Apache-2.0
"""Cases of settings of contexts and streams: limits, the printf FIFO, priorities, attributes."""

from __future__ import annotations

import ctypes as c
import os
import tempfile
import time

from soft_mod_cases_context import limit
from soft_mod_driver import (
    INVALID_VALUE,
    UNSUPPORTED_LIMIT,
    Driver,
    Params,
    case,
    main,
    np,
)


@case(devices="a100-40g")
def limits_are_rounded_clamped_or_refused(d: Driver) -> None:
    assert [limit(d, i) for i in range(7)] == [1024, 1 << 20, 8 << 20, 2, 2048, 64, 0]
    for which, asked, told in (
        (0, 1000, 1008),
        (0, 8 << 10, 8 << 10),
        (1, 1, 4096),
        (1, 1 << 22, 1 << 22),
        (2, (1 << 20) + 1, (1 << 20) + 4096),
        (3, 24, 24),
        (4, 4096, 4096),
        (5, 128, 128),
        (6, 1 << 20, 0),
    ):
        d.ok("cuCtxSetLimit", which, c.c_size_t(asked))
        assert limit(d, which) == told, (which, asked)
    for which, asked in ((3, 25), (5, 129)):
        d.fails(INVALID_VALUE, "cuCtxSetLimit", which, c.c_size_t(asked))
    for which in (7, 8, 9, 10, -1):
        d.fails(UNSUPPORTED_LIMIT, "cuCtxSetLimit", which, c.c_size_t(1))
        d.fails(UNSUPPORTED_LIMIT, "cuCtxGetLimit", c.byref(c.c_size_t()), which)
    d.handle("cuCtxCreate_v2", 0, d.device)
    assert limit(d, 0) == 1024  # each context has its own


@case
def stacks_have_a_most(d: Driver) -> None:
    # a stack for every thread that can be resident: more than there is
    d.fails(2, "cuCtxSetLimit", 0, c.c_size_t(512 << 10))
    d.fails(INVALID_VALUE, "cuCtxSetLimit", 0, c.c_size_t((512 << 10) + 1))
    assert limit(d, 0) == 1024


FRAME = b"""
.version 7.0
.target sm_75
.address_size 64
.visible .entry deep(.param .u64 out, .param .u32 at)
{
    .local .align 16 .b8 frame[16384];
    .reg .b32 %r<3>;
    .reg .b64 %d<4>;
    ld.param.u64 %d1, [out];
    ld.param.u32 %r1, [at];
    mov.u64 %d2, frame;
    cvt.u64.u32 %d3, %r1;
    add.s64 %d2, %d2, %d3;
    st.local.u32 [%d2], %r1;
    ld.local.u32 %r2, [%d2];
    st.global.u32 [%d1], %r2;
    ret;
}
"""


@case
def launches_take_local_memory(d: Driver) -> None:
    """Of all threads that can be resident, beyond the stack they have; as seen on an H200."""
    out, sms, threads = d.alloc(4), c.c_int(), c.c_int()
    d.ok("cuDeviceGetAttribute", c.byref(sms), 16, d.device)
    d.ok("cuDeviceGetAttribute", c.byref(threads), 39, d.device)
    deep = d.function(d.module(FRAME), "deep")
    before, granule = d.free_bytes(), 2 << 20
    takes = (sms.value * threads.value * (16384 - limit(d, 0)) + granule - 1) // granule * granule
    for launches in (1, 2):  # the second finds it there
        d.launch(deep, Params(out, c.c_uint32(64)))
        d.sync()
        assert before - d.free_bytes() == takes, launches
    assert d.down(out, 1, "u4")[0] == 64
    d.ok("cuCtxSetLimit", 0, c.c_size_t(16384))
    assert before - d.free_bytes() == takes
    d.ok("cuCtxSetLimit", 0, c.c_size_t(1024))
    assert d.free_bytes() == before
    rest = d.alloc(before - takes + granule)  # now it does not fit
    assert d.try_launch(deep, Params(out, c.c_uint32(0))) == 2
    d.ok("cuMemFree_v2", rest)
    d.launch(deep, Params(out, c.c_uint32(0)))
    d.sync()


@case
def limits_take_device_memory(d: Driver) -> None:
    before = d.free_bytes()
    d.ok("cuCtxSetLimit", 2, c.c_size_t((8 << 20) + (64 << 20)))  # the heap
    assert before - d.free_bytes() == 64 << 20
    d.ok("cuCtxSetLimit", 2, c.c_size_t(1 << 20))  # less than a context has anyway
    assert d.free_bytes() == before
    extra = d.handle("cuCtxCreate_v2", 0, d.device)
    with_two = d.free_bytes()
    d.ok("cuCtxSetLimit", 1, c.c_size_t(33 << 20))  # what kernels print
    assert with_two - d.free_bytes() == 32 << 20
    d.ok("cuCtxDestroy_v2", extra)
    d.ok("cuCtxSetCurrent", d.ctx)
    assert d.free_bytes() == before


PRINTS = b""".version 8.0
.target sm_75
.address_size 64
.extern .func (.param .b32 r) vprintf (.param .b64 f, .param .b64 a);
.global .align 1 .b8 text[6] = {120, 61, 37, 100, 10, 0};
.visible .entry say(.param .u32 what)
{
    .reg .b32 %r<2>;
    .reg .b64 %d<3>;
    .local .align 8 .b8 args[8];
    ld.param.u32 %r0, [what];
    mov.u64 %d1, args;
    cvta.local.u64 %d1, %d1;
    st.local.u32 [args], %r0;
    mov.u64 %d2, text;
    cvta.global.u64 %d2, %d2;
    { .param .b64 f; .param .b64 a; .param .b32 o; st.param.b64 [f], %d2; st.param.b64 [a], %d1;
    call.uni (o), vprintf, (f, a); ld.param.b32 %r1, [o]; }
    ret;
}
"""


@case
def what_kernels_print_waits_in_the_fifo(d: Driver) -> None:
    """Shown at synchronisation and the like; when it is full the oldest is lost."""
    libc = c.CDLL(None)
    with tempfile.TemporaryFile() as file:
        libc.fflush(None)
        before = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            d.ok("cuCtxSetLimit", 1, c.c_size_t(4096))
            say, stream = d.function(d.module(PRINTS), "say"), d.stream()

            def shown() -> list[bytes]:
                libc.fflush(None)
                return os.pread(file.fileno(), 1 << 20, 0).split()

            done = d.event()
            d.launch(say, Params(c.c_uint32(1)), stream=stream)
            d.fails(INVALID_VALUE, "cuCtxSetLimit", 1, c.c_size_t(8192))  # too late
            d.ok("cuEventRecord", done, stream)
            while d.counters()["say"].launches == 0:
                time.sleep(0.01)
            time.sleep(0.05)
            assert shown() == []  # printed, and not shown yet
            d.ok("cuEventSynchronize", done)
            assert shown() == [b"x=1"]
            for i in range(2):
                d.launch(say, Params(c.c_uint32(2 + i)), stream=stream)
            d.ok("cuStreamSynchronize", stream)
            assert shown() == [b"x=1", b"x=2", b"x=3"]
            d.launch(d.function(d.module(), "nap"), Params(c.c_uint32(20)), stream=stream)
            d.launch(say, Params(c.c_uint32(7)), (1000, 1, 1), stream=stream)
            d.ok("cuStreamSynchronize", stream)
            many = shown()[3:]
            assert 100 < len(many) < 1000, len(many)
            assert set(many) == {b"x=7"}
        finally:
            os.dup2(before, 1)


@case(devices="h100-80g")
def kernels_of_hopper_do_not_synchronise(d: Driver) -> None:
    d.fails(UNSUPPORTED_LIMIT, "cuCtxGetLimit", c.byref(c.c_size_t()), 3)
    d.fails(UNSUPPORTED_LIMIT, "cuCtxSetLimit", 3, c.c_size_t(2))


@case
def priorities_are_clamped(d: Driver) -> None:
    least, greatest, told = c.c_int(), c.c_int(), c.c_int()
    d.ok("cuCtxGetStreamPriorityRange", c.byref(least), c.byref(greatest))
    assert (least.value, greatest.value) == (0, -5)
    for asked, expected in ((3, 0), (0, 0), (-2, -2), (-99, -5)):
        stream = d.handle("cuStreamCreateWithPriority", 1, asked)
        d.ok("cuStreamGetPriority", stream, c.byref(told))
        assert told.value == expected


@case
def what_waits_goes_by_priority(d: Driver) -> None:
    """Kernels that fill the device wait for each other: the urgent ones go first."""
    nap = d.function(d.module(), "nap")
    grid = (132 * 64, 1, 1)
    low = d.handle("cuStreamCreateWithPriority", 1, 0)
    high = d.handle("cuStreamCreateWithPriority", 1, -5)
    begin, after_low, after_high = d.event(), d.event(), d.event()
    d.ok("cuEventRecord", begin, low)
    for _ in range(12):
        d.launch(nap, Params(c.c_uint32(5)), grid, stream=low)
    d.ok("cuEventRecord", after_low, low)
    for _ in range(12):
        d.launch(nap, Params(c.c_uint32(5)), grid, stream=high)
    d.ok("cuEventRecord", after_high, high)
    d.sync()
    low_ms = d.elapsed_ms(begin, after_low)
    high_ms = d.elapsed_ms(begin, after_high)
    # 24 kernels in a row: without priorities the two streams take turns and end together; with
    # them the urgent twelve are through at half time, however late this thread was
    assert high_ms < 0.75 * low_ms, (high_ms, low_ms)
    assert low_ms >= 24 * 5


@case
def stream_attributes_are_kept_and_copied(d: Driver) -> None:
    one, two = d.stream(), d.stream()
    value = (c.c_uint * 16)()
    window, policy, priority, domains, domain = 1, 3, 8, 9, 10

    def told(stream: c.c_void_p, which: int) -> int:
        d.ok("cuStreamGetAttribute", stream, which, value)
        return value[0]

    assert (told(one, policy), told(one, priority), told(one, domain)) == (1, 0, 0)
    value[0] = 4
    d.ok("cuStreamSetAttribute", one, policy, value)
    value[0] = 5
    d.fails(INVALID_VALUE, "cuStreamSetAttribute", one, policy, value)
    d.fails(INVALID_VALUE, "cuStreamSetAttribute", one, 2, value)
    d.fails(INVALID_VALUE, "cuStreamGetAttribute", one, 4, value)
    value[0] = 1
    d.ok("cuStreamSetAttribute", one, domain, value)
    value[0] = 0x0100
    d.fails(INVALID_VALUE, "cuStreamSetAttribute", one, domains, value)
    value[0] = c.c_uint(-3).value
    d.ok("cuStreamSetAttribute", one, priority, value)
    real = c.c_int()
    d.ok("cuStreamGetPriority", one, c.byref(real))
    assert real.value == -3
    data = bytearray(64)
    np.frombuffer(data, "u8")[:2] = (d.alloc(4096).value, 4096)
    np.frombuffer(data, "f4")[4] = 0.5
    raw = (c.c_char * 64).from_buffer(data)
    d.ok("cuStreamSetAttribute", one, window, raw)
    np.frombuffer(data, "f4")[4] = 1.5
    d.fails(INVALID_VALUE, "cuStreamSetAttribute", one, window, raw)
    d.ok("cuStreamCopyAttributes", two, one)
    assert (told(two, policy), told(two, domain), told(two, priority)) == (4, 1, 0)
    d.ok("cuStreamGetAttribute", two, window, value)
    assert np.frombuffer(bytes(value), "f4")[4] == 0.5
    d.handle("cuCtxCreate_v2", 0, d.device)
    d.fails(INVALID_VALUE, "cuStreamCopyAttributes", d.stream(), one)


if __name__ == "__main__":
    main()
