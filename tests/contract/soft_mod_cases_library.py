# SPDX-License-Identifier: Apache-2.0
"""Cases of libraries: one image in several contexts and devices, kernels as functions."""

from __future__ import annotations

import ctypes as c
import os
from pathlib import Path

from soft_mod_driver import (
    FILE_NOT_FOUND,
    INVALID_CONTEXT,
    INVALID_HANDLE,
    INVALID_VALUE,
    NO_BINARY,
    NOT_FOUND,
    NOT_SUPPORTED,
    PTX,
    Driver,
    KernelNode,
    Params,
    case,
    main,
    np,
)
from soft_mod_fatbin import Entry, Wrapped, fatbin

TABLE, PRESERVED = 0, 1
DYNAMIC, CARVEOUT, PTX_VERSION, BINARY_VERSION = 8, 9, 5, 6


def load(d: Driver, code: bytes, *options: int) -> tuple[int, c.c_void_p]:
    library = c.c_void_p()
    keys, values = (c.c_int * 2)(*options), (c.c_void_p * 2)(1, 1)
    result = d.call(
        "cuLibraryLoadData", c.byref(library), code, None, None, 0, keys, values, len(options)
    )
    return result, library


def library_of(d: Driver, code: bytes = PTX) -> c.c_void_p:
    result, library = load(d, code)
    assert result == 0, result
    return library


def kernel_of(d: Driver, library: c.c_void_p, name: str) -> c.c_void_p:
    return d.handle("cuLibraryGetKernel", library, name.encode())


def counter(d: Driver, library: c.c_void_p) -> int:
    pointer, size = c.c_uint64(), c.c_size_t()
    d.ok("cuLibraryGetGlobal", c.byref(pointer), c.byref(size), library, b"counter")
    assert size.value == 4
    return int(d.down(pointer, 1, "u4")[0])


def attribute(d: Driver, kernel: c.c_void_p, which: int, device: int) -> int:
    value = c.c_int()
    d.ok("cuKernelGetAttribute", c.byref(value), which, kernel, c.c_int(device))
    return value.value


@case
def library_options_are_checked(d: Driver) -> None:
    assert load(d, PTX, PRESERVED)[0] == 0
    assert load(d, PTX, TABLE)[0] == NOT_SUPPORTED
    assert load(d, PTX, 2)[0] == INVALID_VALUE
    path = Path(os.environ["HARP_SOFT_DIR"]) / "kernels.fatbin"
    path.write_bytes(fatbin(Entry(PTX, 75, packed="zstd")))
    library, name = c.c_void_p(), str(path).encode()
    keys, values = (c.c_int * 1)(PRESERVED), (c.c_void_p * 1)(1)
    from_file = "cuLibraryLoadFromFile"
    d.ok(from_file, c.byref(library), name, None, None, 0, None, None, 0)
    assert counter(d, library) == 7
    d.fails(INVALID_VALUE, from_file, c.byref(library), name, None, None, 0, keys, values, 1)
    path.unlink()
    d.fails(FILE_NOT_FOUND, from_file, c.byref(library), name, None, None, 0, None, None, 0)


@case
def the_code_may_go_after_the_load(d: Driver) -> None:
    wrapped = Wrapped(fatbin(Entry(PTX, 75, packed="zstd")))
    library = library_of(d, wrapped.bytes)
    c.memset(c.addressof(wrapped.container), 0xFF, len(wrapped.container))
    d.launch(kernel_of(d, library, "bump"))
    assert counter(d, library) == 8


