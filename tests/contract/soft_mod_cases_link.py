# SPDX-License-Identifier: Apache-2.0
"""Cases of the JIT linker: several inputs become one module."""

from __future__ import annotations

import ctypes as c
import os
from pathlib import Path

from soft_mod_driver import (
    FILE_NOT_FOUND,
    INVALID_HANDLE,
    INVALID_IMAGE,
    INVALID_PTX,
    INVALID_VALUE,
    NO_BINARY,
    NOT_SUPPORTED,
    PTX,
    UNSUPPORTED_PTX,
    Driver,
    Params,
    case,
    main,
)
from soft_mod_fatbin import ELF_KIND, Entry, fatbin

CUBIN_IN, PTX_IN, FATBIN_IN, OBJECT_IN, LIBRARY_IN, NVVM_IN = range(6)
WALL_TIME, INFO, INFO_BYTES, ERROR, ERROR_BYTES, TARGET_OF_CONTEXT = 2, 3, 4, 5, 6, 8
LEVEL, TARGET, THREADS, FALLBACK, VERBOSE = 7, 9, 1, 10, 12

HEAD = b".version 8.0\n.target sm_75\n.address_size 64\n"
CALLER = (
    HEAD
    + b"""
.extern .func (.param .b32 out) twice(.param .b32 in);
.extern .global .align 4 .u32 shared_count;
.global .align 4 .u32 own = 100;
.func (.param .b32 out) helper(.param .b32 in)
{ .reg .b32 %r<3>; ld.param.b32 %r0, [in]; add.u32 %r0, %r0, 1; st.param.b32 [out], %r0; ret; }
.visible .entry run(.param .u64 to)
{
    .reg .b32 %r<6>;
    .reg .b64 %d<2>;
    ld.param.u64 %d0, [to];
    mov.u32 %r0, 20;
    { .param .b32 i; .param .b32 o; st.param.b32 [i], %r0;
      call.uni (o), twice, (i); ld.param.b32 %r1, [o]; }
    { .param .b32 i; .param .b32 o; st.param.b32 [i], %r1;
      call.uni (o), helper, (i); ld.param.b32 %r2, [o]; }
    ld.global.u32 %r3, [own];
    add.u32 %r2, %r2, %r3;
    ld.global.u32 %r4, [shared_count];
    add.u32 %r2, %r2, %r4;
    st.global.u32 [%d0], %r2;
    ret;
}
"""
)
CALLEE = (
    HEAD.replace(b"8.0", b"7.4").replace(b"sm_75", b"sm_80")
    + b"""
.visible .global .align 4 .u32 shared_count = 5000;
.global .align 4 .u32 own = 7;
.func (.param .b32 out) helper(.param .b32 in)
{ .reg .b32 %r<3>; .reg .pred %p; ld.param.b32 %r0, [in]; setp.eq.u32 %p, %r0, 0;
  @%p bra helper_end; add.u32 %r0, %r0, 0; helper_end: st.param.b32 [out], %r0; ret; }
.visible .func (.param .b32 out) twice(.param .b32 in)
{
    .reg .b32 %r<4>;
    ld.param.b32 %r0, [in];
    { .param .b32 i; .param .b32 o; st.param.b32 [i], %r0;
      call.uni (o), helper, (i); ld.param.b32 %r0, [o]; }
    ld.global.u32 %r1, [own];
    mad.lo.u32 %r0, %r0, 2, %r1;
    st.param.b32 [out], %r0;
    ret;
}
"""
)
RIGHT = 20 * 2 + 7 + 1 + 100 + 5000


class Link:
    """A link with buffers for what the linker says."""

    def __init__(self, d: Driver, **more: int) -> None:
        self.d = d
        self.info, self.error = c.create_string_buffer(700), c.create_string_buffer(700)
        options = {
            INFO: c.addressof(self.info),
            INFO_BYTES: 700,
            ERROR: c.addressof(self.error),
            ERROR_BYTES: 700,
            WALL_TIME: 0,
        } | {int(key[1:]): value for key, value in more.items()}
        self.keys = (c.c_int * len(options))(*options)
        self.values = (c.c_void_p * len(options))(*options.values())
        self.state = c.c_void_p()
        count = len(options)
        d.ok("cuLinkCreate_v2", count, self.keys, self.values, c.byref(self.state))

    def add(self, kind: int, data: bytes, name: bytes | None = b"some.ptx") -> int:
        size = c.c_size_t(len(data))
        return self.d.call("cuLinkAddData_v2", self.state, kind, data, size, name, 0, None, None)

    def complete(self) -> tuple[int, bytes]:
        out, size = c.c_void_p(), c.c_size_t()
        result = self.d.call("cuLinkComplete", self.state, c.byref(out), c.byref(size))
        return result, c.string_at(out, size.value) if result == 0 else b""

    def destroy(self) -> None:
        self.d.ok("cuLinkDestroy", self.state)


