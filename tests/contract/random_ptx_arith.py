# SPDX-License-Identifier: Apache-2.0
"""Steps of random PTX kernels: arithmetic on integers, bits and floating point."""

from __future__ import annotations

import numpy as np
from random_ptx_model import (
    DTYPE,
    F16,
    F32,
    F64,
    U32,
    U64,
    divide,
    field,
    fma,
    insert,
    lop3,
    narrow,
    permute,
    pick,
    reverse_bits,
    saturate,
    shift,
    signed,
    wide,
)
from random_ptx_writer import Writer


def integer(k: Writer) -> None:
    kind = k.choice(U32, U32, U64)
    bits = kind[1:]
    sign = bool(k.rng.integers(2))
    t = f"{'s' if sign else 'u'}{bits}"
    a, b, c = k.take(kind), k.take(kind), k.take(kind)
    x, y, z = a.data, b.data, c.data
    match k.choice(
        *("add", "sub", "mul", "mad", "hi", "wide", "div", "rem", "min", "max", "neg", "abs"),
        *("sat", "sad"),
    ):
        case "add":
            k.op(f"add.{t}", kind, x + y, a, b)
        case "sub":
            k.op(f"sub.{t}", kind, x - y, a, b)
        case "mul":
            k.op(f"mul.lo.{t}", kind, x * y, a, b)
        case "mad":
            k.op(f"mad.lo.{t}", kind, x * y + z, a, b, c)
        case "hi":
            pairs = zip(wide(x, sign=sign), wide(y, sign=sign), strict=True)
            k.op(f"mul.hi.{t}", kind, narrow([p * q >> int(bits) for p, q in pairs], x), a, b)
        case "wide":
            a, b, d = k.take(U32), k.take(U32), k.take(U64)
            pairs = zip(wide(a.data, sign=sign), wide(b.data, sign=sign), strict=True)
            product = narrow([p * q for p, q in pairs], d.data)
            t = "s32" if sign else "u32"
            if k.rng.integers(2):
                k.op(f"mul.wide.{t}", U64, product, a, b)
            else:
                k.op(f"mad.wide.{t}", U64, product + d.data, a, b, d)
        case "div" | "rem" as which:
            # Divisors: never 0, never -1 (INT_MIN / -1 has no answer).
            mask = 0x7FFF if bits == "32" else 0x7FFFFFFF
            small = k.op(f"and.b{bits}", kind, y & DTYPE[kind](mask), b, mask)
            odd = k.op(f"or.b{bits}", kind, small.data | DTYPE[kind](1), small, 1)
            rest = which == "rem"
            data = divide(x, odd.data, sign=sign, rest=rest)
            k.op(f"{which}.{t}", kind, data, a, odd)
        case "min" | "max" as which:
            function = np.minimum if which == "min" else np.maximum
            p, q = (signed(x), signed(y)) if sign else (x, y)
            k.op(f"{which}.{t}", kind, function(p, q).view(DTYPE[kind]), a, b)
        case "neg":
            k.op(f"neg.s{bits}", kind, narrow([-v for v in wide(x, sign=True)], x), a)
        case "abs":
            k.op(f"abs.s{bits}", kind, narrow([abs(v) for v in wide(x, sign=True)], x), a)
        case "sat":
            a, b = k.take(U32), k.take(U32)
            add = bool(k.rng.integers(2))
            sums = [
                max(-(2**31), min(2**31 - 1, p + q if add else p - q))
                for p, q in zip(wide(a.data, sign=True), wide(b.data, sign=True), strict=True)
            ]
            name = "add" if add else "sub"
            k.op(f"{name}.sat.s32", U32, narrow(sums, a.data), a, b)
        case "sad":
            rows = zip(wide(x, sign=sign), wide(y, sign=sign), wide(z, sign=sign), strict=True)
            k.op(f"sad.{t}", kind, narrow([abs(p - q) + r for p, q, r in rows], x), a, b, c)


