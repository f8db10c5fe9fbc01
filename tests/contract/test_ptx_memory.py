# SPDX-License-Identifier: Apache-2.0
"""State spaces, addresses, faults, host calls."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from ptx_harness import (
    ARENA_BASE,
    ASSERT,
    DONE,
    HEAD,
    ILLEGAL_ADDRESS,
    MISALIGNED,
    PAGE,
    TRAP,
    Device,
    entry,
    load,
    pointers,
    run,
)
from ptx_rows import SEED


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ptx")


def test_every_width_and_extension(cache: Path) -> None:
    body = """
mov.u32 %r1, 0x80ff8182; st.global.u32 [%p0], %r1;
ld.global.u8 %r2, [%p0]; st.global.u32 [%p0+4], %r2;
ld.global.s8 %r2, [%p0]; st.global.u32 [%p0+8], %r2;
ld.global.s16 %r2, [%p0+2]; st.global.u32 [%p0+12], %r2;
ld.global.u16 %d1, [%p0+2]; st.global.u64 [%p0+16], %d1;
ld.global.s32 %d1, [%p0]; st.global.u64 [%p0+24], %d1;
ld.global.s8 %h1, [%p0]; st.global.u16 [%p0+32], %h1;
st.global.u8 [%p0+36], %r1; st.global.u16 [%p0+40], %r1; st.global.b8 [%p0+42], %h1;
ld.global.v2.u16 {%h2, %h3}, [%p0]; st.global.v2.b16 [%p0+44], {%h3, %h2};
ld.global.v4.u8 {%r3, %r4, %r5, %r6}, [%p0]; st.global.v4.u8 [%p0+48], {%r6, %r5, %r4, %r3};
st.global.v2.u64 [%p0+64], {%d1, 7}; st.global.f32 [%p0+80], 0f3F800000;
ld.global.v2.f64 {%g1, %g2}, [%p0+64]; st.global.v2.f64 [%p0+96], {%g2, %g1};
mov.b32 %r7, 5; st.global.b32 [%p0+112], %r7; ld.global.nc.L1::no_allocate.L2::128B.b32 %r8, [%p0+112];
st.global.wt.b32 [%p0+116], %r8; ld.global.ca.b32 %r9, [%p0+116]; st.weak.global.b32 [%p0+120], %r9;
"""
    result, out, _ = run(body, cache)
    assert result.stop == DONE, result
    raw = out.view("u1")
    assert list(out[:4]) == [0x80FF8182, 0x82, 0xFFFFFF82, 0xFFFF80FF]
    assert int(out.view("u8")[2]) == 0x80FF
    assert int(out.view("u8")[3]) == 0xFFFFFFFF80FF8182
    assert int(out.view("u2")[16]) == 0xFF82
    assert raw[36] == 0x82
    assert int(out.view("u2")[20]) == 0x8182
    assert raw[42] == 0x82
    assert list(out.view("u2")[22:24]) == [0x80FF, 0x8182]
    assert list(raw[48:52]) == [0x80, 0xFF, 0x81, 0x82]
    assert list(out.view("u8")[8:10]) == [0xFFFFFFFF80FF8182, 7]
    assert list(out.view("u8")[12:14]) == [7, 0xFFFFFFFF80FF8182]
    assert list(out[28:31]) == [5, 5, 5]


def test_generic_addresses_reach_every_space(cache: Path) -> None:
    top = ".global .align 4 .u32 g = 11;\n.const .align 4 .u32 c = 22;\n.shared .align 4 .u32 s;\n"
    body = """