def answer(d: Driver, image: bytes) -> int:
    module = d.module(image)
    out = d.alloc(4)
    d.launch(d.function(module, "run"), Params(out))
    return int(d.down(out, 1, "u4")[0])


@case
def functions_and_variables_are_found_in_other_inputs(d: Driver) -> None:
    for texts in ((CALLER, CALLEE), (CALLEE, CALLER)):
        link = Link(d, _12=1)
        for text in texts:
            assert link.add(PTX_IN, text) == 0
        result, image = link.complete()
        assert result == 0, link.error.value
        assert b"2 inputs" in link.info.value
        assert link.values[1] == len(link.info.value) + 1
        ms = c.cast(c.byref(link.values, 4 * 8), c.POINTER(c.c_float))[0]
        assert 0 < ms < 60000
        assert answer(d, image) == RIGHT
        link.destroy()


@case
def what_nobody_defines_is_named(d: Driver) -> None:
    for text, name in (
        (CALLER, b"shared_count"),
        (CALLER.replace(b".extern .global", b".global"), b"twice"),
    ):
        link = Link(d)
        assert link.add(PTX_IN, text) == 0
        assert link.complete()[0] == NO_BINARY
        assert name in link.error.value
        assert link.values[3] == len(link.error.value) + 1
        assert link.complete()[0] == INVALID_VALUE
        link.destroy()
    # alone it is no module either
    d.fails(NO_BINARY, "cuModuleLoadData", c.byref(c.c_void_p()), CALLER)


@case
def a_name_is_defined_once(d: Driver) -> None:
    link = Link(d)
    assert link.add(PTX_IN, CALLEE, b"first.ptx") == 0
    assert link.add(PTX_IN, CALLEE, b"second.ptx") == 0
    assert link.complete()[0] == INVALID_IMAGE
    assert b"shared_count" in link.error.value or b"twice" in link.error.value
    assert b"first.ptx" in link.error.value
    assert b"second.ptx" in link.error.value
    link.destroy()


@case
def weak_definitions_give_way(d: Driver) -> None:
    weak = CALLEE.replace(b".visible", b".weak").replace(b"5000", b"6000")
    for texts in ((weak, CALLEE, CALLER), (CALLER, CALLEE, weak), (CALLER, weak, weak)):
        link = Link(d)
        for text in texts:
            assert link.add(PTX_IN, text) == 0
        result, image = link.complete()
        assert result == 0, link.error.value
        assert answer(d, image) == RIGHT + (0 if CALLEE in texts else 1000)
        link.destroy()


@case
def fat_binaries_are_linked(d: Driver) -> None:
    newer = Entry(CALLEE.replace(b"sm_80", b"sm_120"), 120)
    one = fatbin(Entry(CALLER, 75, packed="zstd"))
    two = fatbin(newer, Entry(CALLEE, 80, packed="lz4"))
    for inputs in ((one, two), (one + bytes(8) + two,)):
        link = Link(d)
        for data in inputs:
            assert link.add(FATBIN_IN, data, None) == 0
        result, image = link.complete()
        assert result == 0, link.error.value
        assert answer(d, image) == RIGHT
        link.destroy()
    link = Link(d)
    assert link.add(FATBIN_IN, one[:-24]) == INVALID_IMAGE
    assert link.add(FATBIN_IN, fatbin(Entry(b"\x7fELF", 90, ELF_KIND))) == NO_BINARY
    link.destroy()


@case
def what_cannot_be_linked_is_refused(d: Driver) -> None:
    link = Link(d)
    for kind in (CUBIN_IN, OBJECT_IN, LIBRARY_IN):
        assert link.add(kind, b"\x7fELF" * 9, b"thing.o") == NO_BINARY
        assert b"thing.o" in link.error.value
    assert link.add(NVVM_IN, b"BC" * 9) == NOT_SUPPORTED
    assert link.add(17, b"x") == INVALID_VALUE
    assert link.add(PTX_IN, b"") == INVALID_VALUE
    assert link.add(PTX_IN, b"nothing") == INVALID_PTX
    assert link.add(PTX_IN, CALLER.replace(b".extern", b".extren"), b"odd.ptx") == INVALID_PTX
    assert b"odd.ptx: line 5" in link.error.value
    assert link.add(PTX_IN, CALLER.replace(b"sm_75", b"sm_120")) == INVALID_PTX
    assert link.add(PTX_IN, CALLER.replace(b"8.0", b"9.9")) == UNSUPPORTED_PTX
    assert link.complete()[0] == INVALID_VALUE  # nothing was added
    link.destroy()
    d.fails(INVALID_HANDLE, "cuLinkComplete", link.state, c.byref(c.c_void_p()), None)


