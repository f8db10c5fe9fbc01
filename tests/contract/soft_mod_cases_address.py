# SPDX-License-Identifier: Apache-2.0
"""Cases of addresses a kernel must not use: sticky 700, nobody else harmed, never a crash.

Granule rule: a device maps pages of 2 MiB, so an access past the end of an allocation but within
its last page is not caught, here as on hardware; compute-sanitizer's job is nobody's here.
"""

from __future__ import annotations

import contextlib
import ctypes as c
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

from soft_mod_driver import (
    ILLEGAL_ADDRESS,
    INVALID_VALUE,
    NOT_FOUND,
    SOFTWARE,
    Copy3D,
    Driver,
    Params,
    case,
    main,
    np,
)

PAGE = 2 << 20
HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"
WILD = 0x1230_0000_0000
#: instruction by kernel; %d0 is the address, %d1 = 16, %r0 = 0
ACCESSES = {
    "load8": "ld.global.u8 %r1, [%d0];",
    "load32": "ld.global.u32 %r1, [%d0];",
    "load64": "ld.global.u64 %d2, [%d0];",
    "load_v2": "ld.global.v2.u64 {%d2, %d3}, [%d0];",
    "load_v4": "ld.global.v4.f32 {%f0, %f1, %f2, %f3}, [%d0];",
    "load_volatile": "ld.volatile.global.u32 %r1, [%d0];",
    "load_nc": "ld.global.nc.u32 %r1, [%d0];",
    "load_acquire": "ld.acquire.gpu.global.u32 %r1, [%d0];",
    "load_generic": "ld.u32 %r1, [%d0];",
    "store8": "st.global.u8 [%d0], %r0;",
    "store32": "st.global.u32 [%d0], %r0;",
    "store64": "st.global.u64 [%d0], %d1;",
    "store_v2": "st.global.v2.u32 [%d0], {%r0, %r0};",
    "store_v4": "st.global.v4.u32 [%d0], {%r0, %r0, %r0, %r0};",
    "store_release": "st.release.sys.global.u32 [%d0], %r0;",
    "store_generic": "st.u32 [%d0], %r0;",
    "atom_add": "atom.global.add.u32 %r1, [%d0], 1;",
    "atom_cas": "atom.global.cas.b64 %d2, [%d0], %d1, %d1;",
    "atom_generic": "atom.exch.b32 %r1, [%d0], 1;",
    "red_max": "red.global.max.s32 [%d0], %r0;",
    "red_f32": "red.global.add.f32 [%d0], 0f3F800000;",
    "copy_async": "cp.async.ca.shared.global [tile], [%d0], 16;",
}
#: the same by the windows of shared and local memory; %d0 is an offset
WINDOWS = {
    "shared_load": "ld.shared.u32 %r1, [%d0];",
    "shared_store": "st.shared.u32 [%d0], %r0;",
    "shared_atomic": "atom.shared.add.u32 %r1, [%d0], 1;",
    "local_load": "ld.local.u32 %r1, [%d0];",
    "local_store": "st.local.u32 [%d0], %r0;",
    "generic_shared_load": "cvta.shared.u64 %d2, %d0;\nld.u32 %r1, [%d2];",
    "generic_shared_store": "cvta.shared.u64 %d2, %d0;\nst.u32 [%d2], %r0;",
    "generic_local_load": "cvta.local.u64 %d2, %d0;\nld.u32 %r1, [%d2];",
    "generic_local_store": "cvta.local.u64 %d2, %d0;\nst.u32 [%d2], %r0;",
}


def ptx() -> bytes:
    text = HEAD
    for name, body in (ACCESSES | WINDOWS).items():
        text += f"""
.visible .entry {name}(.param .u64 address)
{{
.shared .align 16 .b8 tile[64];
.local .align 16 .b8 mine[64];
.reg .b64 %d<4>; .reg .b32 %r<2>; .reg .f32 %f<4>;
ld.param.u64 %d0, [address];
mov.u64 %d1, 16;
mov.u32 %r0, 0;
st.shared.u32 [tile], %r0;
st.local.u32 [mine], %r0;
{body}
ret;
}}
"""
    return text.encode()