.local .align 8 .b8 depot[16];
mov.u64 %d1, g; ld.u32 %r1, [%d1]; ld.global.u32 %r2, [g];
mov.u64 %d2, c; cvta.const.u64 %d2, %d2; ld.u32 %r3, [%d2]; ld.const.u32 %r4, [c];
mov.u64 %d3, s; cvta.shared.u64 %d3, %d3; st.u32 [%d3], 33; ld.shared.u32 %r5, [s];
mov.u64 %d4, depot; cvta.local.u64 %d4, %d4; st.u32 [%d4+8], 44; ld.local.u32 %r6, [depot+8];
cvta.to.shared.u64 %d5, %d3; ld.shared.u32 %r7, [%d5];
cvta.to.local.u64 %d6, %d4; ld.local.u32 %r8, [%d6+8];
cvta.to.global.u64 %d7, %d1; ld.global.u32 %r9, [%d7];
isspacep.shared %q1, %d3; isspacep.local %q2, %d4; isspacep.global %q3, %d1; isspacep.global %q4, %d3;
selp.u32 %r10, 1, 0, %q1; selp.u32 %r11, 1, 0, %q2; selp.u32 %r12, 1, 0, %q3; selp.u32 %r13, 1, 0, %q4;
mov.u32 %r14, s; ld.shared.u32 %r15, [%r14]; atom.add.u32 %r16, [%d3], 1; ld.shared.u32 %r17, [s];
""" + "".join(f"st.global.u32 [%p0+{4 * i}], %r{i + 1};\n" for i in range(17))

    def globals_(device: Device) -> tuple[int, int]:
        return device.put(np.array([11], "u4")), device.put(np.array([22], "u4"))

    result, out, _ = run(body, cache, top=top, globals_=globals_)
    assert result.stop == DONE, result
    assert list(out[:17]) == [11, 11, 22, 22, 33, 44, 33, 44, 11, 1, 1, 1, 0, 0, 33, 33, 34]


FAULTS = {
    "unmapped page": (
        f"mov.u64 %d1, {ARENA_BASE + 7 * PAGE}; ld.global.u32 %r1, [%d1];",
        ILLEGAL_ADDRESS,
        ARENA_BASE + 7 * PAGE,
    ),
    "null": ("mov.u64 %d1, 0; ld.u32 %r1, [%d1];", ILLEGAL_ADDRESS, 0),
    "behind the arena": (
        f"mov.u64 %d1, {ARENA_BASE + 8 * PAGE}; st.global.u8 [%d1], %r1;",
        ILLEGAL_ADDRESS,
        ARENA_BASE + 8 * PAGE,
    ),
    "misaligned": ("ld.global.u32 %r1, [%p0+2];", MISALIGNED, ARENA_BASE + 2),
    "misaligned vector": (
        "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%p0+8];",
        MISALIGNED,
        ARENA_BASE + 8,
    ),
    "shared too far": (
        "mov.u32 %r1, 4096; ld.shared.u32 %r2, [%r1];",
        ILLEGAL_ADDRESS,
        (1 << 56) + 4096,
    ),
    "shared misaligned": ("mov.u32 %r1, 2; st.shared.u32 [%r1], %r2;", MISALIGNED, (1 << 56) + 2),
    "local too far": (
        "mov.u32 %r1, 4096; ld.local.u32 %r2, [%r1];",
        ILLEGAL_ADDRESS,
        (2 << 56) + 4096,
    ),
    "generic shared too far": (
        "mov.u64 %d1, 0x1000; cvta.shared.u64 %d1, %d1; ld.u32 %r2, [%d1];",
        ILLEGAL_ADDRESS,
        (1 << 56) + 4096,
    ),
    "generic local too far": (
        "mov.u64 %d1, 0x1000; cvta.local.u64 %d1, %d1; st.u32 [%d1], %r2;",
        ILLEGAL_ADDRESS,
        (2 << 56) + 4096,
    ),
    "parameter memory is read-only": (
        "mov.u64 %d1, 0; cvta.param.u64 %d1, %d1; st.u32 [%d1], %r2;",
        ILLEGAL_ADDRESS,
        3 << 56,
    ),
    "shared through .global": (
        "mov.u64 %d1, 0; cvta.shared.u64 %d1, %d1; ld.global.u32 %r2, [%d1];",
        ILLEGAL_ADDRESS,
        1 << 56,
    ),
    "shared before the start": (
        "mov.u64 %d1, -4; ld.shared.u32 %r2, [%d1];",
        ILLEGAL_ADDRESS,
        (1 << 64) - 4,
    ),
    "local before the start": (
        "mov.u64 %d1, -8; st.local.u64 [%d1], %d1;",
        ILLEGAL_ADDRESS,
        (1 << 64) - 8,
    ),
    "parameter before the start": (
        "mov.u64 %d1, -4; ld.param.u32 %r2, [%d1];",
        ILLEGAL_ADDRESS,
        (1 << 64) - 4,
    ),
    "atomic on shared before the start": (
        "mov.u64 %d1, -4; atom.shared.add.u32 %r2, [%d1], 1;",
        ILLEGAL_ADDRESS,
        (1 << 64) - 4,
    ),
    "vector over the end of shared": (
        "mov.u32 %r1, 4096; ld.shared.v2.u64 {%d1, %d2}, [%r1+-8];",
        MISALIGNED,
        (1 << 56) + 4088,
    ),
    "asynchronous copy from nowhere": (
        ".shared .align 4 .b8 t[4]; mov.u64 %d1, 4096; cp.async.ca.shared.global [t], [%d1], 4;",
        ILLEGAL_ADDRESS,
        4096,
    ),
    "atomic": ("mov.u64 %d1, 16; red.add.u32 [%d1], 1;", ILLEGAL_ADDRESS, 16),
    "trap": ("trap;", TRAP, 0),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("block", [1, 64])
def test_faults_stop_the_block_and_name_the_instruction(name: str, block: int, cache: Path) -> None:
    body, stop, addr = FAULTS[name]
    # With a barrier the same threads are fibers.
    meet = "bar.sync 0;\n" if block > 1 else ""
    result, out, _ = run(f"{meet}{body}\nst.global.u32 [%p0], 1;", cache, block=block)
    assert (result.stop, result.fault_addr) == (stop, addr)
    assert result.fault_where.startswith("k: line ")
    assert result.fault_where.split()[-1].split(".")[0] in body
    assert out[0] == 0


#: instruction, bytes, space of its address ("" = generic); %d1 is the address
ACCESSES = [
    ("ld.u8 %r1, [%d1];", 1, ""),
    ("st.u32 [%d1], %r1;", 4, ""),
    ("ld.v2.u64 {%d2, %d3}, [%d1];", 16, ""),
    ("atom.add.u64 %d2, [%d1], %d3;", 8, ""),
    ("ld.global.u16 %h1, [%d1];", 2, "global"),
    ("st.global.v4.u32 [%d1], {%r1, %r1, %r1, %r1};", 16, "global"),
    ("ld.shared.u32 %r1, [%d1];", 4, "shared"),
    ("st.shared.v2.u32 [%d1], {%r1, %r1};", 8, "shared"),
    ("atom.shared.cas.b32 %r1, [%d1], %r1, %r1;", 4, "shared"),
    ("ld.local.u64 %d2, [%d1];", 8, "local"),
    ("st.local.u8 [%d1], %r1;", 1, "local"),
]


def allowed(address: int, size: int, space: str, *, load: bool) -> bool:
    """What memory there is: seven pages, 64 bytes each of shared and local memory, a parameter."""
    if address % size:
        return False
    if space in ("shared", "local"):
        return address + size <= 64
    for window, room in ((1, 64), (2, 64), (3, 8 if load else 0)) if space == "" else ():
        if 0 <= address - (window << 56) <= room - size:
            return True
    return 0 <= address - ARENA_BASE <= 7 * PAGE - size


@pytest.mark.parametrize("access", ACCESSES, ids=lambda row: row[0].split()[0])
def test_any_address_is_a_fault_or_good(access: tuple[str, int, str], cache: Path) -> None:
    instruction, size, space = access
    body = (
        ".shared .align 16 .b8 tile[64]; .local .align 16 .b8 mine[64];"
        " st.shared.u32 [tile], 0; st.local.u32 [mine], 0; mov.u32 %r1, 0;"
        f" ld.global.u64 %d1, [%p0]; {instruction} st.global.u32 [%p0+8], 1;"
    )
    kernel = load(HEAD + entry("k", 1, body), "k", cache)
    device = Device()
    out = device.alloc(256)
    rng = random.Random(SEED)
    bases = [0, 64, 1 << 31, 1 << 32, ARENA_BASE, ARENA_BASE + 7 * PAGE, ARENA_BASE + 8 * PAGE]
    bases += [1 << 47, 1 << 56, (1 << 56) + 64, 2 << 56, (2 << 56) + 64, 3 << 56, 1 << 63, 1 << 64]
    bases += [ARENA_BASE + device.delta, id(device)]  # what the host has there is not the device's
    good = 0
    for _ in range(300):
        step = rng.choice((1, 4, 8, 16)) * rng.randrange(-20, 20)
        address = (rng.choice(bases) + step) % (1 << 64)
        if not out - 16 <= address < out + 32:  # the cells that are used here
            device.view(out, "u8", 2)[:] = (address, 0)
            result = kernel.run(device, pointers(out))
            done = allowed(address, size, space, load=instruction.startswith("ld"))
            good += done
            wrong = f"{instruction} at {address:#x}: {result}"
            assert (result.stop == DONE) == done, wrong
            assert device.view(out + 8, "u4", 1)[0] == done, wrong
            if not done:
                assert result.stop == (MISALIGNED if address % size else ILLEGAL_ADDRESS), wrong
                assert result.fault_addr & 0xFFFFFFFF == address & 0xFFFFFFFF, wrong
    print(f"HARP_TEST_SEED={SEED}: {good} of 300 good")
    assert 0 < good < 200


def test_host_memory_comes_through_translate(cache: Path) -> None:
    array = np.arange(8, dtype="u4")
    base = 0x5555_0000_0000
    for meet in ("", "bar.sync 0;"):
        body = f"{meet} mov.u64 %d1, {base}; ld.u32 %r1, [%d1+12]; st.global.u32 [%p0], %r1; st.u32 [%d1], 99;"
        result, out, _ = run(body, cache, device={"mapped": {base: array}})
        assert (result.stop, out[0], array[0]) == (DONE, 3, 99)


def test_dynamic_shared_memory_follows_static(cache: Path) -> None:
    top = ".extern .shared .align 16 .b8 dyn[];\n.shared .align 4 .b8 fixed[20];\n"
    body = """
