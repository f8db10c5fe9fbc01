# SPDX-License-Identifier: Apache-2.0
"""Cases of what modules own in memory: managed variables, and that nobody else can free it."""

from __future__ import annotations

import ctypes as c

from soft_mod_cases_managed import CPU, GRANULE, used, view
from soft_mod_driver import (
    INVALID_CONTEXT,
    INVALID_PTX,
    INVALID_VALUE,
    NOT_FOUND,
    Driver,
    Params,
    case,
    main,
    np,
)

HEAD = b".version 7.0\n.target sm_70\n.address_size 64\n"
VARIABLES = HEAD + (
    b".visible .global .align 4 .u32 plain = 9;\n"
    b".visible .global .attribute(.managed) .align 4 .u32 shared = 5;\n"
    b".visible .global .attribute(.managed) .align 8 .u64 to_plain = plain;\n"
    b".visible .global .attribute(.managed) .align 8 .u64 to_shared = shared;\n"
    b".visible .global .align 8 .u64 from_plain = shared;\n"
    b".visible .global .attribute(.managed) .align 4 .b8 room[3145728];\n"
    b".visible .entry add(.param .u32 n)\n"
    b"{ .reg .b32 %r<4>; ld.param.u32 %r1, [n]; ld.global.u32 %r2, [shared];\n"
    b"add.u32 %r3, %r1, %r2; st.global.u32 [shared], %r3; ret; }\n"
    b".visible .entry add_through(.param .u32 n)\n"
    b"{ .reg .b32 %r<4>; .reg .b64 %d<3>; ld.param.u32 %r1, [n];\n"
    b"ld.global.u64 %d1, [from_plain]; atom.global.add.u32 %r2, [%d1], %r1; ret; }\n"
)
IS_MANAGED = 8


def u32(d: Driver, module: c.c_void_p, name: str) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    """The host's own look at a managed variable."""
    ptr, size = d.global_of(module, name)
    assert size == 4
    return view(ptr, 1, "u4")


def add(d: Driver, function: c.c_void_p, amount: int) -> None:
    d.launch(function, Params(c.c_uint32(amount)))
    d.sync()


def library_of(d: Driver, code: bytes = VARIABLES) -> c.c_void_p:
    return d.handle("cuLibraryLoadData", code, None, None, 0, None, None, 0)


def managed(d: Driver, library: c.c_void_p, name: str) -> tuple[int, c.c_uint64, int]:
    ptr, size = c.c_uint64(), c.c_size_t()
    code = d.call("cuLibraryGetManaged", c.byref(ptr), c.byref(size), library, name.encode())
    return code, ptr, size.value


def known(d: Driver, ptr: c.c_uint64) -> bool:
    code = d.call("cuMemGetAddressRange_v2", None, c.byref(c.c_size_t()), ptr)
    assert code in {0, NOT_FOUND}
    return code == 0


@case
def host_and_kernels_share_a_variable(d: Driver) -> None:
    module = d.module(VARIABLES)
    shared = u32(d, module, "shared")
    assert shared[0] == 5
    add(d, d.function(module, "add"), 1)
    assert shared[0] == 6
    shared[0] = 40
    add(d, d.function(module, "add_through"), 2)
    assert shared[0] == 42
    ptr, _ = d.global_of(module, "shared")
    assert d.down(ptr, 1, "u4")[0] == 42
    is_managed = c.c_ubyte()
    for name, expected in {"shared": 1, "plain": 0}.items():
        at, _ = d.global_of(module, name)
        d.ok("cuPointerGetAttribute", c.byref(is_managed), IS_MANAGED, at)
        assert is_managed.value == expected


@case
def initial_values_hold_addresses_of_either_kind(d: Driver) -> None:
    module = d.module(VARIABLES)
    at = {name: d.global_of(module, name)[0] for name in ("plain", "shared")}
    assert view(d.global_of(module, "to_plain")[0], 1, "u8")[0] == at["plain"].value
    assert view(d.global_of(module, "to_shared")[0], 1, "u8")[0] == at["shared"].value
    assert d.down(d.global_of(module, "from_plain")[0], 1, "u8")[0] == at["shared"].value
    assert d.down(at["plain"], 1, "u4")[0] == 9
    room, size = d.global_of(module, "room")
    assert size == 3 << 20
    assert not view(room, size, "u1").any()


@case
def each_module_has_its_own(d: Driver) -> None:
    first, second = d.module(VARIABLES), d.module(VARIABLES)
    add(d, d.function(first, "add"), 1)
    assert (u32(d, first, "shared")[0], u32(d, second, "shared")[0]) == (6, 5)


@case(waived={"local": "libharp charges managed memory in full when it is allocated"})
def it_moves_as_managed_memory_does_and_goes_at_unload(d: Driver) -> None:
    keep = d.module(VARIABLES)
    d.function(keep, "add")  # the context's granule of small things
    before = used(d)
    module = d.module(VARIABLES)
    d.function(module, "add")
    assert used(d) == before
    room, size = d.global_of(module, "room")
    d.ok("cuMemPrefetchAsync", room, c.c_size_t(size), d.device, None)
    d.sync()
    assert used(d) == before + 2 * GRANULE
    d.ok("cuMemAdvise", room, c.c_size_t(size), 1, d.device)
    d.ok("cuStreamAttachMemAsync", d.stream(), room, c.c_size_t(0), 1)
    d.ok("cuMemPrefetchAsync", room, c.c_size_t(size), CPU, None)
    d.ok("cuMemPrefetchAsync", room, c.c_size_t(size), d.device, None)
    d.ok("cuModuleUnload", module)
    assert used(d) == before
    assert not known(d, room)
    assert u32(d, keep, "shared")[0] == 5