PTX = ptx()


def faults(d: Driver, name: str, address: int) -> None:
    """The access ends in 700, and so does all that follows in this process."""
    stream, event, kept = d.stream(), d.event(), d.alloc(64)
    d.launch(d.function(d.module(PTX), name), Params(c.c_uint64(address)), stream=stream)
    # Some calls may come too early to see it; the one that waits for the kernel may not.
    result = d.call("cuStreamSynchronize", stream)
    assert result == ILLEGAL_ADDRESS, (name, hex(address), result)
    data = (c.c_char * 64)()
    for call in (
        ("cuCtxSynchronize",),
        ("cuStreamQuery", stream),
        ("cuStreamSynchronize", stream),
        ("cuEventRecord", event, stream),
        ("cuMemAlloc_v2", c.byref(c.c_uint64()), c.c_size_t(64)),
        ("cuMemcpyDtoH_v2", data, kept, c.c_size_t(64)),
        ("cuMemcpyHtoD_v2", kept, data, c.c_size_t(64)),
        ("cuMemsetD8_v2", kept, 0, c.c_size_t(64)),
        ("cuModuleLoadData", c.byref(c.c_void_p()), PTX),
    ):
        result = d.call(*call)
        assert result == ILLEGAL_ADDRESS, (name, hex(address), call[0], result)
    d.ok("cuCtxDestroy_v2", d.ctx)
    d.fails(ILLEGAL_ADDRESS, "cuCtxCreate_v2", c.byref(c.c_void_p()), 0, d.device)


@case
def every_access_to_nowhere_is_sticky(d: Driver) -> None:
    for name in ACCESSES:
        d.apart(faults, name, WILD)
    d.start()
    a = d.up(np.zeros(8, "u4"))
    d.launch(d.function(d.module(PTX), "atom_add"), Params(a))
    d.sync()
    assert d.down(a, 1, "u4")[0] == 1


@case
def every_kind_of_bad_address_is_sticky(d: Driver) -> None:
    plain = c.create_string_buffer(4096)
    last = 2**64 - 16
    for address in (0, 16, 0x7FFF_0000, c.addressof(plain) & ~15, 1 << 47, 1 << 63, last):
        for name in ("load32", "store_v4", "atom_generic"):
            d.apart(faults, name, address)


@case
def windows_of_shared_and_local_memory_have_ends(d: Driver) -> None:
    for name in WINDOWS:
        for offset in (0xFFFFF0, 0x8000_0000):
            d.apart(faults, name, offset)


@case(only=SOFTWARE, why="a device forms 32-bit shared and local addresses")
def windows_of_shared_and_local_memory_have_beginnings(d: Driver) -> None:
    for name in WINDOWS:
        d.apart(faults, name, 2**64 - 4)


def uses_freed(d: Driver, name: str) -> None:
    gone = d.alloc(4 * PAGE)
    d.ok("cuMemFree_v2", gone)
    faults(d, name, gone.value + PAGE)


@case
def freed_memory_is_illegal(d: Driver) -> None:
    for name in ("load32", "store32", "atom_add"):
        d.apart(uses_freed, name)


@case(only=SOFTWARE, why="what lies behind an allocation on a device is the driver's affair")
def the_page_behind_an_allocation_is_illegal_and_its_own_rest_is_not(d: Driver) -> None:
    """The granule rule: see above."""
    d.alloc(64)  # what `faults` allocates lies here, not behind
    size = 3 * PAGE + PAGE // 2
    held = d.alloc(size)
    store = d.function(d.module(PTX), "store32")
    d.launch(store, Params(c.c_uint64(held.value + size - 4)))
    d.launch(store, Params(c.c_uint64(held.value + size)))
    d.sync()
    behind = held.value + 4 * PAGE
    d.fails(NOT_FOUND, "cuMemGetAddressRange_v2", None, None, c.c_uint64(behind))
    faults(d, "store32", behind)