mov.u32 %r1, dyn; st.global.u32 [%p0], %r1; mov.u32 %r2, %dynamic_smem_size; st.global.u32 [%p0+4], %r2;
mov.u32 %r3, %total_smem_size; st.global.u32 [%p0+8], %r3; st.shared.u32 [dyn+60], 7; st.shared.u32 [fixed], 1;
ld.shared.u32 %r4, [%r1+60]; st.global.u32 [%p0+12], %r4; ld.shared.u32 %r5, [%r1+64];
"""
    result, out, _ = run(body, cache, top=top, dyn_shared=64)
    assert result.stop == ILLEGAL_ADDRESS
    assert list(out[:4]) == [32, 64, 96, 7]


def test_external_shared_arrays_with_a_size_are_laid_out(cache: Path) -> None:
    """LLVM's form of a shared array without a value (Taichi's): two of them do not overlap."""
    top = (
        ".extern .shared .align 8 .b8 first[256];\n.extern .shared .align 8 .b8 second[256];\n"
        ".extern .shared .align 16 .b8 dyn[];\n"
    )
    body = """
st.shared.u32 [first+252], 5; st.shared.u32 [second+252], 6; st.shared.u32 [dyn+12], 7;
ld.shared.u32 %r1, [first+252]; ld.shared.u32 %r2, [second+252]; ld.shared.u32 %r3, [dyn+12];
st.global.v2.u32 [%p0], {%r1, %r2}; st.global.u32 [%p0+8], %r3;
mov.u32 %r4, dyn; st.global.u32 [%p0+12], %r4;
"""
    result, out, _ = run(body, cache, top=top, dyn_shared=16)
    assert result.stop == DONE, result
    assert list(out[:4]) == [5, 6, 7, 512]


def test_copies_that_hardware_makes_asynchronously(cache: Path) -> None:
    top = ".shared .align 16 .b8 tile[64];\n"
    body = """
