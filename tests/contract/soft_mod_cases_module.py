# SPDX-License-Identifier: Apache-2.0
"""Cases of modules, libraries, functions, the JIT linker and occupancy."""

from __future__ import annotations

import ctypes as c
import struct
import tempfile
from pathlib import Path

from soft_mod_driver import (
    FILE_NOT_FOUND,
    INVALID_CONTEXT,
    INVALID_HANDLE,
    INVALID_IMAGE,
    INVALID_PTX,
    INVALID_VALUE,
    NO_BINARY,
    NOT_FOUND,
    NOT_PERMITTED,
    NOT_SUPPORTED,
    PTX,
    REFUSALS,
    SOFTWARE,
    UNSUPPORTED_PTX,
    Driver,
    Params,
    case,
    main,
    np,
)

MAX_THREADS, SHARED, CONST, LOCAL, REGS, PTX_VERSION, BINARY_VERSION, _, DYNAMIC = range(9)


def load_ex(d: Driver, image: bytes) -> tuple[int, c.c_void_p, str]:
    log = c.create_string_buffer(2048)
    options = (c.c_int * 2)(5, 6)
    values = (c.c_void_p * 2)(c.addressof(log), len(log))
    module = c.c_void_p()
    result = d.call("cuModuleLoadDataEx", c.byref(module), image, 2, options, values)
    text = log.value.decode()
    assert (values[1] or 0) & 0xFFFFFFFF == (len(text) + 1 if text else 0)
    return result, module, text