def uses_another_contexts(d: Driver, name: str) -> None:
    theirs = d.up(np.arange(16, dtype="u4"))
    d.sync()
    d.ctx = d.handle("cuCtxCreate_v2", 0, d.device)
    faults(d, name, theirs.value)


@case
def memory_of_another_context_is_illegal(d: Driver) -> None:
    for name in ("load32", "store32", "atom_add"):
        d.apart(uses_another_contexts, name)


@case
def host_memory_is_a_kernels_while_it_is_registered(d: Driver) -> None:
    room = c.create_string_buffer(3 * 4096)
    page = (c.addressof(room) + 4095) & ~4095
    word = c.c_uint32.from_address(page)
    d.ok("cuMemHostRegister_v2", c.c_void_p(page), c.c_size_t(4096), 2)
    seen = c.c_uint64()
    d.ok("cuMemHostGetDevicePointer_v2", c.byref(seen), c.c_void_p(page), 0)
    d.launch(d.function(d.module(PTX), "atom_generic"), Params(seen))
    d.sync()
    assert word.value == 1
    d.ok("cuMemHostUnregister", c.c_void_p(page))
    faults(d, "store32", seen.value)
    assert word.value == 1


@case
def pinned_memory_ends_where_it_ends(d: Driver) -> None:
    pinned = c.c_void_p()
    d.ok("cuMemAllocHost_v2", c.byref(pinned), c.c_size_t(PAGE))
    assert pinned.value is not None
    d.launch(d.function(d.module(PTX), "store64"), Params(c.c_uint64(pinned.value + PAGE - 8)))
    d.sync()
    assert c.c_uint64.from_address(pinned.value + PAGE - 8).value == 16
    d.ok("cuMemFreeHost", pinned)
    faults(d, "store64", pinned.value + PAGE - 8)


CHILD = """
import ctypes as c, sys
cu = c.CDLL("libcuda.so.1")
ctx, p = c.c_void_p(), c.c_uint64()
assert cu.cuInit(0) == 0 and cu.cuCtxCreate_v2(c.byref(ctx), 0, 0) == 0
assert cu.cuMemAlloc_v2(c.byref(p), c.c_size_t(64)) == 0
assert cu.cuMemsetD8_v2(p, 7, c.c_size_t(64)) == 0
print("ready", flush=True)
sys.stdin.readline()
data = (c.c_ubyte * 64)()
assert cu.cuMemcpyDtoH_v2(data, p, c.c_size_t(64)) == 0 and set(data) == {7}
assert cu.cuCtxSynchronize() == 0
print("well", flush=True)
"""