st.global.v4.u32 [%p0], {1, 2, 3, 4}; mov.u32 %r1, tile; st.shared.u32 [tile+28], 9;
cp.async.ca.shared.global [%r1], [%p0], 16; cp.async.cg.shared.global.L2::128B [%r1+16], [%p0], 16, 8;
cp.async.commit_group; cp.async.wait_group 0; cp.async.wait_all;
ld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [tile]; st.global.v4.u32 [%p0+16], {%r2, %r3, %r4, %r5};
ld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [tile+16]; st.global.v4.u32 [%p0+32], {%r2, %r3, %r4, %r5};
"""
    result, out, _ = run(body, cache, top=top)
    assert result.stop == DONE
    assert list(out[4:12]) == [1, 2, 3, 4, 1, 2, 0, 0]


PRINT = """
.extern .func (.param .b32 r) vprintf (.param .b64 f, .param .b64 a);
.extern .func __assertfail (.param .b64 m, .param .b64 f, .param .b32 l, .param .b64 n, .param .b64 c);
.global .align 1 .b8 text[6] = {120, 61, 37, 100, 10, 0};
"""


@pytest.mark.parametrize("meet", ["", "bar.sync 0;"])
def test_printf_and_assert(meet: str, cache: Path) -> None:
    def globals_(device: Device) -> tuple[int]:
        return (device.put(np.frombuffer(b"x=%d\n\0", dtype="u1")),)

    body = (
        meet
        + """