@case
def a_modules_variables_go_with_its_context(d: Driver) -> None:
    second = d.handle("cuCtxCreate_v2", 0, d.device)
    ptr, _ = d.global_of(d.module(VARIABLES), "shared")
    d.ok("cuCtxSetCurrent", d.ctx)
    assert known(d, ptr)
    assert view(ptr, 1, "u4")[0] == 5
    d.ok("cuCtxDestroy_v2", second)
    assert not known(d, ptr)


@case
def a_library_has_one_for_all_contexts(d: Driver) -> None:
    library = library_of(d)
    d.ok("cuCtxSetCurrent", None)
    assert managed(d, library, "shared")[0] == INVALID_CONTEXT, "it is in no context yet"
    assert managed(d, library, "nobody")[0] == NOT_FOUND
    d.ok("cuCtxSetCurrent", d.ctx)
    code, ptr, size = managed(d, library, "shared")
    assert (code, size) == (0, 4)
    for name in ("plain", "from_plain", "add", "nobody"):
        assert managed(d, library, name)[0] == NOT_FOUND
    d.fails(INVALID_VALUE, "cuLibraryGetManaged", None, None, library, b"shared")
    kernel = d.handle("cuLibraryGetKernel", library, b"add")
    add(d, kernel, 1)
    second = d.handle("cuCtxCreate_v2", 0, d.device)
    add(d, kernel, 10)
    assert view(ptr, 1, "u4")[0] == 16, "the second module found the value, and its own code"
    here, there = c.c_uint64(), c.c_uint64()
    d.ok("cuLibraryGetGlobal", c.byref(there), None, library, b"shared")
    assert there.value == ptr.value
    d.ok("cuLibraryGetGlobal", c.byref(there), None, library, b"plain")
    d.ok("cuCtxSetCurrent", d.ctx)
    d.ok("cuLibraryGetGlobal", c.byref(here), None, library, b"plain")
    assert here.value != there.value, "what is not managed is each context's own"
    d.ok("cuCtxDestroy_v2", d.ctx)
    d.ok("cuCtxSetCurrent", second)
    add(d, kernel, 100)
    assert view(ptr, 1, "u4")[0] == 116, "it outlives the context in which it was made"
    d.ok("cuCtxSetCurrent", None)
    assert managed(d, library, "shared")[1].value == ptr.value
    d.ok("cuCtxSetCurrent", second)
    d.ok("cuLibraryUnload", library)
    assert not known(d, ptr)


@case(devices="tiny,t4-16g")
def a_library_has_one_for_all_devices(d: Driver) -> None:
    library = library_of(d)
    kernel = d.handle("cuLibraryGetKernel", library, b"add")
    add(d, kernel, 1)
    d.handle("cuCtxCreate_v2", 0, 1)
    add(d, kernel, 10)
    _, ptr, _ = managed(d, library, "shared")
    assert view(ptr, 1, "u4")[0] == 16
    d.ok("cuLibraryUnload", library)
    assert not known(d, ptr)


@case
def only_global_variables_are_managed(d: Driver) -> None:
    wrong = HEAD + b".const .attribute(.managed) .align 4 .u32 x;\n.visible .entry k() { ret; }\n"
    d.fails(INVALID_PTX, "cuModuleLoadData", c.byref(c.c_void_p()), wrong)


@case
def a_client_cannot_free_what_a_module_owns(d: Driver) -> None:
    kernel = b".visible .entry k() { ret; }\n"
    big = HEAD + b".visible .global .align 4 .b8 big[67108864];\n" + kernel
    small = HEAD + b".visible .global .align 4 .u32 x = 3;\n" + kernel
    one = HEAD + b".visible .global .attribute(.managed) .align 4 .u32 x = 3;\n" + kernel
    for code, name in ((big, "big"), (small, "x"), (one, "x")):
        module = d.module(code)
        d.function(module, "k")
        ptr, size = d.global_of(module, name)
        base, whole = c.c_uint64(), c.c_size_t()
        d.ok("cuMemGetAddressRange_v2", c.byref(base), c.byref(whole), ptr)
        assert (base.value, whole.value) == (ptr.value, size), "nothing else is in the allocation"
        before = used(d)
        d.fails(INVALID_VALUE, "cuMemFree_v2", ptr)
        assert used(d) == before
        assert known(d, ptr)
        assert d.down(ptr, 1, "u4")[0] == (0 if code is big else 3)
        d.ok("cuModuleUnload", module)
        assert not known(d, ptr)


@case(only="soft", why="walks the software GPU's own addresses")
def nor_code_nor_arrays(d: Driver) -> None:
    mine = d.alloc(512)
    module = d.module(VARIABLES)
    d.function(module, "add")
    array = d.handle("cuArrayCreate_v2", (c.c_uint64 * 3)(16, 16, 0x20 | 1 << 32))
    found = []
    start = mine.value // GRANULE * GRANULE
    for at in range(start, start + GRANULE, 512):
        base = c.c_uint64()
        if d.call("cuMemGetAddressRange_v2", c.byref(base), None, c.c_uint64(at)) == 0:
            found.append(base.value)
    others = set(found) - {mine.value}
    assert len(others) == 3, "variables, code, an array"
    for at in others:
        d.fails(INVALID_VALUE, "cuMemFree_v2", c.c_uint64(at))
        assert known(d, c.c_uint64(at))
    d.ok("cuMemFree_v2", mine)
    d.ok("cuArrayDestroy", array)
    d.ok("cuModuleUnload", module)
    assert not known(d, mine)


if __name__ == "__main__":
    main()
