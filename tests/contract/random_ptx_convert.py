# SPDX-License-Identifier: Apache-2.0
"""Steps of random PTX kernels: conversions, comparisons, selections, predicates."""

from __future__ import annotations

import numpy as np
from random_ptx_model import DTYPE, F16, F32, F64, PRED, U32, U64, signed, to_int
from random_ptx_writer import Writer


def convert(k: Writer) -> None:
    match k.choice("int_float", "float_int", "float_float", "int_int", "round", "half"):
        case "int_float":
            source, target = k.choice(U32, U64), k.choice(F32, F64)
            sign = bool(k.rng.integers(2))
            a = k.take(source)
            values = signed(a.data) if sign else a.data
            t = f"{'s' if sign else 'u'}{source[1:]}"
            k.op(f"cvt.rn.{target}.{t}", target, values.astype(DTYPE[target]), a)
        case "float_int":
            source, target = k.choice(F32, F64), k.choice(U32, U64)
            sign = bool(k.rng.integers(2))
            a = k.take(source)
            how = k.choice("rzi", "rni", "rmi", "rpi")
            t = f"{'s' if sign else 'u'}{target[1:]}"
            like = np.dtype(t.replace("s", "int").replace("u", "uint")).type
            k.op(f"cvt.{how}.{t}.{source}", target, to_int(a.data, like, how), a)
        case "float_float":
            if k.rng.integers(2):
                a = k.take(F32)
                k.op("cvt.f64.f32", F64, a.data.astype(np.float64), a)
            else:
                a = k.take(F64)
                k.op("cvt.rn.f32.f64", F32, a.data.astype(np.float32), a)
        case "int_int":
            t = k.choice("s8", "u8", "s16", "u16")
            dtype = np.dtype(t.replace("s", "int").replace("u", "uint"))
            a = k.take(U32)
            if k.rng.integers(2):
                low = a.data.astype(dtype)
                k.op(f"cvt.{t[0]}32.{t}", U32, low.astype(np.int64).astype(np.uint32), a)
            else:
                low = a.data.view(np.int32).astype(np.int64)
                k.op("cvt.s64.s32", U64, low.view(np.uint64), a)
                d = k.take(U64)
                k.op("cvt.u32.u64", U32, d.data.astype(np.uint32), d)
        case "round":
            kind, how = k.choice(F32, F64), k.choice("rzi", "rni", "rmi", "rpi")
            rounder = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}[how]
            a = k.take(kind)
            k.op(f"cvt.{how}.{kind}.{kind}", kind, rounder(a.data), a)
        case "half":
            if k.pool[F16] and k.rng.integers(2):
                a = k.take(F16)
                k.op("cvt.f32.f16", F32, a.data.astype(np.float32), a)
            else:
                a = k.take(F32)
                k.op("cvt.rn.f16.f32", F16, a.data.astype(np.float16), a)


def compare(k: Writer) -> None:
    kind = k.choice(U32, U64, F32, F64)
    a, b = k.take(kind), k.take(kind)
    x, y = a.data, b.data
    if kind in (F32, F64):
        name = k.choice("eq", "ne", "lt", "le", "gt", "ge", "num", "nan", "ltu", "neu", "equ")
        nan = np.isnan(x) | np.isnan(y)
        data = {
            "eq": x == y,
            "ne": (x != y) & ~nan,
            "lt": x < y,
            "le": x <= y,
            "gt": x > y,
            "ge": x >= y,
            "num": ~nan,
            "nan": nan,
            "ltu": (x < y) | nan,
            "neu": (x != y) | nan,
            "equ": (x == y) | nan,
        }[name]
        k.op(f"setp.{name}.{kind}", PRED, data, a, b)
        return
    name = k.choice("eq", "ne", "lt", "le", "gt", "ge")
    sign = bool(k.rng.integers(2))
    p, q = (signed(x), signed(y)) if sign else (x, y)
    functions = {
        "eq": np.equal,
        "ne": np.not_equal,
        "lt": np.less,
        "le": np.less_equal,
        "gt": np.greater,
        "ge": np.greater_equal,
    }
    t = f"{'s' if sign else 'u'}{kind[1:]}"
    data = functions[name](p, q)
    if k.pool[PRED] and k.rng.random() < 0.3:
        c = k.take(PRED)
        logic = k.choice("and", "or", "xor")
        data = {"and": data & c.data, "or": data | c.data, "xor": data ^ c.data}[logic]
        k.op(f"setp.{name}.{logic}.{t}", PRED, data, a, b, c)
    else:
        k.op(f"setp.{name}.{t}", PRED, data, a, b)


def select(k: Writer) -> None:
    kind = k.choice(U32, U64, F32, F64)
    a, b, p = k.take(kind), k.take(kind), k.take(PRED)
    data = np.where(p.data, a.data, b.data)
    if k.rng.integers(2):
        k.op(f"selp.{kind}", kind, data, a, b, p)
    else:  # the same by predicated moves
        name = k.new(kind)
        k.emit(f"mov.{kind} {name}, {b.name};")
        k.emit(f"@{p.name} mov.{kind} {name}, {a.name};")
        k.keep(kind, name, data)


def predicate_logic(k: Writer) -> None:
    a, b = k.take(PRED), k.take(PRED)
    name = k.choice("and", "or", "xor", "not")
    if name == "not":
        k.op("not.pred", PRED, ~a.data, a)
    else:
        data = {"and": a.data & b.data, "or": a.data | b.data, "xor": a.data ^ b.data}[name]
        k.op(f"{name}.pred", PRED, data, a, b)
