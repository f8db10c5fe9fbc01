# SPDX-License-Identifier: Apache-2.0
"""Rows of instructions -> one kernel that runs them all over edge cases, and the comparison."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ptx_harness import DONE, HEAD, Device, load, pointers

THREADS = 512
SEED = int(os.environ.get("HARP_TEST_SEED", "20261122"))
BYTES = {"pred": 1, "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "f16x2": 4, "bf16x2": 4, "tf32": 4}
BYTES |= {f"{k}{n}": n // 8 for k in "bsu" for n in (8, 16, 32, 64)}
BYTES |= {"u16x2": 4, "s16x2": 4}


@dataclass(frozen=True)
class Row:
    """`text` has {d} {a} {b} {c} {e}; `expect` gets plain values and returns one."""

    text: str
    out: str
    ins: Sequence[str]
    expect: Callable[..., Any]
    imm: bool = False  # the last input is this row's own small operand, 0..300

    @property
    def name(self) -> str:
        return self.text.split(maxsplit=1)[0]


def edges(kind: str) -> list[int]:
    """Bit patterns worth trying."""
    bits = BYTES[kind] * 8
    if kind == "pred":
        return [0, 1]
    if kind in ("f16", "f16x2"):
        one = [0, 0x8000, 1, 0x8001, 0x3FF, 0x400, 0x3C00, 0xBC00, 0x3BFF, 0x7BFF, 0xFBFF, 0x7C00]
        one += [0xFC00, 0x7E00, 0x3555, 0x4248, 0x1400, 0x6BFF, 0x3800, 0x4000, 0x4900]
        return (
            one
            if kind == "f16"
            else [x | (y << 16) for x, y in zip(one, one[5:] + one[:5], strict=True)]
        )
    if kind in ("bf16", "bf16x2"):
        one = [0, 0x8000, 1, 0x8001, 0x7F, 0x80, 0x3F80, 0xBF80, 0x7F7F, 0xFF7F, 0x7F80, 0xFF80]
        one += [0x7FC0, 0x3EAB, 0x4049, 0x0040, 0x2000, 0x5F00, 0x3F00, 0x4000]
        return (
            one
            if kind == "bf16"
            else [x | (y << 16) for x, y in zip(one, one[5:] + one[:5], strict=True)]
        )
    if kind in ("f32", "tf32"):
        base = [0.0, 1.0, 1.5, 2.0, 0.5, 3.0, 1e-3, 0.1, 123456.789, 16777215.0, 2147483647.0]
        base += [2147483648.0, 4294967296.0, 9.2e18, 1.8446744e19, 3.4028235e38, 1.1754944e-38]
        base += [1e-39, 1.4e-45, 65504.0, 65519.0, 65520.0, 127.5, 128.5, 255.5, 32767.5, 2.5, 3.5]
        base += [float("inf"), 5.9604645e-08, 2.9802322e-08, 6e-05, 1.0000001, 0.99999994, 1e20]
        values = np.array([*base, *[-x for x in base]], dtype=np.float32)
        return [*(int(x) for x in values.view(np.uint32)), 0x7FC00000]
    if kind == "f64":
        base = [0.0, 1.0, 1.5, 2.0, 0.5, 3.0, 0.1, 1e-3, 123456.789, 4503599627370496.0, 2.0**53]
        base += [2147483647.5, 2147483648.0, 4294967295.5, 9.3e18, 1.9e19, 1e300, 1.7e308, 5e-324]
        base += [2.3e-308, 1e-310, 65504.0, 65520.0, 3.4e38, 3.5e38, 1e-45, 0.7e-45, 2.5, 3.5, 0.75]
        base += [float("inf"), 1 + 2**-24, 1 + 2**-25, 1 + 3 * 2**-24, 1 - 2**-53, 127.5, 255.5]
        values = np.array([*base, *[-x for x in base]], dtype=np.float64)
        return [*(int(x) for x in values.view(np.uint64)), 0x7FF8000000000000]
    top = 1 << bits
    some = [
        0,
        1,
        2,
        3,
        7,
        8,
        31,
        32,
        33,
        63,
        64,
        255,
        256,
        top - 1,
        top - 2,
        top // 2,
        top // 2 - 1,
    ]
    some += [top // 2 + 1, top // 3, 0x5A5A5A5A5A5A5A5A % top, 0xFFFF % top, 0x8000 % top]
    return [v % top for v in some]


def value_of(kind: str, bits: int) -> Any:
    """The number that the bits mean; halves and packed types stay bits."""
    if kind == "pred":
        return bool(bits)
    if kind == "f32":
        return np.uint32(bits).view(np.float32)
    if kind == "f64":
        return np.uint64(bits).view(np.float64)
    size = BYTES[kind] * 8
    if kind[0] == "s" and kind != "s16x2":
        return bits - (1 << size) if bits >> (size - 1) else bits
    return bits


def bits_of(kind: str, value: Any) -> int:
    """Back to bits."""
    if kind == "pred":
        return int(bool(value))
    if isinstance(value, (int, np.integer, bool)) and kind not in ("f32", "f64"):
        return int(value) & ((1 << (BYTES[kind] * 8)) - 1)
    if kind == "f32":
        return int(np.float32(value).view(np.uint32))
    if kind == "f64":
        return int(np.float64(value).view(np.uint64))
    raise TypeError(f"{kind}: {value!r}")


def is_nan(kind: str, bits: int) -> bool:
    """NaNs of one type are equal: PTX promises no payload."""
    match kind:
        case "f32":
            return bits & 0x7FFFFFFF > 0x7F800000
        case "f64":
            return bits & (2**63 - 1) > 0x7FF0000000000000
        case "f16":
            return bits & 0x7FFF > 0x7C00
        case "bf16":
            return bits & 0x7FFF > 0x7F80
        case _:
            return False


def same(kind: str, got: int, want: int) -> bool:
    if got == want:
        return True
    if kind in ("f16x2", "bf16x2"):
        half = kind[:-2]
        return all(same(half, got >> s & 0xFFFF, want >> s & 0xFFFF) for s in (0, 16))
    return is_nan(kind, got) and is_nan(kind, want)


def operands(kind: str, place: int, rng: random.Random) -> list[int]:
    """THREADS values for operand number `place`: pairs of edges first, then random bits."""
    e = edges(kind)
    out = [
        e[(i if place == 0 else i // len(e) if place == 1 else i * 7) % len(e)] for i in range(400)
    ]
    bits = BYTES[kind] * 8
    while len(out) < THREADS:
        out.append(rng.randrange(2) if kind == "pred" else rng.getrandbits(bits))
    return out


def build(rows: Sequence[Row], kernel: str) -> tuple[str, dict[tuple[str, int], int], list[Any]]:
    """PTX text; offset of each (type, place) in the input block; the input arrays."""
    rng = random.Random(SEED)
    print(f"HARP_TEST_SEED={SEED}")
    offsets: dict[tuple[str, int], int] = {}
    arrays: list[Any] = []
    at = 0
    body = []
    for number, row in enumerate(rows):
        regs, text = [], []
        names = {}
        for place, kind in enumerate(row.ins):
            # A letter of its own for each place, as in the template.
            letter = "abce"[place]
            key = ("imm", place) if row.imm and place == len(row.ins) - 1 else (kind, place)
            if key not in offsets:
                size = BYTES[kind]
                values = (
                    [rng.choice([0, 1, 5, 16, 31, 32, 33, 63, 64, 65, 300]) for _ in range(THREADS)]
                    if key[0] == "imm"
                    else operands(kind, place, rng)
                )
                dtype = np.dtype(f"u{size}")
                arrays.append((key, np.array(values, dtype=dtype)))
                offsets[key] = at
                at += THREADS * 8
            size = BYTES[kind]
            width = "pred" if kind == "pred" else f"b{max(16, size * 8)}"
            names[letter] = f"%x{letter}"
            regs.append(f".reg .{width} %x{letter};")
            text.append(f"mad.lo.u64 %addr, %tid64, {size}, %in;")
            where = f"[%addr+{offsets[key]}]"
            if kind == "pred":
                text.append(f"ld.global.u8 %tmp, {where}; setp.ne.u16 %x{letter}, %tmp, 0;")
            else:
                text.append(f"ld.global.b{size * 8} %x{letter}, {where};")
        size = BYTES[row.out]
        width = "pred" if row.out == "pred" else f"b{max(16, size * 8)}"
        regs.append(f".reg .{width} %xd;")
        text.append(row.text.format(d="%xd", **names) + ";")
        text.append(f"mad.lo.u64 %addr, %tid64, {size}, %out;")
        where = f"[%addr+{number * THREADS * 8}]"
        if row.out == "pred":
            text.append(f"selp.u16 %tmp, 1, 0, %xd; st.global.u8 {where}, %tmp;")
        else:
            text.append(f"st.global.b{size * 8} {where}, %xd;")
        body.append("{" + " ".join(regs) + "\n" + "\n".join(text) + "\n}")
    ptx = (
        HEAD + f".visible .entry {kernel}(.param .u64 i, .param .u64 o)\n{{\n.reg .b64 %in, %out, "
        "%addr, %tid64; .reg .b32 %t; .reg .b16 %tmp;\n.reg .pred %p<8>; .reg .b32 %v<8>;\n"
        ".reg .b64 %w<8>;\n"
        "ld.param.u64 %in, [i]; ld.param.u64 %out, [o];\n"
        "mov.u32 %t, %tid.x; cvt.u64.u32 %tid64, %t;\n" + "\n".join(body) + "\nret;\n}\n"
    )
    return ptx, offsets, arrays


def check(rows: Sequence[Row], cache: Path) -> None:
    """Runs all rows and fails with the first differences of each."""
    kernel = f"rows_{zlib.crc32(''.join(r.text for r in rows).encode()):08x}"
    ptx, offsets, arrays = build(rows, kernel)
    device = Device()
    inputs = device.alloc(len(arrays) * THREADS * 8)
    for key, array in arrays:
        device.view(inputs + offsets[key], array.dtype, THREADS)[:] = array
    out = device.alloc(len(rows) * THREADS * 8)
    result = load(ptx, kernel, cache).run(device, pointers(inputs, out), block=(THREADS,))
    assert result.stop == DONE, result
    by_key = dict(arrays)
    wrong = []
    for number, row in enumerate(rows):
        got = device.view(out + number * THREADS * 8, f"u{BYTES[row.out]}", THREADS)
        bad = 0
        for i in range(THREADS):
            args = []
            for place, kind in enumerate(row.ins):
                key = ("imm", place) if row.imm and place == len(row.ins) - 1 else (kind, place)
                args.append(value_of(kind, int(by_key[key][i])))
            with np.errstate(all="ignore"):
                want = bits_of(row.out, row.expect(*args))
            if not same(row.out, int(got[i]), want) and bad < 3:
                bad += 1
                wrong.append(f"{row.text}: {args} -> {int(got[i]):#x}, expected {want:#x}")
    assert not wrong, "\n".join(wrong[:40]) + f"\n({len(wrong)} differences, seed {SEED})"
