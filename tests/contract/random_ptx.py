# SPDX-License-Identifier: Apache-2.0
"""Random small PTX kernels, and what NumPy says they compute.

A `Kernel` grows instruction by instruction; each writes a line of PTX and computes the values of
all threads with NumPy at once, after the PTX manual's words. At the end the newest values of each
type are stored. Everything is deterministic in the generator given.

    python random_ptx.py SEED INDEX     prints one kernel
"""

from __future__ import annotations

import ctypes
import ctypes.util
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray

U32, U64, F32, F64, F16, PRED = "u32", "u64", "f32", "f64", "f16", "pred"
DTYPE = {
    U32: np.uint32,
    U64: np.uint64,
    F32: np.float32,
    F64: np.float64,
    F16: np.float16,
    PRED: np.bool_,
}
#: register prefix and declared type
REGISTER = {
    U32: ("r", "b32"),
    U64: ("d", "b64"),
    F32: ("f", "f32"),
    F64: ("g", "f64"),
    F16: ("h", "f16"),
    PRED: ("p", "pred"),
}
STORED = (U32, U64, F32, F64)

_libm = ctypes.CDLL(ctypes.util.find_library("m") or "libm.so.6")
_libm.fmaf.restype, _libm.fmaf.argtypes = ctypes.c_float, [ctypes.c_float] * 3
_libm.fma.restype, _libm.fma.argtypes = ctypes.c_double, [ctypes.c_double] * 3


def signed(a: Array) -> Array:
    return a.view({np.dtype(np.uint32): np.int32, np.dtype(np.uint64): np.int64}[a.dtype])


def wide(a: Array, *, sign: bool) -> list[int]:
    """Python integers, exact."""
    return [int(v) for v in (signed(a) if sign else a)]


def narrow(values: list[int], like: Array) -> Array:
    bits = like.dtype.itemsize * 8
    return np.array([v & ((1 << bits) - 1) for v in values], like.dtype)


def shift(a: Array, by: Array, direction: str, *, sign: bool = False) -> Array:
    """shl, shr: amounts of the register's width and more clamp."""
    bits = a.dtype.itemsize * 8
    out = []
    for v, n in zip(wide(a, sign=sign), wide(by, sign=False), strict=True):
        n = min(n, bits)  # noqa: PLW2901
        out.append(v << n if direction == "l" else v >> n)
    return narrow(out, a)


def divide(a: Array, b: Array, *, sign: bool, rest: bool) -> Array:
    """Towards zero; b is never 0."""
    out = []
    for x, y in zip(wide(a, sign=sign), wide(b, sign=sign), strict=True):
        q = abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
        out.append(x - q * y if rest else q)
    return narrow(out, a)


def fma(a: Array, b: Array, c: Array) -> Array:
    function = _libm.fmaf if a.dtype == np.float32 else _libm.fma
    return np.array([function(x, y, z) for x, y, z in zip(a, b, c, strict=True)], a.dtype)


def pick(a: Array, b: Array, *, larger: bool) -> Array:
    """min and max: a NaN loses, -0 is less than +0."""
    zero = (a == 0) & (b == 0)
    negative = np.signbit(a)
    first = np.where(zero, ~negative if larger else negative, (a > b) if larger else (a < b))
    return np.where(np.isnan(a), b, np.where(np.isnan(b), a, np.where(first, a, b)))


def to_int(a: Array, like: type, rounding: str) -> Array:
    """cvt float to integer: rounds and saturates.

    A NaN is 0 where neither side has 64 bits, else the integer with only its top bit set.
    """
    info = np.iinfo(like)
    nan = 0 if a.dtype == np.float32 and info.bits == 32 else 1 << (info.bits - 1)
    rounder = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}[rounding]
    out = []
    for v in rounder(a.astype(np.float64)):
        if np.isnan(v):
            out.append(nan)
        elif np.isinf(v):
            out.append(info.max if v > 0 else info.min)
        else:
            out.append(min(max(int(v), info.min), info.max))
    bits = info.bits
    unsigned = np.uint32 if bits == 32 else np.uint64
    return np.array([v & ((1 << bits) - 1) for v in out], unsigned)


def saturate(a: Array) -> Array:
    """.sat of a float: [+0, 1], NaN is +0."""
    clipped = np.where(np.isnan(a) | (a <= 0), a.dtype.type(0), a)
    return np.where(clipped > 1, a.dtype.type(1), clipped)