@case
def every_launch_takes_a_kernel(d: Driver) -> None:
    library = library_of(d)
    bump = kernel_of(d, library, "bump")
    d.launch(bump)
    d.ok("cuLaunchCooperativeKernel", bump, 2, 1, 1, 1, 1, 1, 0, None, None)
    config = (c.c_uint * 16)(3, 1, 1, 1, 1, 1)
    d.ok("cuLaunchKernelEx", config, bump, None, None)
    graph = d.handle("cuGraphCreate", 0)
    node = KernelNode(func=None, gx=4, gy=1, gz=1, bx=1, by=1, bz=1, kern=bump)
    d.handle("cuGraphAddKernelNode_v2", graph, None, c.c_size_t(0), c.byref(node))
    node = KernelNode(func=bump, gx=5, gy=1, gz=1, bx=1, by=1, bz=1)
    d.handle("cuGraphAddKernelNode", graph, None, c.c_size_t(0), c.byref(node))
    execution = d.handle("cuGraphInstantiateWithFlags", graph, c.c_uint64(0))
    d.ok("cuGraphLaunch", execution, None)
    d.ok("cuFuncSetBlockShape", bump, 6, 1, 1)
    d.ok("cuLaunch", bump)
    d.sync()
    assert counter(d, library) == 7 + 1 + 2 + 3 + 4 + 5 + 6


@case
def every_question_takes_a_kernel(d: Driver) -> None:
    library = library_of(d)
    kernel = kernel_of(d, library, "mixed")
    function = d.handle("cuKernelGetFunction", kernel)
    answers = []
    for handle in (kernel, function):
        told: list[object] = []
        value, size, offset = c.c_int(), c.c_size_t(), c.c_size_t()
        name, module = c.c_char_p(), c.c_void_p()
        for which in range(16):
            d.ok("cuFuncGetAttribute", c.byref(value), which, handle)
            told.append(value.value)
        d.fails(INVALID_VALUE, "cuFuncGetAttribute", c.byref(value), 16, handle)
        for i in range(5):
            d.ok("cuFuncGetParamInfo", handle, c.c_size_t(i), c.byref(offset), c.byref(size))
            told.append((offset.value, size.value))
        d.ok("cuFuncGetName", c.byref(name), handle)
        d.ok("cuFuncGetModule", c.byref(module), handle)
        blocks = "cuOccupancyMaxActiveBlocksPerMultiprocessor"
        d.ok(blocks, c.byref(value), handle, 128, c.c_size_t(0))
        told += [name.value, module.value, value.value]
        d.ok("cuOccupancyAvailableDynamicSMemPerBlock", c.byref(size), handle, 2, 128)
        d.ok("cuFuncSetCacheConfig", handle, 1)
        told.append(size.value)
        answers.append(told)
    assert answers[0] == answers[1]
    assert answers[0][-4] == b"mixed"
    offset, size = c.c_size_t(), c.c_size_t()
    d.ok("cuKernelGetParamInfo", kernel, c.c_size_t(2), c.byref(offset), c.byref(size))
    assert (offset.value, size.value) == (10, 2)
    d.ok("cuKernelGetParamInfo", kernel, c.c_size_t(2), c.byref(offset), None)
    ask = "cuKernelGetParamInfo"
    d.fails(INVALID_VALUE, ask, kernel, c.c_size_t(5), c.byref(offset), c.byref(size))
    d.ok("cuKernelSetCacheConfig", kernel, 2, d.device)
    d.fails(INVALID_VALUE, "cuKernelSetCacheConfig", kernel, 9, d.device)


@case
def names_are_found_or_not(d: Driver) -> None:
    library = library_of(d)
    pointer, size, out = c.c_uint64(), c.c_size_t(), c.c_void_p()
    d.fails(NOT_FOUND, "cuLibraryGetKernel", c.byref(out), library, b"nobody")
    d.fails(NOT_FOUND, "cuLibraryGetGlobal", c.byref(pointer), c.byref(size), library, b"add1")
    d.fails(NOT_FOUND, "cuLibraryGetManaged", c.byref(pointer), None, library, b"counter")
    d.fails(NOT_FOUND, "cuLibraryGetUnifiedFunction", c.byref(out), library, b"add1")
    d.ok("cuLibraryGetGlobal", None, c.byref(size), library, b"room")
    assert size.value == 100
    d.ok("cuCtxSetCurrent", None)
    d.fails(INVALID_CONTEXT, "cuLibraryGetModule", c.byref(out), library)
    d.fails(INVALID_CONTEXT, "cuLibraryGetGlobal", c.byref(pointer), None, library, b"counter")
    assert kernel_of(d, library, "bump")  # needs none