def bits(k: Writer) -> None:
    kind = k.choice(U32, U32, U64)
    bits = int(kind[1:])
    a, b, c = k.take(kind), k.take(kind), k.take(kind)
    x, y = a.data, b.data
    match k.choice(
        *("and", "or", "xor", "not", "cnot", "shl", "shr", "popc", "clz", "brev", "bfe"),
        *("bfi", "prmt", "lop3", "shf", "bfind"),
    ):
        case "and" | "or" | "xor" as which:
            data = {"and": x & y, "or": x | y, "xor": x ^ y}[which]
            k.op(f"{which}.b{bits}", kind, data, a, b)
        case "not":
            k.op(f"not.b{bits}", kind, ~x, a)
        case "cnot":
            k.op(f"cnot.b{bits}", kind, (x == 0).astype(DTYPE[kind]), a)
        case "shl" | "shr" as which:
            amount = k.take(U32)
            small = k.op("and.b32", U32, amount.data & np.uint32(127), amount, 127)
            sign = which == "shr" and bool(k.rng.integers(2))
            t = f"b{bits}" if which == "shl" else f"{'s' if sign else 'u'}{bits}"
            data = shift(x, small.data, which[-1], sign=sign)
            k.op(f"{which}.{t}", kind, data, a, small)
        case "popc":
            data = np.array([v.bit_count() for v in wide(x, sign=False)], np.uint32)
            k.op(f"popc.b{bits}", U32, data, a)
        case "clz":
            data = np.array([bits - v.bit_length() for v in wide(x, sign=False)], np.uint32)
            k.op(f"clz.b{bits}", U32, data, a)
        case "bfind":
            data = narrow([v.bit_length() - 1 for v in wide(x, sign=False)], np.zeros(0, np.uint32))
            k.op(f"bfind.u{bits}", U32, data, a)
        case "brev":
            k.op(f"brev.b{bits}", kind, reverse_bits(x), a)
        case "bfe":
            sign = bool(k.rng.integers(2))
            pos, length = (int(v) for v in k.rng.integers(0, bits, 2))
            t = f"{'s' if sign else 'u'}{bits}"
            k.op(f"bfe.{t}", kind, field(x, pos, length, sign=sign), a, pos, length)
        case "bfi":
            pos, length = (int(v) for v in k.rng.integers(0, bits, 2))
            k.op(f"bfi.b{bits}", kind, insert(x, y, pos, length), a, b, pos, length)
        case "prmt":
            a, b = k.take(U32), k.take(U32)
            selector = int(k.rng.integers(0, 1 << 16))
            k.op("prmt.b32", U32, permute(a.data, b.data, selector), a, b, selector)
        case "lop3":
            a, b, c = k.take(U32), k.take(U32), k.take(U32)
            table = int(k.rng.integers(0, 256))
            k.op("lop3.b32", U32, lop3(a.data, b.data, c.data, table), a, b, c, table)
        case "shf":
            a, b, c = k.take(U32), k.take(U32), k.take(U32)
            left, wrap = bool(k.rng.integers(2)), bool(k.rng.integers(2))
            out = []
            for low, high, by in zip(*(wide(v.data, sign=False) for v in (a, b, c)), strict=True):
                n = by & 31 if wrap else min(by, 32)
                both = high << 32 | low
                out.append(both << n >> 32 if left else both >> n)
            name = f"shf.{'l' if left else 'r'}.{'wrap' if wrap else 'clamp'}.b32"
            k.op(name, U32, narrow(out, a.data), a, b, c)


def floating(k: Writer) -> None:
    kind = k.choice(F32, F32, F64)
    a, b, c = k.take(kind), k.take(kind), k.take(kind)
    x, y = a.data, b.data
    one = DTYPE[kind](1)
    match k.choice(
        *("add", "sub", "mul", "fma", "div", "sqrt", "rcp", "min", "max", "neg", "abs"),
        *("sat", "copysign"),
    ):
        case "add" | "sub" | "mul" as which:
            data = {"add": x + y, "sub": x - y, "mul": x * y}[which]
            k.op(f"{which}{k.choice('', '.rn')}.{kind}", kind, data, a, b)
        case "fma":
            k.op(f"fma.rn.{kind}", kind, fma(x, y, c.data), a, b, c)
        case "div":
            k.op(f"div.rn.{kind}", kind, x / y, a, b)
        case "sqrt":
            k.op(f"sqrt.rn.{kind}", kind, np.sqrt(x), a)
        case "rcp":
            k.op(f"rcp.rn.{kind}", kind, one / x, a)
        case "min" | "max" as which:
            k.op(f"{which}.{kind}", kind, pick(x, y, larger=which == "max"), a, b)
        case "neg":
            k.op(f"neg.{kind}", kind, -x, a)
        case "abs":
            k.op(f"abs.{kind}", kind, np.abs(x), a)
        case "sat":
            a, b = k.take(F32), k.take(F32)
            name = k.choice("add", "mul")
            data = a.data + b.data if name == "add" else a.data * b.data
            k.op(f"{name}.sat.f32", F32, saturate(data), a, b)
        case "copysign":  # the sign is a's; a NaN's sign means nothing, so it gets none
            if not (np.isnan(x).any() or np.isnan(y).any()):
                k.op(f"copysign.{kind}", kind, np.copysign(y, x), a, b)


def half(k: Writer) -> None:
    a, b = k.take(F16), k.take(F16)
    name = k.choice("add", "sub", "mul", "neg", "abs", "min", "max")
    data = {
        "add": a.data + b.data,
        "sub": a.data - b.data,
        "mul": a.data * b.data,
        "neg": -a.data,
        "abs": np.abs(a.data),
        "min": pick(a.data, b.data, larger=False),
        "max": pick(a.data, b.data, larger=True),
    }[name]
    operands = (a,) if name in ("neg", "abs") else (a, b)
    k.op(f"{name}.f16", F16, data.astype(np.float16), *operands)