def permute(a: Array, b: Array, selector: int) -> Array:
    out = []
    for x, y in zip(wide(a, sign=False), wide(b, sign=False), strict=True):
        source = (x | y << 32).to_bytes(8, "little")
        value = 0
        for i in range(4):
            nibble = selector >> (4 * i) & 15
            byte = source[nibble & 7]
            if nibble & 8:
                byte = 0xFF if byte & 0x80 else 0
            value |= byte << (8 * i)
        out.append(value)
    return narrow(out, a)


def field(a: Array, pos: int, length: int, *, sign: bool) -> Array:
    """bfe: bits above the register repeat its sign (or are 0)."""
    bits = a.dtype.itemsize * 8
    out = []
    for v in wide(a, sign=sign):
        got = (v >> min(pos, bits)) & ((1 << length) - 1)
        if sign and length:
            top = min(pos + length - 1, bits - 1)
            if v >> top & 1:
                have = max(0, min(length, bits - pos))
                got |= ~((1 << have) - 1) if have else -1
        out.append(0 if length == 0 else got)
    return narrow(out, a)


def insert(a: Array, b: Array, pos: int, length: int) -> Array:
    bits = a.dtype.itemsize * 8
    mask = ((1 << length) - 1 << pos) & ((1 << bits) - 1)
    return narrow(
        [
            (y & ~mask) | (x << pos & mask)
            for x, y in zip(wide(a, sign=False), wide(b, sign=False), strict=True)
        ],
        a,
    )


def reverse_bits(a: Array) -> Array:
    bits = a.dtype.itemsize * 8
    return narrow([int(f"{v:0{bits}b}"[::-1], 2) for v in wide(a, sign=False)], a)