@case
def contexts_do_not_share_variables(d: Driver) -> None:
    library = library_of(d)
    bump = kernel_of(d, library, "bump")
    contexts = [d.ctx, *(d.handle("cuCtxCreate_v2", 0, d.device) for _ in range(20))]
    for i, ctx in enumerate(contexts):
        d.ok("cuCtxSetCurrent", ctx)
        d.launch(bump, None, (i + 1, 1, 1))
    # the stream tells the context, whatever is current
    stream = d.stream()
    d.ok("cuCtxSetCurrent", d.ctx)
    d.launch(bump, None, (100, 1, 1), stream=stream)
    for i, ctx in enumerate(contexts):
        d.ok("cuCtxSetCurrent", ctx)
        d.sync()
        assert counter(d, library) == 7 + i + 1 + (100 if ctx is contexts[-1] else 0)
    # work is in flight in all of them: the unload waits for it
    nap = kernel_of(d, library, "nap")
    for ctx in contexts:
        d.ok("cuCtxSetCurrent", ctx)
        d.launch(nap, Params(c.c_uint32(3)))
        d.launch(bump)
    d.ok("cuLibraryUnload", library)
    for ctx in contexts:
        d.ok("cuCtxSetCurrent", ctx)
        d.sync()
    assert d.counters()["nap"].launches == len(contexts)


@case
def handles_of_unloaded_libraries_are_refused(d: Driver) -> None:
    library = library_of(d)
    bump = kernel_of(d, library, "bump")
    function = d.handle("cuKernelGetFunction", bump)
    module = d.handle("cuLibraryGetModule", library)
    d.launch(bump)
    d.ok("cuLibraryUnload", library)
    out, value, size = c.c_void_p(), c.c_int(), c.c_size_t()
    for handle in (bump, function):
        assert d.try_launch(handle) == INVALID_HANDLE
        d.fails(INVALID_HANDLE, "cuFuncGetAttribute", c.byref(value), 0, handle)
        d.fails(INVALID_HANDLE, "cuFuncGetName", c.byref(out), handle)
        d.fails(INVALID_HANDLE, "cuFuncLoad", handle)
    d.fails(INVALID_HANDLE, "cuKernelGetName", c.byref(out), bump)
    d.fails(INVALID_HANDLE, "cuKernelGetLibrary", c.byref(out), bump)
    d.fails(INVALID_HANDLE, "cuKernelGetFunction", c.byref(out), bump)
    d.fails(INVALID_HANDLE, "cuKernelGetAttribute", c.byref(value), 0, bump, d.device)
    d.fails(INVALID_HANDLE, "cuKernelGetParamInfo", bump, c.c_size_t(0), c.byref(size), None)
    d.fails(INVALID_HANDLE, "cuLibraryGetKernel", c.byref(out), library, b"bump")
    d.fails(INVALID_HANDLE, "cuLibraryGetKernelCount", c.byref(value), library)
    d.fails(INVALID_HANDLE, "cuLibraryGetModule", c.byref(out), library)
    d.fails(INVALID_HANDLE, "cuModuleGetFunction", c.byref(out), module, b"bump")
    d.sync()