.local .align 8 .b8 args[8]; mov.u64 %d1, args; cvta.local.u64 %d1, %d1; st.local.u32 [args], 42;
mov.u64 %d2, text; cvta.global.u64 %d2, %d2;
{ .param .b64 f; .param .b64 a; .param .b32 o; st.param.b64 [f], %d2; st.param.b64 [a], %d1;
call.uni (o), vprintf, (f, a); ld.param.b32 %r1, [o]; }
st.global.u32 [%p0], %r1;
{ .param .b64 m; .param .b64 f; .param .b32 l; .param .b64 n; .param .b64 c;
st.param.b64 [m], %d2; st.param.b64 [f], %d2; st.param.b32 [l], 12; st.param.b64 [n], %d2; st.param.b64 [c], 1;
call.uni __assertfail, (m, f, l, n, c); }
st.global.u32 [%p0+4], 1;
"""
    )
    result, out, device = run(body, cache, top=PRINT, globals_=globals_)
    assert result.stop == ASSERT
    assert list(out[:2]) == [1, 0]
    assert device.printed[0] == "x=%d\n 42"
    assert "Assertion" in device.printed[1]


#: format, where it lies, address of its arguments, stop, what is at fault
BAD_PRINTS = {
    "no end before the unmapped page": (b"xxxx", 7 * PAGE - 4, 0, ILLEGAL_ADDRESS, 7 * PAGE),
    "no arguments at all": (b"%d\0", 0x1000, 0, ILLEGAL_ADDRESS, -ARENA_BASE),
    "arguments run out": (
        *(b"%d %s%%%5.2lf\0", 0x1000, ARENA_BASE + 7 * PAGE - 16, ILLEGAL_ADDRESS, 7 * PAGE),
    ),
    "no conversion, no arguments": (b"100%%\0", 0x1000, 0, DONE, 0),
    "as many as fit": (b"%d%hhd %p\0", 0x1000, ARENA_BASE + 7 * PAGE - 16, DONE, 0),
}


@pytest.mark.parametrize("name", BAD_PRINTS)
def test_printf_reads_what_the_kernel_may_read(name: str, cache: Path) -> None:
    text, at, args, stop, fault = BAD_PRINTS[name]

    def globals_(device: Device) -> tuple[int]:
        device.view(ARENA_BASE + at, "u1", len(text))[:] = np.frombuffer(text, "u1")
        return (ARENA_BASE + at,)

    body = f"""
