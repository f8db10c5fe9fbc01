# SPDX-License-Identifier: Apache-2.0
"""What PTX instructions compute, with NumPy and after the PTX manual's words."""

from __future__ import annotations

import ctypes
import ctypes.util

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