def fatbin(*entries: tuple[int, int, bytes, int, int]) -> bytes:
    """(kind, sm, payload, flags, unpacked bytes) of each entry."""
    body = b""
    for kind, sm, payload, flags, whole in entries:
        padded = payload + b"\0" * (-len(payload) % 8)
        head = struct.pack("<HHII", kind, 0x101, 64, len(padded)).ljust(16, b"\0")
        head += struct.pack("<I", len(payload) if flags else 0)
        head = head.ljust(28, b"\0") + struct.pack("<I", sm)
        head = head.ljust(40, b"\0") + struct.pack("<QQQ", flags, 0, whole)
        body += head + padded
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def lz4_literals(data: bytes) -> bytes:
    """The simplest LZ4 block: one sequence of literals only."""
    length = len(data) - 15
    return b"\xf0" + b"\xff" * (length // 255) + bytes([length % 255]) + data


@case
def a_module_lists_its_functions(d: Driver) -> None:
    module = d.module()
    count = c.c_uint()
    d.ok("cuModuleGetFunctionCount", c.byref(count), module)
    assert count.value == PTX.count(b".entry")
    functions = (c.c_void_p * count.value)()
    d.ok("cuModuleEnumerateFunctions", functions, count, module)
    names = []
    for function in functions:
        name = c.c_char_p()
        d.ok("cuFuncGetName", c.byref(name), c.c_void_p(function))
        names.append((name.value or b"").decode())
    assert names[:2] == ["add1", "mixed"]
    owner = d.handle("cuFuncGetModule", d.function(module, "mixed"))
    assert owner.value == module.value
    d.fails(NOT_FOUND, "cuModuleGetFunction", c.byref(c.c_void_p()), module, b"nobody")
    d.fails(INVALID_HANDLE, "cuModuleGetFunction", c.byref(c.c_void_p()), d.ctx, b"add1")


@case
def parameters_are_told_with_place_and_size(d: Driver) -> None:
    function = d.function(d.module(), "mixed")
    offset, size = c.c_size_t(), c.c_size_t()
    told = []
    for i in range(5):
        d.ok("cuFuncGetParamInfo", function, c.c_size_t(i), c.byref(offset), c.byref(size))
        told.append((offset.value, size.value))
    assert told == [(0, 8), (8, 1), (10, 2), (12, 4), (16, 8)]
    d.fails(INVALID_VALUE, "cuFuncGetParamInfo", function, c.c_size_t(5), c.byref(offset), None)


@case
def variables_are_initialised_and_shared_by_kernels(d: Driver) -> None:
    module = d.module()
    counter, size = d.global_of(module, "counter")
    assert size == 4
    assert d.down(counter, 1, "u4")[0] == 7
    where, _size = d.global_of(module, "where_counter")
    assert d.down(where, 1, "u8")[0] == counter.value
    room, size = d.global_of(module, "room")
    assert size == 100
    assert room.value % 16 == 0
    assert not d.down(room, 100, "u1").any()
    d.launch(d.function(module, "bump"), Params(), (3, 1, 1), (5, 1, 1))
    d.sync()
    assert d.down(counter, 1, "u4")[0] == 22
    out = d.alloc(16)
    d.launch(d.function(module, "read_table"), Params(out), (1, 1, 1), (4, 1, 1))
    assert d.down(out, 4).tolist() == [1, 2, 3, 4]
    d.fails(NOT_FOUND, "cuModuleGetGlobal_v2", c.byref(c.c_uint64()), None, module, b"add1")


@case
def two_loads_have_variables_of_their_own(d: Driver) -> None:
    first, second = d.module(), d.module()
    d.launch(d.function(first, "bump"), Params())
    d.sync()
    assert d.down(d.global_of(first, "counter")[0], 1, "u4")[0] == 8
    assert d.down(d.global_of(second, "counter")[0], 1, "u4")[0] == 7


@case
def unloading_frees_and_invalidates(d: Driver) -> None:
    big = PTX.replace(b"room[100]", b"room[67108864]")
    free, total = c.c_size_t(), c.c_size_t()
    d.ok("cuMemGetInfo_v2", c.byref(free), c.byref(total))
    before = free.value
    module = d.module(big)
    function = d.function(module, "add1")
    d.ok("cuMemGetInfo_v2", c.byref(free), c.byref(total))
    assert before - free.value >= 64 << 20
    d.ok("cuModuleUnload", module)
    d.ok("cuMemGetInfo_v2", c.byref(free), c.byref(total))
    assert free.value >= before - (2 << 20)
    d.fails(INVALID_HANDLE, "cuModuleUnload", module)
    assert d.try_launch(function, Params(c.c_uint64(), c.c_uint64(), c.c_uint32())) == (
        INVALID_HANDLE
    )


@case(only=SOFTWARE, why=REFUSALS)
def bad_images_are_refused_with_the_reason_in_the_log(d: Driver) -> None:
    bad_line = PTX.replace(b".visible .entry fail()", b".visible .entri fail()")
    line = PTX[: PTX.index(b".visible .entry fail()")].count(b"\n") + 1
    table: list[tuple[bytes, int, str]] = [
        (b"hello", INVALID_IMAGE, ".version"),
        (b"", INVALID_IMAGE, ".version"),
        (bad_line, INVALID_PTX, str(line)),
        (PTX.replace(b".target sm_75", b".target sm_120"), INVALID_PTX, "sm_120"),
        (PTX.replace(b".version 8.0", b".version 9.9"), UNSUPPORTED_PTX, "9.9"),
        (b"\x7fELF" + b"\0" * 100, NO_BINARY, "machine code"),
        (fatbin((2, 90, b"\x7fELF" * 8, 0, 0)), NO_BINARY, "1 machine code"),
        (fatbin((1, 120, PTX, 0, 0)), NO_BINARY, "newer"),
        (fatbin((1, 75, PTX, 0x8000, 99)), INVALID_IMAGE, "zstd"),
        (fatbin((1, 75, b"\xff" * 16, 0x2000, 4000)), INVALID_IMAGE, "LZ4"),
    ]
    for image, expected, text in table:
        result, _module, log = load_ex(d, image)
        assert result == expected, (image[:20], result, log)
        assert text in log, (text, log)
        d.fails(expected, "cuModuleLoadData", c.byref(c.c_void_p()), image)


@case(only=SOFTWARE, why=REFUSALS)
def fat_binaries_yield_the_newest_ptx_that_runs(d: Driver) -> None:
    old = PTX.replace(b"counter = 7", b"counter = 5").replace(b"sm_75", b"sm_70")
    new = PTX.replace(b".target sm_75", b".target sm_120")
    image = fatbin(
        (2, 90, b"\x7fELF" * 8, 0, 0),
        (1, 70, old, 0, 0),
        (1, 75, lz4_literals(PTX), 0x2000, len(PTX)),
        (1, 120, new, 0, 0),
    )
    assert d.down(d.global_of(d.module(image), "counter")[0], 1, "u4")[0] == 7
    held = c.create_string_buffer(fatbin((1, 70, old, 0, 0)))
    wrapper = struct.pack("<IIQQ", 0x466243B1, 1, c.addressof(held), 0)
    module = d.handle("cuModuleLoadFatBinary", wrapper)
    assert d.down(d.global_of(module, "counter")[0], 1, "u4")[0] == 5


@case
def jit_options_are_checked(d: Driver) -> None:
    module = c.c_void_p()
    options, values = (c.c_int * 1)(99), (c.c_void_p * 1)()
    d.fails(INVALID_VALUE, "cuModuleLoadDataEx", c.byref(module), PTX, 1, options, values)
    d.fails(INVALID_VALUE, "cuModuleLoadDataEx", c.byref(module), PTX, 1, None, None)
    options = (c.c_int * 3)(0, 7, 2)
    values = (c.c_void_p * 3)(32, 4, 0)
    d.ok("cuModuleLoadDataEx", c.byref(module), PTX, 3, options, values)
    result, _module, log = load_ex(d, PTX)
    assert (result, log) == (0, "")


@case
def what_no_device_knows_fails_at_the_load(d: Driver) -> None:
    text = PTX.replace(b"add.f32 %f1", b"add.xx.f32 %f1")
    line = text[: text.index(b"add.xx")].count(b"\n") + 1
    result, _module, log = load_ex(d, text)
    assert result == INVALID_PTX
    assert "add.xx.f32" in log
    assert str(line) in log


@case
def kernels_that_cannot_be_translated_are_named(d: Driver) -> None:
    ptx = b""".version 8.0
.target sm_90a
.address_size 64
.visible .entry odd() { wgmma.fence.sync.aligned; ret; }
.visible .entry fine() { ret; }
"""
    module = d.module(ptx)
    d.fails(NOT_SUPPORTED, "cuModuleGetFunction", c.byref(c.c_void_p()), module, b"odd")
    library = d.handle("cuLibraryLoadData", ptx, None, None, 0, None, None, 0)
    kernel = d.handle("cuLibraryGetKernel", library, b"odd")
    assert d.try_launch(kernel) == NOT_SUPPORTED
    d.launch(d.function(module, "fine"))
    d.sync()
    assert "odd" not in {name for name, row in d.counters().items() if row.launches}


@case
def files_are_loaded(d: Driver) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.ptx"
        path.write_bytes(PTX)
        module = d.handle("cuModuleLoad", str(path).encode())
        d.function(module, "add1")
        d.handle("cuLibraryLoadFromFile", str(path).encode(), None, None, 0, None, None, 0)
        path.write_bytes(fatbin((1, 75, PTX, 0, 0))[:-64])
        d.fails(INVALID_IMAGE, "cuModuleLoad", c.byref(c.c_void_p()), str(path).encode())
    d.fails(FILE_NOT_FOUND, "cuModuleLoad", c.byref(c.c_void_p()), str(path).encode())


@case
def a_context_must_be_current(d: Driver) -> None:
    d.ok("cuCtxSetCurrent", None)
    d.fails(INVALID_CONTEXT, "cuModuleLoadData", c.byref(c.c_void_p()), PTX)
    library = d.handle("cuLibraryLoadData", PTX, None, None, 0, None, None, 0)
    kernel = d.handle("cuLibraryGetKernel", library, b"add1")
    d.fails(INVALID_CONTEXT, "cuKernelGetFunction", c.byref(c.c_void_p()), kernel)


@case
def library_kernels_run_as_functions(d: Driver) -> None:
    library = d.handle("cuLibraryLoadData", PTX, None, None, 0, None, None, 0)
    count = c.c_uint()
    d.ok("cuLibraryGetKernelCount", c.byref(count), library)
    kernels = (c.c_void_p * count.value)()
    d.ok("cuLibraryEnumerateKernels", kernels, count, library)
    kernel = d.handle("cuLibraryGetKernel", library, b"bump")
    assert kernel.value in list(kernels)
    name = c.c_char_p()
    d.ok("cuKernelGetName", c.byref(name), kernel)
    assert name.value == b"bump"
    assert d.handle("cuKernelGetLibrary", kernel).value == library.value
    d.launch(kernel, Params(), (2, 1, 1))
    function = d.handle("cuKernelGetFunction", kernel)
    d.launch(function, Params())
    d.sync()
    pointer, size = c.c_uint64(), c.c_size_t()
    d.ok("cuLibraryGetGlobal", c.byref(pointer), c.byref(size), library, b"counter")
    assert d.down(pointer, 1, "u4")[0] == 10
    module = d.handle("cuLibraryGetModule", library)
    assert d.global_of(module, "counter")[0].value == pointer.value
    d.fails(NOT_PERMITTED, "cuModuleUnload", module)
    other = d.handle("cuCtxCreate_v2", 0, d.device)
    d.launch(kernel, Params())
    d.sync()
    d.ok("cuLibraryGetGlobal", c.byref(pointer), c.byref(size), library, b"counter")
    assert d.down(pointer, 1, "u4")[0] == 8
    d.ok("cuCtxDestroy_v2", other)
    d.ok("cuCtxSetCurrent", d.ctx)
    d.ok("cuLibraryUnload", library)
    d.fails(INVALID_HANDLE, "cuLibraryUnload", library)
    assert d.try_launch(kernel, Params()) == INVALID_HANDLE


@case
def function_attributes_follow_the_ptx(d: Driver) -> None:
    module = d.module()

    def ask(name: str, attribute: int) -> int:
        value = c.c_int()
        d.ok("cuFuncGetAttribute", c.byref(value), attribute, d.function(module, name))
        return value.value

    assert ask("holds40k", SHARED) == 40960
    assert ask("holds40k", DYNAMIC) == 49152 - 40960
    assert ask("add1", SHARED) == 0
    assert ask("add1", DYNAMIC) == 49152
    assert ask("add1", MAX_THREADS) == 1024
    assert ask("upto128", MAX_THREADS) == 128
    assert ask("exactly64", MAX_THREADS) == 64
    assert ask("add1", PTX_VERSION) == 75
    assert ask("add1", CONST) == 16
    assert ask("add1", LOCAL) == 0
    assert 16 <= ask("add1", REGS) <= 255
    major, minor = c.c_int(), c.c_int()
    d.ok("cuDeviceComputeCapability", c.byref(major), c.byref(minor), d.device)
    assert ask("add1", BINARY_VERSION) == major.value * 10 + minor.value
    function = d.function(module, "add1")
    d.fails(INVALID_VALUE, "cuFuncGetAttribute", c.byref(c.c_int()), 99, function)
    d.fails(INVALID_VALUE, "cuFuncSetAttribute", function, REGS, 1)
    d.fails(INVALID_VALUE, "cuFuncSetAttribute", function, DYNAMIC, 1 << 20)
    d.ok("cuFuncSetAttribute", function, DYNAMIC, 65536)
    assert ask("add1", DYNAMIC) == 65536


@case
def kernel_attributes_are_per_device(d: Driver) -> None:
    library = d.handle("cuLibraryLoadData", PTX, None, None, 0, None, None, 0)
    kernel = d.handle("cuLibraryGetKernel", library, b"reverse")
    data = d.up(np.arange(32, dtype="u4"))
    big = 60000
    assert d.try_launch(kernel, Params(data), block=(32, 1, 1), shared=big) == INVALID_VALUE
    d.ok("cuKernelSetAttribute", DYNAMIC, big, kernel, d.device)
    d.launch(kernel, Params(data), block=(32, 1, 1), shared=big)
    d.sync()
    assert d.down(data, 32, "u4").tolist() == list(range(31, -1, -1))
    value = c.c_int()
    d.ok("cuKernelGetAttribute", c.byref(value), DYNAMIC, kernel, d.device)
    assert value.value == big
    d.fails(101, "cuKernelGetAttribute", c.byref(value), DYNAMIC, kernel, c.c_int(77))


@case(only=SOFTWARE, why=REFUSALS)
def the_linker_joins_ptx(d: Driver) -> None:
    state, out, size = c.c_void_p(), c.c_void_p(), c.c_size_t()
    d.ok("cuLinkCreate_v2", 0, None, None, c.byref(state))
    other = b""".version 7.0
.target sm_70
.address_size 64
.visible .entry second() { ret; }
"""
    add = "cuLinkAddData_v2"
    for text in (other, PTX):
        d.ok(add, state, 1, text, c.c_size_t(len(text)), b"a.ptx", 0, None, None)
    cubin = b"\x7fELF" * 9
    d.fails(NO_BINARY, add, state, 0, cubin, c.c_size_t(36), None, 0, None, None)
    d.fails(INVALID_PTX, add, state, 1, b".junk", c.c_size_t(5), None, 0, None, None)
    d.ok("cuLinkComplete", state, c.byref(out), c.byref(size))
    module = d.module(c.string_at(out, size.value))
    d.ok("cuLinkDestroy", state)
    d.fails(INVALID_HANDLE, "cuLinkDestroy", state)
    d.function(module, "second")
    d.launch(d.function(module, "bump"))
    d.sync()


@case
def occupancy_follows_the_formula(d: Driver) -> None:
    module = d.module()
    table = {"regs_per_sm": 82, "threads_per_sm": 39, "shared_per_sm": 81, "blocks_per_sm": 106}
    device = {}
    for key, attribute in table.items():
        value = c.c_int()
        d.ok("cuDeviceGetAttribute", c.byref(value), attribute, d.device)
        device[key] = value.value
    for name in ("add1", "holds40k", "hungry"):
        function = d.function(module, name)
        told = c.c_int()
        d.ok("cuFuncGetAttribute", c.byref(told), REGS, function)
        regs = told.value
        d.ok("cuFuncGetAttribute", c.byref(told), SHARED, function)
        static = told.value
        for threads in (1, 32, 33, 96, 256, 1000, 1024):
            for dynamic in (0, 1000, 8192):
                warps = -(-threads // 32)
                per_warp = -(-regs * 32 // 256) * 256
                by_regs = device["regs_per_sm"] // 4 // per_warp * 4 // warps
                shared = -(-(static + dynamic + 1024) // 128) * 128
                expected = min(
                    by_regs,
                    device["threads_per_sm"] // 32 // warps,
                    device["shared_per_sm"] // shared,
                    device["blocks_per_sm"],
                )
                if name == "hungry":
                    assert by_regs < device["threads_per_sm"] // 32 // warps
                    expected = expected if threads <= 256 else 0
                d.ok(
                    "cuOccupancyMaxActiveBlocksPerMultiprocessor",
                    c.byref(told),
                    function,
                    threads,
                    c.c_size_t(dynamic),
                )
                assert told.value == expected, (name, threads, dynamic, told.value, expected)
    function = d.function(module, "add1")
    grid, block, free = c.c_int(), c.c_int(), c.c_size_t()
    ask = "cuOccupancyMaxPotentialBlockSize"
    d.ok(ask, c.byref(grid), c.byref(block), function, None, c.c_size_t(0), 0)
    assert block.value == 1024
    d.ok(ask, c.byref(grid), c.byref(block), function, None, c.c_size_t(0), 200)
    assert block.value <= 200
    free_of = "cuOccupancyAvailableDynamicSMemPerBlock"
    d.ok(free_of, c.byref(free), function, 2, 256)
    fits = c.c_int()
    d.ok("cuFuncSetAttribute", function, DYNAMIC, min(free.value, 200000))
    flags = "cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags"
    d.ok(flags, c.byref(fits), function, 256, free, 0)
    assert fits.value >= 2
    d.fails(INVALID_VALUE, flags, c.byref(fits), function, 0, c.c_size_t(0), 0)


if __name__ == "__main__":
    main()