def lop3(a: Array, b: Array, c: Array, table: int) -> Array:
    out = np.zeros_like(a)
    for i in range(8):
        if table >> i & 1:
            term = (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
            out |= term
    return out


@dataclass(frozen=True)
class Value:
    kind: str
    name: str
    data: Array  # one element a thread


class Kernel:
    """One random kernel: `ptx`, its inputs and what its outputs must be.

    Args:
        rng: decides everything.
        steps: instructions (or small groups of them) to write.
    """

    def __init__(self, rng: np.random.Generator, steps: int) -> None:
        self.rng = rng
        self.blocks = int(rng.integers(1, 4))
        self.threads = int(rng.choice([32, 64, 96, 128, 45]))
        self.count = self.blocks * self.threads
        self.lines: list[str] = []
        self.decls: list[str] = []
        self.used: dict[str, int] = dict.fromkeys(REGISTER, 0)
        self.pool: dict[str, list[Value]] = {kind: [] for kind in REGISTER}
        self.labels = 0
        self.inputs: dict[str, Array] = {}
        self.totals: list[tuple[str, int]] = []  # red operation, expected value
        self._begin()
        for _ in range(steps):
            step = rng.choice(self._steps(), p=self._weights())
            with np.errstate(all="ignore"):
                step()
        self._end()

    # -------------------------------------------------------------------- registers, lines ----
    def new(self, kind: str) -> str:
        prefix, _ = REGISTER[kind]
        self.used[kind] += 1
        return f"%{prefix}{self.used[kind]}"

    def emit(self, line: str) -> None:
        self.lines.append(f"    {line}")

    def keep(self, kind: str, name: str, data: Array) -> Value:
        assert data.dtype == DTYPE[kind], (kind, data.dtype)
        assert data.shape == (self.count,)
        value = Value(kind, name, data)
        self.pool[kind].append(value)
        return value

    def take(self, kind: str) -> Value:
        pool = self.pool[kind]
        # Newer values are likelier: chains grow deep.
        at = len(pool) - 1 - int(min(self.rng.geometric(0.25) - 1, len(pool) - 1))
        return pool[at]

    def op(self, text: str, kind: str, data: Array, *operands: object) -> Value:
        """Writes `text` with a new destination and the operands."""
        name = self.new(kind)
        names = [o.name if isinstance(o, Value) else str(o) for o in operands]
        self.emit(f"{text} {', '.join([name, *names])};")
        return self.keep(kind, name, data)

    def label(self) -> str:
        self.labels += 1
        return f"L{self.labels}"

    # --------------------------------------------------------------------------- begin, end ----
    def _begin(self) -> None:
        rng, n = self.rng, self.count
        special32 = np.array([0, 1, 2**31, 2**32 - 1, 2**31 - 1], np.uint32)
        special_f = np.array([0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 1e-40, 3e38], np.float32)
        for i in range(2):
            ints = rng.integers(0, 2**32, n, dtype=np.uint32)
            ints[rng.random(n) < 0.1] = rng.choice(special32)
            self.inputs[f"in{i}_u32"] = ints
            self.inputs[f"in{i}_u64"] = rng.integers(0, 2**64, n, dtype=np.uint64)
            floats = (rng.standard_normal(n) * 10.0 ** rng.integers(-3, 6)).astype(np.float32)
            floats[rng.random(n) < 0.1] = rng.choice(special_f)
            self.inputs[f"in{i}_f32"] = floats
            self.inputs[f"in{i}_f64"] = rng.standard_normal(n) * 10.0 ** rng.integers(-3, 9)
        for line in (
            "mov.u32 %thread, %tid.x;",
            "mov.u32 %lin, %ctaid.x;",
            "mov.u32 %tmp, %ntid.x;",
            "mad.lo.u32 %lin, %lin, %tmp, %thread;",
        ):
            self.emit(line)
        for name, data in self.inputs.items():
            kind = name.split("_")[1]
            self.emit(f"ld.param.u64 %at, [{name}];")
            self.emit(f"mad.wide.u32 %at, %lin, {data.itemsize}, %at;")
            register = self.new(kind)
            self.emit(f"ld.global.{kind} {register}, [%at];")
            self.keep(kind, register, data)
        lin = np.arange(n, dtype=np.uint32)
        self.keep(U32, "%lin", lin)
        self.keep(U32, "%thread", lin % np.uint32(self.threads))
        with np.errstate(all="ignore"):
            for kind in (F16, PRED):
                self._convert() if kind == F16 else self._compare()
                while not self.pool[kind]:
                    self._convert() if kind == F16 else self._compare()

    def _end(self) -> None:
        self.outputs: list[tuple[str, Array]] = []
        at = 0
        self.emit("ld.param.u64 %at, [out];")
        self.emit("mad.wide.u32 %at, %lin, 8, %at;")
        for kind in STORED:
            for value in self.pool[kind][-8:]:
                self.emit(f"st.global.{kind} [%at+{at * self.count * 8}], {value.name};")
                self.outputs.append((kind, value.data))
                at += 1
        for value in self.pool[PRED][-3:]:
            name = self.new(U32)
            self.emit(f"selp.u32 {name}, 1, 0, {value.name};")
            self.emit(f"st.global.u32 [%at+{at * self.count * 8}], {name};")
            self.outputs.append((U32, value.data.astype(np.uint32)))
            at += 1
        self.out_bytes = at * self.count * 8
        self.emit("ret;")

    @property
    def ptx(self) -> str:
        params = [*self.inputs, "out", "totals"]
        lines = [
            ".version 7.8",
            ".target sm_90",
            ".address_size 64",
            "",
            ".func (.param .b32 out) mix(.param .b32 a, .param .b32 b)",
            "{",
            "    .reg .b32 %a, %b;",
            "    ld.param.b32 %a, [a];",
            "    ld.param.b32 %b, [b];",
            "    mad.lo.u32 %a, %a, 2654435761, %b;",
            "    shf.l.wrap.b32 %a, %a, %a, 13;",
            "    st.param.b32 [out], %a;",
            "    ret;",
            "}",
            "",
            ".visible .entry random(" + ", ".join(f".param .u64 {p}" for p in params) + ")",
            "{",
            "    .reg .b32 %thread, %lin, %tmp, %addr, %loop;",
            "    .reg .b64 %at;",
            "    .reg .pred %go;",
        ]
        for kind, (prefix, declared) in REGISTER.items():
            lines.append(f"    .reg .{declared} %{prefix}<{self.used[kind] + 1}>;")
        return "\n".join([*lines, *self.decls, *self.lines, "}", ""])

    # -------------------------------------------------------------------------------- steps ----
    def _steps(self) -> list[Callable[[], None]]:
        return [row[0] for row in self._table()]

    def _weights(self) -> list[float]:
        weights = [row[1] for row in self._table()]
        return [w / sum(weights) for w in weights]

    def _table(self) -> list[tuple[Callable[[], None], float]]:
        whole_warps = self.threads % 32 == 0
        return [
            (self._integer, 10),
            (self._bits, 6),
            (self._float, 10),
            (self._half, 2),
            (self._convert, 6),
            (self._compare, 5),
            (self._select, 4),
            (self._predicate_logic, 2),
            (self._branch, 2),
            (self._loop, 2),
            (self._shared, 1.5),
            (self._local, 1),
            (self._call, 1),
            (self._carry, 1),
            (self._reduce, 0.5),
            (self._warp, 2 if whole_warps else 0),
        ]

    def _choice(self, *options: str) -> str:
        return str(self.rng.choice(options))

    def _integer(self) -> None:
        kind = self._choice(U32, U32, U64)
        bits = kind[1:]
        sign = bool(self.rng.integers(2))
        t = f"{'s' if sign else 'u'}{bits}"
        a, b, c = self.take(kind), self.take(kind), self.take(kind)
        x, y, z = a.data, b.data, c.data
        match self._choice(
            *("add", "sub", "mul", "mad", "hi", "wide", "div", "rem", "min", "max", "neg", "abs"),
            *("sat", "sad"),
        ):
            case "add":
                self.op(f"add.{t}", kind, x + y, a, b)
            case "sub":
                self.op(f"sub.{t}", kind, x - y, a, b)
            case "mul":
                self.op(f"mul.lo.{t}", kind, x * y, a, b)
            case "mad":
                self.op(f"mad.lo.{t}", kind, x * y + z, a, b, c)
            case "hi":
                pairs = zip(wide(x, sign=sign), wide(y, sign=sign), strict=True)
                self.op(
                    f"mul.hi.{t}", kind, narrow([p * q >> int(bits) for p, q in pairs], x), a, b
                )
            case "wide":
                a, b, d = self.take(U32), self.take(U32), self.take(U64)
                pairs = zip(wide(a.data, sign=sign), wide(b.data, sign=sign), strict=True)
                product = narrow([p * q for p, q in pairs], d.data)
                t = "s32" if sign else "u32"
                if self.rng.integers(2):
                    self.op(f"mul.wide.{t}", U64, product, a, b)
                else:
                    self.op(f"mad.wide.{t}", U64, product + d.data, a, b, d)
            case "div" | "rem" as which:
                # Divisors: never 0, never -1 (INT_MIN / -1 has no answer).
                mask = 0x7FFF if bits == "32" else 0x7FFFFFFF
                small = self.op(f"and.b{bits}", kind, y & DTYPE[kind](mask), b, mask)
                odd = self.op(f"or.b{bits}", kind, small.data | DTYPE[kind](1), small, 1)
                rest = which == "rem"
                data = divide(x, odd.data, sign=sign, rest=rest)
                self.op(f"{which}.{t}", kind, data, a, odd)
            case "min" | "max" as which:
                function = np.minimum if which == "min" else np.maximum
                p, q = (signed(x), signed(y)) if sign else (x, y)
                self.op(f"{which}.{t}", kind, function(p, q).view(DTYPE[kind]), a, b)
            case "neg":
                self.op(f"neg.s{bits}", kind, narrow([-v for v in wide(x, sign=True)], x), a)
            case "abs":
                self.op(f"abs.s{bits}", kind, narrow([abs(v) for v in wide(x, sign=True)], x), a)
            case "sat":
                a, b = self.take(U32), self.take(U32)
                add = bool(self.rng.integers(2))
                sums = [
                    max(-(2**31), min(2**31 - 1, p + q if add else p - q))
                    for p, q in zip(wide(a.data, sign=True), wide(b.data, sign=True), strict=True)
                ]
                name = "add" if add else "sub"
                self.op(f"{name}.sat.s32", U32, narrow(sums, a.data), a, b)
            case "sad":
                rows = zip(wide(x, sign=sign), wide(y, sign=sign), wide(z, sign=sign), strict=True)
                self.op(f"sad.{t}", kind, narrow([abs(p - q) + r for p, q, r in rows], x), a, b, c)

    def _bits(self) -> None:
        kind = self._choice(U32, U32, U64)
        bits = int(kind[1:])
        a, b, c = self.take(kind), self.take(kind), self.take(kind)
        x, y = a.data, b.data
        match self._choice(
            *("and", "or", "xor", "not", "cnot", "shl", "shr", "popc", "clz", "brev", "bfe"),
            *("bfi", "prmt", "lop3", "shf", "bfind"),
        ):
            case "and" | "or" | "xor" as which:
                data = {"and": x & y, "or": x | y, "xor": x ^ y}[which]
                self.op(f"{which}.b{bits}", kind, data, a, b)
            case "not":
                self.op(f"not.b{bits}", kind, ~x, a)
            case "cnot":
                self.op(f"cnot.b{bits}", kind, (x == 0).astype(DTYPE[kind]), a)
            case "shl" | "shr" as which:
                amount = self.take(U32)
                small = self.op("and.b32", U32, amount.data & np.uint32(127), amount, 127)
                sign = which == "shr" and bool(self.rng.integers(2))
                t = f"b{bits}" if which == "shl" else f"{'s' if sign else 'u'}{bits}"
                data = shift(x, small.data, which[-1], sign=sign)
                self.op(f"{which}.{t}", kind, data, a, small)
            case "popc":
                data = np.array([v.bit_count() for v in wide(x, sign=False)], np.uint32)
                self.op(f"popc.b{bits}", U32, data, a)
            case "clz":
                data = np.array([bits - v.bit_length() for v in wide(x, sign=False)], np.uint32)
                self.op(f"clz.b{bits}", U32, data, a)
            case "bfind":
                data = narrow(
                    [v.bit_length() - 1 for v in wide(x, sign=False)], np.zeros(0, np.uint32)
                )
                self.op(f"bfind.u{bits}", U32, data, a)
            case "brev":
                self.op(f"brev.b{bits}", kind, reverse_bits(x), a)
            case "bfe":
                sign = bool(self.rng.integers(2))
                pos, length = (int(v) for v in self.rng.integers(0, bits, 2))
                t = f"{'s' if sign else 'u'}{bits}"
                self.op(f"bfe.{t}", kind, field(x, pos, length, sign=sign), a, pos, length)
            case "bfi":
                pos, length = (int(v) for v in self.rng.integers(0, bits, 2))
                self.op(f"bfi.b{bits}", kind, insert(x, y, pos, length), a, b, pos, length)
            case "prmt":
                a, b = self.take(U32), self.take(U32)
                selector = int(self.rng.integers(0, 1 << 16))
                self.op("prmt.b32", U32, permute(a.data, b.data, selector), a, b, selector)
            case "lop3":
                a, b, c = self.take(U32), self.take(U32), self.take(U32)
                table = int(self.rng.integers(0, 256))
                self.op("lop3.b32", U32, lop3(a.data, b.data, c.data, table), a, b, c, table)
            case "shf":
                a, b, c = self.take(U32), self.take(U32), self.take(U32)
                left, wrap = bool(self.rng.integers(2)), bool(self.rng.integers(2))
                out = []
                for low, high, by in zip(
                    *(wide(v.data, sign=False) for v in (a, b, c)), strict=True
                ):
                    n = by & 31 if wrap else min(by, 32)
                    both = high << 32 | low
                    out.append(both << n >> 32 if left else both >> n)
                name = f"shf.{'l' if left else 'r'}.{'wrap' if wrap else 'clamp'}.b32"
                self.op(name, U32, narrow(out, a.data), a, b, c)

    def _float(self) -> None:
        kind = self._choice(F32, F32, F64)
        a, b, c = self.take(kind), self.take(kind), self.take(kind)
        x, y = a.data, b.data
        one = DTYPE[kind](1)
        match self._choice(
            *("add", "sub", "mul", "fma", "div", "sqrt", "rcp", "min", "max", "neg", "abs"),
            *("sat", "copysign"),
        ):
            case "add" | "sub" | "mul" as which:
                data = {"add": x + y, "sub": x - y, "mul": x * y}[which]
                self.op(f"{which}{self._choice('', '.rn')}.{kind}", kind, data, a, b)
            case "fma":
                self.op(f"fma.rn.{kind}", kind, fma(x, y, c.data), a, b, c)
            case "div":
                self.op(f"div.rn.{kind}", kind, x / y, a, b)
            case "sqrt":
                self.op(f"sqrt.rn.{kind}", kind, np.sqrt(x), a)
            case "rcp":
                self.op(f"rcp.rn.{kind}", kind, one / x, a)
            case "min" | "max" as which:
                self.op(f"{which}.{kind}", kind, pick(x, y, larger=which == "max"), a, b)
            case "neg":
                self.op(f"neg.{kind}", kind, -x, a)
            case "abs":
                self.op(f"abs.{kind}", kind, np.abs(x), a)
            case "sat":
                a, b = self.take(F32), self.take(F32)
                name = self._choice("add", "mul")
                data = a.data + b.data if name == "add" else a.data * b.data
                self.op(f"{name}.sat.f32", F32, saturate(data), a, b)
            case "copysign":  # the sign is a's; a NaN's sign means nothing, so it gets none
                if not (np.isnan(x).any() or np.isnan(y).any()):
                    self.op(f"copysign.{kind}", kind, np.copysign(y, x), a, b)

    def _half(self) -> None:
        a, b = self.take(F16), self.take(F16)
        name = self._choice("add", "sub", "mul", "neg", "abs", "min", "max")
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
        self.op(f"{name}.f16", F16, data.astype(np.float16), *operands)

    def _convert(self) -> None:
        match self._choice("int_float", "float_int", "float_float", "int_int", "round", "half"):
            case "int_float":
                source, target = self._choice(U32, U64), self._choice(F32, F64)
                sign = bool(self.rng.integers(2))
                a = self.take(source)
                values = signed(a.data) if sign else a.data
                t = f"{'s' if sign else 'u'}{source[1:]}"
                self.op(f"cvt.rn.{target}.{t}", target, values.astype(DTYPE[target]), a)
            case "float_int":
                source, target = self._choice(F32, F64), self._choice(U32, U64)
                sign = bool(self.rng.integers(2))
                a = self.take(source)
                how = self._choice("rzi", "rni", "rmi", "rpi")
                t = f"{'s' if sign else 'u'}{target[1:]}"
                like = np.dtype(t.replace("s", "int").replace("u", "uint")).type
                self.op(f"cvt.{how}.{t}.{source}", target, to_int(a.data, like, how), a)
            case "float_float":
                if self.rng.integers(2):
                    a = self.take(F32)
                    self.op("cvt.f64.f32", F64, a.data.astype(np.float64), a)
                else:
                    a = self.take(F64)
                    self.op("cvt.rn.f32.f64", F32, a.data.astype(np.float32), a)
            case "int_int":
                t = self._choice("s8", "u8", "s16", "u16")
                dtype = np.dtype(t.replace("s", "int").replace("u", "uint"))
                a = self.take(U32)
                if self.rng.integers(2):
                    low = a.data.astype(dtype)
                    self.op(f"cvt.{t[0]}32.{t}", U32, low.astype(np.int64).astype(np.uint32), a)
                else:
                    low = a.data.view(np.int32).astype(np.int64)
                    self.op("cvt.s64.s32", U64, low.view(np.uint64), a)
                    d = self.take(U64)
                    self.op("cvt.u32.u64", U32, d.data.astype(np.uint32), d)
            case "round":
                kind, how = self._choice(F32, F64), self._choice("rzi", "rni", "rmi", "rpi")
                rounder = {"rzi": np.trunc, "rni": np.rint, "rmi": np.floor, "rpi": np.ceil}[how]
                a = self.take(kind)
                self.op(f"cvt.{how}.{kind}.{kind}", kind, rounder(a.data), a)
            case "half":
                if self.pool[F16] and self.rng.integers(2):
                    a = self.take(F16)
                    self.op("cvt.f32.f16", F32, a.data.astype(np.float32), a)
                else:
                    a = self.take(F32)
                    self.op("cvt.rn.f16.f32", F16, a.data.astype(np.float16), a)

    def _compare(self) -> None:
        kind = self._choice(U32, U64, F32, F64)
        a, b = self.take(kind), self.take(kind)
        x, y = a.data, b.data
        if kind in (F32, F64):
            name = self._choice(
                "eq", "ne", "lt", "le", "gt", "ge", "num", "nan", "ltu", "neu", "equ"
            )
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
            self.op(f"setp.{name}.{kind}", PRED, data, a, b)
            return
        name = self._choice("eq", "ne", "lt", "le", "gt", "ge")
        sign = bool(self.rng.integers(2))
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
        if self.pool[PRED] and self.rng.random() < 0.3:
            c = self.take(PRED)
            logic = self._choice("and", "or", "xor")
            data = {"and": data & c.data, "or": data | c.data, "xor": data ^ c.data}[logic]
            self.op(f"setp.{name}.{logic}.{t}", PRED, data, a, b, c)
        else:
            self.op(f"setp.{name}.{t}", PRED, data, a, b)

    def _select(self) -> None:
        kind = self._choice(U32, U64, F32, F64)
        a, b, p = self.take(kind), self.take(kind), self.take(PRED)
        data = np.where(p.data, a.data, b.data)
        if self.rng.integers(2):
            self.op(f"selp.{kind}", kind, data, a, b, p)
        else:  # the same by predicated moves
            name = self.new(kind)
            self.emit(f"mov.{kind} {name}, {b.name};")
            self.emit(f"@{p.name} mov.{kind} {name}, {a.name};")
            self.keep(kind, name, data)

    def _predicate_logic(self) -> None:
        a, b = self.take(PRED), self.take(PRED)
        name = self._choice("and", "or", "xor", "not")
        if name == "not":
            self.op("not.pred", PRED, ~a.data, a)
        else:
            data = {"and": a.data & b.data, "or": a.data | b.data, "xor": a.data ^ b.data}[name]
            self.op(f"{name}.pred", PRED, data, a, b)

    def _branch(self) -> None:
        """A divergent if/else."""
        p, a, b = self.take(PRED), self.take(U32), self.take(U32)
        other, end = self.label(), self.label()
        name = self.new(U32)
        self.emit(f"@!{p.name} bra {other};")
        self.emit(f"add.u32 {name}, {a.name}, {b.name};")
        self.emit(f"xor.b32 {name}, {name}, 12345;")
        self.emit(f"bra.uni {end};" if self.rng.integers(2) and p.data.all() else f"bra {end};")
        self.lines.append(f"{other}:")
        self.emit(f"sub.u32 {name}, {a.name}, {b.name};")
        self.lines.append(f"{end}:")
        data = np.where(p.data, (a.data + b.data) ^ np.uint32(12345), a.data - b.data)
        self.keep(U32, name, data)

    def _loop(self) -> None:
        """A loop whose length differs from thread to thread."""
        a, b, times = self.take(U32), self.take(U32), self.take(U32)
        mask = int(self.rng.choice([1, 3, 7, 15]))
        name, left = self.new(U32), self.new(U32)
        top, end = self.label(), self.label()
        self.emit(f"mov.u32 {name}, {a.name};")
        self.emit(f"and.b32 {left}, {times.name}, {mask};")
        self.lines.append(f"{top}:")
        self.emit(f"setp.eq.u32 %go, {left}, 0;")
        self.emit(f"@%go bra {end};")
        self.emit(f"mad.lo.u32 {name}, {name}, {b.name}, {left};")
        self.emit(f"sub.u32 {left}, {left}, 1;")
        self.emit(f"bra {top};")
        self.lines.append(f"{end}:")
        data, rest = a.data.copy(), times.data & np.uint32(mask)
        while rest.any():
            data = np.where(rest > 0, data * b.data + rest, data)
            rest = np.where(rest > 0, rest - np.uint32(1), rest)
        self.keep(U32, name, data)

    def _shared(self) -> None:
        """Threads of a block exchange values through shared memory."""
        kind = self._choice(U32, U64, F32)
        a = self.take(kind)
        size = a.data.itemsize
        name = f"exchange{len(self.decls)}"
        self.decls.append(f"    .shared .align 8 .b8 {name}[{size * self.threads}];")
        offset = int(self.rng.integers(0, self.threads))
        self.emit(f"mov.u32 %addr, {name};")
        self.emit(f"mad.lo.u32 %addr, %thread, {size}, %addr;")
        self.emit(f"st.shared.{kind} [%addr], {a.name};")
        self.emit("bar.sync 0;")
        self.emit(f"add.u32 %tmp, %thread, {offset};")
        self.emit(f"rem.u32 %tmp, %tmp, {self.threads};")
        self.emit(f"mov.u32 %addr, {name};")
        self.emit(f"mad.lo.u32 %addr, %tmp, {size}, %addr;")
        target = self.new(kind)
        self.emit(f"ld.shared.{kind} {target}, [%addr];")
        by_block = a.data.reshape(self.blocks, self.threads)
        self.keep(kind, target, np.roll(by_block, -offset, axis=1).reshape(-1))

    def _local(self) -> None:
        """A small array of each thread, indexed by a value."""
        values = [self.take(U32) for _ in range(4)]
        index = self.take(U32)
        name = f"array{len(self.decls)}"
        self.decls.append(f"    .local .align 16 .b8 {name}[16];")
        self.emit(f"mov.u64 %at, {name};")
        first, second, third, fourth = (value.name for value in values)
        if self.rng.integers(2):
            self.emit(f"st.local.v4.u32 [%at], {{{first}, {second}, {third}, {fourth}}};")
        else:
            self.emit(f"st.local.v2.u32 [%at], {{{first}, {second}}};")
            self.emit(f"st.local.u32 [%at+8], {third};")
            self.emit(f"st.local.u32 [%at+12], {fourth};")
        self.emit(f"and.b32 %tmp, {index.name}, 3;")
        self.emit("mad.wide.u32 %at, %tmp, 4, %at;")
        target = self.new(U32)
        self.emit(f"ld.local.u32 {target}, [%at];")
        rows = np.stack([value.data for value in values])
        self.keep(U32, target, rows[index.data & 3, np.arange(self.count)])

    def _call(self) -> None:
        """A device function."""
        a, b = self.take(U32), self.take(U32)
        name = self.new(U32)
        self.emit("{")
        self.emit("  .param .b32 first, second, result;")
        self.emit(f"  st.param.b32 [first], {a.name};")
        self.emit(f"  st.param.b32 [second], {b.name};")
        self.emit("  call.uni (result), mix, (first, second);")
        self.emit(f"  ld.param.b32 {name}, [result];")
        self.emit("}")
        product = a.data * np.uint32(2654435761) + b.data
        self.keep(U32, name, product << np.uint32(13) | product >> np.uint32(19))

    def _carry(self) -> None:
        """A 64-bit sum of two 32-bit halves."""
        low, high, p, q = (self.take(U32) for _ in range(4))
        add = bool(self.rng.integers(2))
        out_low, out_high = self.new(U32), self.new(U32)
        first, second = ("add.cc", "addc") if add else ("sub.cc", "subc")
        self.emit(f"{first}.u32 {out_low}, {low.name}, {p.name};")
        self.emit(f"{second}.u32 {out_high}, {high.name}, {q.name};")
        a = low.data.astype(np.uint64) | high.data.astype(np.uint64) << np.uint64(32)
        b = p.data.astype(np.uint64) | q.data.astype(np.uint64) << np.uint64(32)
        both = a + b if add else a - b
        self.keep(U32, out_low, both.astype(np.uint32))
        self.keep(U32, out_high, (both >> np.uint64(32)).astype(np.uint32))

    def _reduce(self) -> None:
        """All threads of the grid on one cell."""
        a = self.take(U32)
        name = self._choice("add", "xor", "min", "max", "or", "and")
        at = len(self.totals) * 4
        t = "b32" if name in ("xor", "or", "and") else "u32"
        self.emit("ld.param.u64 %at, [totals];")
        self.emit(f"red.global.{name}.{t} [%at+{at}], {a.name};")
        values = wide(a.data, sign=False)
        start = {"min": 2**32 - 1, "and": 2**32 - 1}.get(name, 0)
        total = start
        for v in values:
            match name:
                case "add":
                    total = (total + v) & 0xFFFFFFFF
                case "xor":
                    total ^= v
                case "min":
                    total = min(total, v)
                case "max":
                    total = max(total, v)
                case "or":
                    total |= v
                case "and":
                    total &= v
        self.totals.append((name, total))

    def _warp(self) -> None:
        """Threads of a warp exchange values."""
        a = self.take(U32)
        lanes = a.data.reshape(-1, 32)
        lane = np.arange(32)
        match self._choice("bfly", "down", "up", "idx", "ballot", "all", "any", "redux"):
            case "bfly":
                by = int(self.rng.integers(1, 32))
                data = lanes[:, lane ^ by]
                self.op("shfl.sync.bfly.b32", U32, data.reshape(-1), a, by, 31, -1)
            case "down":
                by = int(self.rng.integers(1, 32))
                data = lanes[:, np.where(lane + by < 32, lane + by, lane)]
                self.op("shfl.sync.down.b32", U32, data.reshape(-1), a, by, 31, -1)
            case "up":
                by = int(self.rng.integers(1, 32))
                data = lanes[:, np.where(lane - by >= 0, lane - by, lane)]
                self.op("shfl.sync.up.b32", U32, data.reshape(-1), a, by, 0, -1)
            case "idx":
                index = self.take(U32)
                at = (index.data & np.uint32(31)).reshape(-1, 32)
                data = np.take_along_axis(lanes, at.astype(np.int64), axis=1)
                self.op("shfl.sync.idx.b32", U32, data.reshape(-1), a, index, 31, -1)
            case "ballot":
                p = self.take(PRED)
                bits = (p.data.reshape(-1, 32).astype(np.uint64) << lane.astype(np.uint64)).sum(1)
                data = np.repeat(bits.astype(np.uint32), 32)
                self.op("vote.sync.ballot.b32", U32, data, p, -1)
            case "all" | "any" as which:
                p = self.take(PRED)
                rows = p.data.reshape(-1, 32)
                got = rows.all(axis=1) if which == "all" else rows.any(axis=1)
                self.op(f"vote.sync.{which}.pred", PRED, np.repeat(got, 32), p, -1)
            case "redux":
                name = self._choice("add", "min", "max", "xor", "or", "and")
                t = "u32" if name in ("add", "min", "max") else "b32"
                function = {
                    "add": np.add,
                    "min": np.minimum,
                    "max": np.maximum,
                    "xor": np.bitwise_xor,
                    "or": np.bitwise_or,
                    "and": np.bitwise_and,
                }[name]
                data = np.repeat(function.reduce(lanes, axis=1, dtype=np.uint32), 32)
                self.op(f"redux.sync.{name}.{t}", U32, data, a, -1)


def kernels(seed: int, count: int, steps: int) -> list[Kernel]:
    """`count` kernels; kernel i depends on the seed and i alone."""
    return [Kernel(np.random.default_rng([seed, i]), steps) for i in range(count)]


if __name__ == "__main__":
    print(Kernel(np.random.default_rng([int(sys.argv[1]), int(sys.argv[2])]), 40).ptx)
