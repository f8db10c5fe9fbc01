# SPDX-License-Identifier: Apache-2.0
"""Cases of loading: when code comes into a context, what it takes there, when it goes."""

from __future__ import annotations

import ctypes as c
import json
import os
import subprocess
from pathlib import Path

from soft_mod_driver import (
    INVALID_HANDLE,
    NO_BINARY,
    NOT_SUPPORTED,
    Driver,
    Params,
    case,
    main,
)

EAGER, LAZY = 1, 2
UNLOADED, LOADED = 0, 1
MIB = 1 << 20

HEAD = b".version 8.0\n.target sm_75\n.address_size 64\n"
ODD = HEAD.replace(b"sm_75", b"sm_90a") + (
    b".visible .entry odd() { wgmma.fence.sync.aligned; ret; }\n.visible .entry fine() { ret; }\n"
)


def big(name: bytes, lines: int) -> bytes:
    """A kernel whose code is about `lines` times 20 bytes of text."""
    body = b"add.u32 %r0, %r0, 1;\n" * lines
    return (
        b".visible .entry "
        + name
        + b"() {\n.reg .b32 %r0;\nmov.u32 %r0, 0;\n"
        + body
        + b"ret;\n}\n"
    )


def truth() -> int:
    """Device memory of this process, as the machine's own ledger has it."""
    program = Path(os.environ["HARP_NATIVE_DIR"]) / "harp-soft-truth"
    told = subprocess.run([program], capture_output=True, check=True, text=True).stdout
    rows = [row for row in json.loads(told)["processes"] if row["pid"] == os.getpid()]
    return sum(int(row["mem_bytes"]) for row in rows)


def states(d: Driver, module: c.c_void_p) -> list[int]:
    count, state = c.c_uint(), c.c_int()
    d.ok("cuModuleGetFunctionCount", c.byref(count), module)
    functions = (c.c_void_p * count.value)()
    d.ok("cuModuleEnumerateFunctions", functions, count, module)
    out = []
    for function in functions:
        d.ok("cuFuncIsLoaded", c.byref(state), c.c_void_p(function))
        out.append(state.value)
    return out


def mode(d: Driver) -> int:
    value = c.c_int()
    d.ok("cuModuleGetLoadingMode", c.byref(value))
    return value.value


@case
def functions_are_loaded_when_they_are_needed(d: Driver) -> None:
    assert mode(d) == LAZY
    module = d.module()
    assert set(states(d, module)) == {UNLOADED}
    d.function(module, "bump")
    assert states(d, module).count(LOADED) == 1
    count = c.c_uint(3)
    functions = (c.c_void_p * 4)()
    d.ok("cuModuleEnumerateFunctions", functions, count, module)
    assert functions[3] is None
    d.ok("cuFuncLoad", c.c_void_p(functions[0]))
    assert states(d, module)[0] == LOADED
    assert states(d, module).count(LOADED) == 2
    # another module of the same text is another module
    assert set(states(d, d.module())) == {UNLOADED}


@case(env={"CUDA_MODULE_LOADING": "EAGER"})
def eager_loading_loads_all_or_nothing(d: Driver) -> None:
    assert mode(d) == EAGER
    module = d.module()
    assert set(states(d, module)) == {LOADED}
    before = d.free_bytes()
    d.fails(NOT_SUPPORTED, "cuModuleLoadData", c.byref(c.c_void_p()), ODD)
    assert d.free_bytes() == before
    out = c.c_void_p()
    d.fails(NOT_SUPPORTED, "cuLibraryLoadData", c.byref(out), ODD, None, None, 0, None, None, 0)
    assert d.free_bytes() == before


@case(env={"CUDA_MODULE_LOADING": "EAGER"})
def eager_libraries_come_into_all_contexts(d: Driver) -> None:
    contexts = [d.ctx, d.handle("cuCtxCreate_v2", 0, d.device)]
    text = HEAD + b".visible .global .b8 room[%d];\n" % (8 * MIB) + big(b"one", 10)
    before = d.free_bytes()
    library = d.handle("cuLibraryLoadData", text, None, None, 0, None, None, 0)
    assert before - d.free_bytes() >= 16 * MIB
    for ctx in contexts:
        d.ok("cuCtxSetCurrent", ctx)
        module = d.handle("cuLibraryGetModule", library)
        assert states(d, module) == [LOADED]
    d.ok("cuLibraryUnload", library)
    assert d.free_bytes() == before