@case(devices="h100-80g,a100-40g,t4-16g")
def devices_get_images_of_their_own(d: Driver) -> None:
    def image(sm: int, value: int) -> Entry:
        text = PTX.replace(b"sm_75", b"sm_%d" % sm).replace(b"counter = 7", b"counter = %d" % value)
        if sm == 80:  # another order of kernels: they are found by name
            text += b"\n"
            at = text.index(b"// each thread sleeps")
            head, body = text[:at], text[at:]
            start = head.index(b"// out[i] = in[i] + 1")
            text = head[:start] + body + head[start:]
        return Entry(text, sm, packed="zstd")

    library = library_of(d, fatbin(image(75, 1000), image(80, 2000), image(90, 3000)))
    bump = kernel_of(d, library, "bump")
    for device, (version, binary) in enumerate(((90, 90), (80, 80), (75, 75))):
        assert attribute(d, bump, PTX_VERSION, device) == version
        assert attribute(d, bump, BINARY_VERSION, device) == binary
    expected = (3000, 2000, 1000)
    for device in (2, 0, 1):
        d.handle("cuCtxCreate_v2", 0, c.c_int(device))
        d.launch(bump, None, (device + 1, 1, 1))
        d.sync()
        assert counter(d, library) == expected[device] + device + 1
        name = c.c_char_p()
        d.ok("cuFuncGetName", c.byref(name), d.handle("cuKernelGetFunction", bump))
        assert name.value == b"bump"
    d.ok("cuLibraryUnload", library)


@case(devices="t4-16g,h100-80g")
def a_device_without_an_image_says_so(d: Driver) -> None:
    new = fatbin(Entry(PTX.replace(b"sm_75", b"sm_90"), 90))
    library = library_of(d, new)
    bump = kernel_of(d, library, "bump")
    assert d.try_launch(bump) == NO_BINARY
    value = c.c_int()
    d.fails(NO_BINARY, "cuKernelGetAttribute", c.byref(value), 0, bump, c.c_int(0))
    assert attribute(d, bump, PTX_VERSION, 1) == 90
    d.handle("cuCtxCreate_v2", 0, c.c_int(1))
    d.launch(bump)
    d.sync()
    assert counter(d, library) == 8
    assert load(d, fatbin(Entry(PTX.replace(b"sm_75", b"sm_120"), 120)))[0] == NO_BINARY


@case(devices="h100-80g,a100-40g")
def attributes_are_set_for_one_device(d: Driver) -> None:
    library = library_of(d)
    kernel = kernel_of(d, library, "reverse")
    second = d.handle("cuCtxCreate_v2", 0, c.c_int(1))
    # (1) before and after the library is in the context
    function = d.handle("cuKernelGetFunction", kernel)
    d.ok("cuKernelSetAttribute", DYNAMIC, 70000, kernel, c.c_int(0))
    d.ok("cuKernelSetAttribute", CARVEOUT, 50, kernel, c.c_int(1))
    assert [attribute(d, kernel, DYNAMIC, device) for device in (0, 1)] == [70000, 49152]
    assert [attribute(d, kernel, CARVEOUT, device) for device in (0, 1)] == [-1, 50]
    value = c.c_int()
    d.ok("cuFuncGetAttribute", c.byref(value), CARVEOUT, function)
    assert value.value == 50
    # (2) the limit is the device's: 227 KiB there, 163 KiB here
    d.fails(INVALID_VALUE, "cuKernelSetAttribute", DYNAMIC, 200000, kernel, c.c_int(1))
    d.ok("cuKernelSetAttribute", DYNAMIC, 200000, kernel, c.c_int(0))
    for ctx, expected in ((second, INVALID_VALUE), (d.ctx, 0)):
        d.ok("cuCtxSetCurrent", ctx)
        data = d.up(np.arange(32, dtype="u4"))
        result = d.try_launch(kernel, Params(data), block=(32, 1, 1), shared=60000)
        assert result == expected
    d.sync()
    d.fails(INVALID_VALUE, "cuKernelSetAttribute", PTX_VERSION, 1, kernel, c.c_int(0))
    d.fails(101, "cuKernelSetAttribute", DYNAMIC, 1, kernel, c.c_int(2))


if __name__ == "__main__":
    main()