@case
def link_options_are_checked(d: Driver) -> None:
    def create(**more: int) -> int:
        options = {int(key[1:]): value for key, value in more.items()}
        keys = (c.c_int * 4)(*options)
        values = (c.c_void_p * 4)(*options.values())
        state = c.c_void_p()
        result = d.call("cuLinkCreate_v2", len(options), keys, values, c.byref(state))
        if result == 0:
            d.ok("cuLinkDestroy", state)
        return result

    assert create() == 0
    assert create(_0=32, _8=0, _7=3, _11=1) == 0
    assert create(_7=5) == INVALID_VALUE
    assert create(_10=0) == INVALID_VALUE  # no fallback for a linker
    assert create(_9=80, _1=128) == INVALID_VALUE
    assert create(_14=9) == INVALID_VALUE
    assert create(_35=0) == INVALID_VALUE
    assert create(_17=0) == NOT_SUPPORTED
    module = c.c_void_p()
    for target, expected in ((75, 0), (90, 0), (65626, 0), (100, NO_BINARY), (65616, NO_BINARY)):
        keys, values = (c.c_int * 1)(TARGET), (c.c_void_p * 1)(target)
        load = "cuModuleLoadDataEx"
        assert d.call(load, c.byref(module), PTX, 1, keys, values) == expected, target


@case
def files_are_linked(d: Driver) -> None:
    folder = Path(os.environ["HARP_SOFT_DIR"])
    (folder / "one.ptx").write_bytes(CALLER)
    (folder / "two.fatbin").write_bytes(fatbin(Entry(CALLEE, 80, packed="zstd")))
    link = Link(d)
    for kind, name in ((PTX_IN, "one.ptx"), (FATBIN_IN, "two.fatbin")):
        path = str(folder / name).encode()
        d.ok("cuLinkAddFile_v2", link.state, kind, path, 0, None, None)
    path = str(folder / "none.ptx").encode()
    d.fails(FILE_NOT_FOUND, "cuLinkAddFile_v2", link.state, PTX_IN, path, 0, None, None)
    result, image = link.complete()
    assert result == 0
    assert answer(d, image) == RIGHT
    link.destroy()


@case
def the_calls_of_numba_work(d: Driver) -> None:
    """cuLink*, then the "cubin" as a library, its kernel launched by handle."""
    link = Link(d, _12=1, _8=0)
    assert link.add(PTX_IN, PTX + b"\0", b"<cudapy-ptx>") == 0
    result, image = link.complete()
    assert result == 0
    link.destroy()
    library = d.handle("cuLibraryLoadData", image, None, None, 0, None, None, 0)
    kernel = d.handle("cuLibraryGetKernel", library, b"add1")
    value = c.c_int()
    for attribute in (0, 1, 3, 4):
        d.ok("cuKernelGetAttribute", c.byref(value), attribute, kernel, d.device)
    function = d.handle("cuKernelGetFunction", kernel)
    d.ok("cuFuncGetAttribute", c.byref(value), 4, function)
    data = d.alloc(16)
    d.ok("cuMemsetD32_v2", data, 0, c.c_size_t(4))
    d.launch(kernel, Params(data, data, c.c_uint32(4)), block=(4, 1, 1))
    assert d.down(data, 4).tolist() == [1.0] * 4


@case
def logs_are_cut_to_their_buffers(d: Driver) -> None:
    for size in (0, 1, 2, 40):
        buffer = c.create_string_buffer(b"#" * 64, 64)
        keys = (c.c_int * 2)(ERROR, ERROR_BYTES)
        values = (c.c_void_p * 2)(c.addressof(buffer), size)
        load = "cuModuleLoadDataEx"
        assert (
            d.call(load, c.byref(c.c_void_p()), b".version 8.0 ?", 2, keys, values) == INVALID_PTX
        )
        assert buffer.raw[size:] == b"#" * (64 - size)
        if size:
            assert len(buffer.value) == size - 1
    keys = (c.c_int * 3)(INFO, INFO_BYTES, VERBOSE)
    buffer = c.create_string_buffer(8192)
    values = (c.c_void_p * 3)(c.addressof(buffer), 8192, 1)
    d.ok("cuModuleLoadDataEx", c.byref(c.c_void_p()), PTX, 3, keys, values)
    assert b"info: holds40k for sm_90" in buffer.value
    assert b"40960 bytes of shared" in buffer.value


if __name__ == "__main__":
    main()