mov.u64 %d2, text; cvta.global.u64 %d2, %d2; mov.u64 %d1, {args};
{{ .param .b64 f; .param .b64 a; .param .b32 o; st.param.b64 [f], %d2; st.param.b64 [a], %d1;
call.uni (o), vprintf, (f, a); ld.param.b32 %r1, [o]; }}
"""
    result, _out, device = run(body, cache, top=PRINT, globals_=globals_)
    assert result.stop == stop, result
    assert len(device.printed) == (stop == DONE)
    if stop != DONE:
        assert result.fault_addr == ARENA_BASE + fault
        assert "call" in result.fault_where


def test_kernel_parameters_of_all_kinds(cache: Path) -> None:
    text = (
        HEAD
        + """
.visible .entry k(.param .u64 .ptr .global .align 8 o, .param .u8 a, .param .align 8 .b8 s[24], .param .f32 f)
{ .reg .b64 %p<4>; .reg .b32 %r<8>; .reg .f32 %f;
ld.param.u64 %p0, [o]; ld.param.u8 %r1, [a]; ld.param.u32 %r2, [s+16]; ld.param.f32 %f, [f];
mov.b64 %p1, s; ld.param.u32 %r3, [%p1+20]; cvta.param.u64 %p2, %p1; ld.u32 %r4, [%p2+8];
st.global.v4.u32 [%p0], {%r1, %r2, %r3, %r4}; st.global.f32 [%p0+16], %f; ret; }
"""
    )
    device = Device()
    out = device.alloc(64)
    packed = (
        pointers(out)
        + bytes([200, *([0] * 7)])
        + np.arange(6, dtype="u4").tobytes()
        + np.float32(1.5).tobytes()
    )
    result = load(text, "k", cache).run(device, packed)
    assert result.stop == DONE, result
    assert list(device.view(out, "u4", 4)) == [200, 4, 5, 2]
    assert device.view(out + 16, "f4", 1)[0] == 1.5


def test_approximations_are_close(cache: Path) -> None:
    forms = {
        "sin.approx.f32": np.sin,
        "cos.approx.f32": np.cos,
        "lg2.approx.f32": np.log2,
        "ex2.approx.ftz.f32": np.exp2,
        "tanh.approx.f32": np.tanh,
        "rcp.approx.f32": np.reciprocal,
        "sqrt.approx.f32": np.sqrt,
        "rsqrt.approx.f32": lambda x: 1 / np.sqrt(x),
    }
    values = np.linspace(0.05, 6, 64).astype("f4")
    body = "mov.u32 %r0, %tid.x; mul.wide.u32 %d0, %r0, 4; add.s64 %d0, %d0, %p0; ld.global.f32 %f1, [%d0];\n"
    body += "".join(
        f"{form} %f2, %f1; st.global.f32 [%d0+{256 * (i + 1)}], %f2;\n"
        for i, form in enumerate(forms)
    )
    device = Device()
    at = device.put(np.concatenate([values, np.zeros(64 * len(forms), "f4")]))
    result = load(HEAD + entry("k", 1, body), "k", cache).run(device, pointers(at), block=(64,))
    assert result.stop == DONE
    for i, f in enumerate(forms.values()):
        got = device.view(at + 256 * (i + 1), "f4", 64)
        assert np.allclose(got, f(values.astype("f8")), rtol=2e-6, atol=1e-6)