@contextlib.contextmanager
def child(code: str) -> Iterator[subprocess.Popen[str]]:
    """Another process on the same device."""
    command = [sys.executable, "-B", "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline().strip()


@case
def another_process_goes_on_and_another_context_does_not(d: Driver) -> None:
    with child(CHILD) as process:
        assert line(process.stdout) == "ready"
        d.up(np.arange(4, dtype="u4"))
        first = d.ctx
        d.ctx = d.handle("cuCtxCreate_v2", 0, d.device)
        faults(d, "store32", WILD)
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert line(process.stdout) == "well"
        assert process.wait(30) == 0
        d.ok("cuCtxSetCurrent", first)
        d.fails(ILLEGAL_ADDRESS, "cuCtxSynchronize")


@case
def a_host_that_uses_a_device_pointer_dies_of_it_alone(d: Driver) -> None:
    """The client's own SIGSEGV, as on hardware."""
    code = CHILD.split('print("ready"', maxsplit=1)[0] + "c.c_uint.from_address(p.value).value\n"
    with child(code) as process:
        assert process.wait(60) == -signal.SIGSEGV
    d.launch(d.function(d.module(PTX), "store32"), Params(d.alloc(4)))
    d.sync()


@case
def copies_and_fills_out_of_range_are_refused_at_the_call(d: Driver) -> None:
    size = 3 * PAGE
    held, other = d.alloc(size), d.alloc(size)
    gone = d.alloc(size)
    d.ok("cuMemFree_v2", gone)
    host = c.create_string_buffer(size)
    stream = d.stream()
    n, over = c.c_size_t(PAGE), c.c_size_t(size + 1)
    late = c.c_uint64(held.value + size - PAGE + 1)
    end = c.c_uint64(max(held.value, other.value) + size)
    wild, null = c.c_uint64(WILD), c.c_uint64(0)
    for bad in (late, end, gone, wild, null):
        d.fails(INVALID_VALUE, "cuMemcpyHtoD_v2", bad, host, n)
        d.fails(INVALID_VALUE, "cuMemcpyDtoH_v2", host, bad, n)
        d.fails(INVALID_VALUE, "cuMemcpyDtoD_v2", bad, other, n)
        d.fails(INVALID_VALUE, "cuMemcpyDtoD_v2", other, bad, n)
        d.fails(INVALID_VALUE, "cuMemcpyHtoDAsync_v2", bad, host, n, stream)
        d.fails(INVALID_VALUE, "cuMemcpyDtoHAsync_v2", host, bad, n, stream)
        d.fails(INVALID_VALUE, "cuMemcpyDtoDAsync_v2", bad, other, n, stream)
        d.fails(INVALID_VALUE, "cuMemsetD8_v2", bad, 1, n)
        d.fails(INVALID_VALUE, "cuMemsetD8Async", bad, 1, n, stream)
        d.fails(INVALID_VALUE, "cuMemsetD2D8_v2", bad, n, 1, n, c.c_size_t(1))
    d.fails(INVALID_VALUE, "cuMemcpyHtoD_v2", held, host, over)
    d.fails(INVALID_VALUE, "cuMemsetD32_v2", held, 1, c.c_size_t(size // 4 + 1))
    d.fails(INVALID_VALUE, "cuMemsetD8_v2", held, 1, c.c_size_t(2**64 - 1))
    rows = (held, c.c_size_t(PAGE), 1, c.c_size_t(16))
    d.fails(INVALID_VALUE, "cuMemsetD2D8_v2", *rows, c.c_size_t(4))
    block = Copy3D(
        src_type=2,
        src_device=held.value,
        src_pitch=PAGE,
        src_height=1,
        dst_type=2,
        dst_device=other.value,
        dst_pitch=PAGE,
        dst_height=1,
        width=PAGE,
        height=1,
        depth=4,
    )
    d.fails(INVALID_VALUE, "cuMemcpy3D_v2", c.byref(block))
    block.depth = 3
    d.ok("cuMemcpy3D_v2", c.byref(block))
    # no harm done: the context works
    d.ok("cuMemsetD8_v2", held, 5, c.c_size_t(size))
    assert (d.down(held, size, "u1") == 5).all()
    d.sync()


@case(only=SOFTWARE, why="reads the software GPU's log")
def the_log_names_kernel_instruction_and_address(d: Driver) -> None:
    """How a client learns the address: HARP_SOFT_VERBOSE. CUDA's API does not tell it."""
    lines = PTX.decode().splitlines()
    told = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)  # HARP_SOFT_VERBOSE=1
        try:
            for at, name in enumerate(ACCESSES):
                d.apart(faults, name, WILD + 16 * at)
        finally:
            os.dup2(told, 2)
        log.seek(0)
        said = log.read().decode()
    found = re.findall(
        r'kernel_failed kernel=(\w+) code=700 where="(\w+): line (\d+): (\S+)"'
        r" address=0x([0-9a-f]+)$",
        said,
        re.MULTILINE,
    )
    assert [row[0] for row in found] == list(ACCESSES), said
    for at, (row, body) in enumerate(zip(found, ACCESSES.values(), strict=True)):
        kernel, where, number, instruction, address = row
        assert kernel == where
        assert lines[int(number) - 1] == body, row
        assert instruction == body.split()[0]
        assert int(address, 16) == WILD + 16 * at


if __name__ == "__main__":
    main()
