# SPDX-License-Identifier: Apache-2.0
"""Floating-point numbers of all formats in exact arithmetic: what an instruction must give."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

# mantissa bits stored, least exponent of a normal number, greatest exponent
FORMATS = {
    "f16": (10, -14, 15),
    "bf16": (7, -126, 127),
    "tf32": (10, -126, 127),
    "f32": (23, -126, 127),
    "f64": (52, -1022, 1023),
}
SIZE = {"f16": 16, "bf16": 16, "tf32": 32, "f32": 32, "f64": 64}


def decode(kind: str, bits: int) -> Fraction | float:
    """Exact value; infinities and NaN as floats; zeros keep their sign through sign_of."""
    m, low, _ = FORMATS[kind]
    e_bits = SIZE[kind] - 1 - m
    sign = -1 if bits >> (SIZE[kind] - 1) else 1
    e, f = bits >> m & ((1 << e_bits) - 1), bits & ((1 << m) - 1)
    if e == (1 << e_bits) - 1:
        return math.nan if f else sign * math.inf
    if e == 0:
        return sign * Fraction(f) * Fraction(2) ** (low - m)
    return sign * (Fraction(f) + (1 << m)) * Fraction(2) ** (e + low - 1 - m)


def encode(kind: str, x: Fraction | float, mode: str = "rn", *, zero_sign: int = 0) -> int:
    """Correctly rounded bits of an exact value."""
    m, low, high = FORMATS[kind]
    size = SIZE[kind]
    infinity = ((1 << (size - 1 - m)) - 1) << m
    if isinstance(x, float):
        if math.isnan(x):
            return infinity | 1 << (m - 1)
        return infinity | (1 << (size - 1) if x < 0 else 0)
    if x == 0:
        return zero_sign << (size - 1)
    negative = x < 0
    top = 1 << (size - 1) if negative else 0
    a = abs(x)
    e = a.numerator.bit_length() - a.denominator.bit_length()
    if Fraction(2) ** e > a:
        e -= 1
    e = max(e, low)
    units = a / Fraction(2) ** (e - m)
    whole, rest = units.numerator // units.denominator, units - units.numerator // units.denominator
    up = {
        "rn": rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole & 1),
        "rna": rest >= Fraction(1, 2),
        "rz": False,
        "rm": negative and rest > 0,
        "rp": not negative and rest > 0,
    }[mode]
    whole += bool(up)
    if whole >= 1 << (m + 1):
        whole >>= 1
        e += 1
    if e > high:
        grow = (
            mode in ("rn", "rna") or (mode == "rm" and negative) or (mode == "rp" and not negative)
        )
        return top | (infinity if grow else infinity - 1)
    if whole < 1 << m:
        return top | whole
    return top | (e - low + 1) << m | (whole - (1 << m))


def is_nan(x: Any) -> bool:
    return isinstance(x, float) and math.isnan(x)


def sign(kind: str, bits: int) -> int:
    return bits >> (SIZE[kind] - 1)


def bits_of(kind: str, v: Any) -> int:
    if kind == "f32":
        return int(np.float32(v).view(np.uint32))
    if kind == "f64":
        return int(np.float64(v).view(np.uint64))
    return int(v)


def number(kind: str, bits: int) -> Any:
    """What Row.expect must return for this type."""
    if kind == "f32":
        return np.uint32(bits).view(np.float32)
    if kind == "f64":
        return np.uint64(bits).view(np.float64)
    return bits


def flush(kind: str, bits: int) -> int:
    m = FORMATS[kind][0]
    exponent = bits >> m & ((1 << (SIZE[kind] - 1 - m)) - 1)
    return bits if exponent else bits & 1 << (SIZE[kind] - 1)


def saturate(kind: str, bits: int) -> int:
    x = decode(kind, bits)
    if is_nan(x) or x <= 0:
        return 0
    return bits_one(kind) if x >= 1 else bits


def bits_one(kind: str) -> int:
    return encode(kind, Fraction(1))


def special_sum(values: list[Fraction | float]) -> float | None:
    """NaN or infinity when one of the terms is not finite."""
    if not any(isinstance(v, float) for v in values):
        return None
    return (
        math.fsum(float(v) if isinstance(v, float) else 0.0 for v in values)
        if not (math.inf in values and -math.inf in values)
        else math.nan
    )


def product(kind: str, a: int, b: int) -> tuple[Fraction | float, int]:
    x, y, s = decode(kind, a), decode(kind, b), sign(kind, a) ^ sign(kind, b)
    if isinstance(x, float) or isinstance(y, float):
        if is_nan(x) or is_nan(y) or x == 0 or y == 0:
            return math.nan, s
        return -math.inf if s else math.inf, s
    return x * y, s


def exact_add(kind: str, a: int, b: int, mode: str, *, minus: bool = False) -> int:
    if minus:
        b ^= 1 << (SIZE[kind] - 1)
    return exact_sum(kind, decode(kind, a), sign(kind, a), decode(kind, b), sign(kind, b), mode)


def exact_sum(  # noqa: PLR0917 - the terms of a sum
    kind: str, x: Any, sx: int, y: Any, sy: int, mode: str
) -> int:
    special = special_sum([x, y])
    if special is not None:
        return encode(kind, special)
    zero = sx if sx == sy and x == 0 and y == 0 else int(mode == "rm")
    return encode(kind, x + y, mode, zero_sign=zero)


def exact_mul(kind: str, a: int, b: int, mode: str) -> int:
    x, s = product(kind, a, b)
    return encode(kind, x, mode, zero_sign=s)


def exact_fma(kind: str, a: int, b: int, c: int, mode: str) -> int:
    x, s = product(kind, a, b)
    return exact_sum(kind, x, s, decode(kind, c), sign(kind, c), mode)


def exact_div(kind: str, a: int, b: int, mode: str) -> int:
    x, y, s = decode(kind, a), decode(kind, b), sign(kind, a) ^ sign(kind, b)
    if (
        is_nan(x)
        or is_nan(y)
        or (x == 0 and y == 0)
        or (isinstance(x, float) and isinstance(y, float))
    ):
        return encode(kind, math.nan)
    if isinstance(x, float) or y == 0:
        return encode(kind, -math.inf if s else math.inf)
    return encode(kind, Fraction(0) if isinstance(y, float) else x / y, mode, zero_sign=s)


def exact_sqrt(kind: str, a: int, mode: str) -> int:
    x = decode(kind, a)
    if is_nan(x) or (x < 0):
        return encode(kind, math.nan)
    if isinstance(x, float) or x == 0:
        return a
    # Enough bits that only an exact root is a tie; the sticky bit decides the rest.
    shift = 400
    n = x.numerator * x.denominator << (2 * shift)
    root = math.isqrt(n)
    value = Fraction(root, x.denominator << shift)
    if root * root != n:
        value += Fraction(1, x.denominator << (shift + 8))
    return encode(kind, value, mode)


def wrap(
    kind: str, f: Callable[..., int], *, ftz: bool = False, sat: bool = False, relu: bool = False
) -> Any:
    def expect(*values: Any) -> Any:
        bits = [bits_of(kind, v) for v in values]
        if ftz:
            bits = [flush(kind, b) for b in bits]
        out = f(*bits)
        if sat:
            out = saturate(kind, out)
        if relu and decode(kind, out) == decode(kind, out) and (decode(kind, out) <= 0):
            out = 0
        if ftz:
            out = flush(kind, out)
        return number(kind, out)

    return expect


def minmax(kind: str, *, largest: bool, nan: bool, ftz: bool = False) -> Any:
    def pick(a: int, b: int) -> int:
        x, y = decode(kind, a), decode(kind, b)
        if is_nan(x) or is_nan(y):
            if nan or (is_nan(x) and is_nan(y)):
                return encode(kind, math.nan)
            return b if is_nan(x) else a
        if x == y:
            return (a & b if largest else a | b) if x == 0 else a
        return a if (x > y) == largest else b

    return wrap(kind, pick, ftz=ftz)