@case(env={"CUDA_MODULE_LOADING": "LAZY"})
def lazy_loading_sees_only_what_is_used(d: Driver) -> None:
    module = d.module(ODD)
    d.launch(d.function(module, "fine"))
    d.sync()
    assert mode(d) == LAZY


@case
def code_and_variables_are_charged_and_given_back(d: Driver) -> None:
    # 3 MiB of text: half of it is what the code takes
    text = HEAD + b".visible .global .b8 room[%d];\n" % (32 * MIB) + big(b"large", 150000)
    small, ledger = d.free_bytes(), truth()
    module = d.module(text)
    placed = d.free_bytes()
    assert 32 * MIB <= small - placed <= 34 * MIB
    assert truth() - ledger == small - placed
    count, functions = c.c_uint(1), (c.c_void_p * 1)()
    d.ok("cuModuleEnumerateFunctions", functions, count, module)
    d.ok("cuFuncLoad", c.c_void_p(functions[0]))
    loaded = d.free_bytes()
    assert 1 * MIB <= placed - loaded <= 4 * MIB
    assert truth() - ledger == small - loaded
    d.ok("cuFuncLoad", c.c_void_p(functions[0]))
    assert d.free_bytes() == loaded
    d.ok("cuModuleUnload", module)
    assert d.free_bytes() == small
    assert truth() == ledger
    # with the context as well
    module = d.module(text)
    d.function(module, "large")
    d.ok("cuCtxDestroy_v2", d.ctx)
    d.ctx = d.handle("cuCtxCreate_v2", 0, d.device)
    assert d.free_bytes() == small
    assert truth() == ledger
    d.fails(INVALID_HANDLE, "cuModuleUnload", module)


@case(devices="tiny")
def a_full_device_takes_no_code(d: Driver) -> None:
    text = HEAD + big(b"large", 150000)
    module = d.module(text)
    held = []
    for size in (64 * MIB, 2 * MIB):
        out = c.c_uint64()
        while d.call("cuMemAlloc_v2", c.byref(out), c.c_size_t(size)) == 0:
            held.append(out.value)
    function = c.c_void_p()
    d.fails(2, "cuModuleGetFunction", c.byref(function), module, b"large")
    d.fails(2, "cuModuleLoadData", c.byref(c.c_void_p()), HEAD + b".global .b8 x[9000000];\n")
    for pointer in held[-4:]:
        d.ok("cuMemFree_v2", c.c_uint64(pointer))
    d.launch(d.function(module, "large"))
    d.sync()


@case
def unloading_waits_for_what_runs(d: Driver) -> None:
    module = d.module()
    streams = [d.stream() for _ in range(3)]
    for stream in streams:
        d.launch(d.function(module, "nap"), Params(c.c_uint32(20)), stream=stream)
    d.ok("cuModuleUnload", module)
    for stream in streams:
        d.ok("cuStreamQuery", stream)
    assert d.counters()["nap"].launches == 3


@case
def what_is_not_there_is_named(d: Driver) -> None:
    missing = HEAD + b".extern .func nobody();\n.visible .entry k() { call nobody; ret; }\n"
    d.fails(NO_BINARY, "cuModuleLoadData", c.byref(c.c_void_p()), missing)
    unused = HEAD + b".extern .func nobody();\n.visible .entry k() { ret; }\n"
    d.launch(d.function(d.module(unused), "k"))
    runtime = HEAD + (
        b".extern .func (.param .b32 r) cudaDeviceSynchronize();\n.visible .entry k()\n"
        b"{ .param .b32 o; call.uni (o), cudaDeviceSynchronize, (); ret; }\n"
    )
    module = d.module(runtime)  # drivers have it: only the use is refused
    d.fails(NOT_SUPPORTED, "cuModuleGetFunction", c.byref(c.c_void_p()), module, b"k")
    d.sync()


if __name__ == "__main__":
    main()
