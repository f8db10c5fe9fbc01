# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN001, ANN002, ANN003, ANN201, ANN202, ARG001, PLW0108
"""Arithmetic, functions and data of all kinds in numba-cuda's kernels."""

from __future__ import annotations

import math
import operator
import types

import numpy as np
from casebook import Casebook
from numba import cuda, int64
from numba.cuda import fp16, libdevice
from numba.cuda.random import create_xoroshiro128p_states, xoroshiro128p_uniform_float32
from numba.types import float16

BOOK = Casebook()
case = BOOK.case


def mapped(function, *arrays, kind=None, **options):
    """FUNCTION of each element, computed by a kernel of its own."""
    device = function
    if isinstance(function, types.FunctionType) and not function.__module__.startswith("numba."):
        device = cuda.jit(device=True)(function)
    if len(arrays) == 1:

        @cuda.jit(**options)
        def kernel(a, out):
            i = cuda.grid(1)
            if i < out.size:
                out[i] = device(a[i])
    else:

        @cuda.jit(**options)
        def kernel(a, b, out):
            i = cuda.grid(1)
            if i < out.size:
                out[i] = device(a[i], b[i])

    out = np.zeros(arrays[0].shape, kind or arrays[0].dtype)
    kernel[-(-out.size // 64), 64](*arrays, out)
    return out


@case
def math_of_doubles(rng):
    """libdevice is within 2 ulp or so; NumPy within 1."""
    a = rng.standard_normal(200) * 3
    positive = np.abs(a) + 0.01
    unit = rng.random(200) * 2 - 1
    for name in ("sin", "cos", "tan", "exp", "expm1", "sinh", "cosh", "tanh", "fabs", "floor"):
        f = getattr(math, name)
        np.testing.assert_allclose(mapped(f, a), getattr(np, name)(a), 1e-14, 1e-15, err_msg=name)
    for name in ("log", "log10", "log2", "log1p", "sqrt"):
        f = getattr(math, name)
        expected = getattr(np, name)(positive)
        np.testing.assert_allclose(mapped(f, positive), expected, 1e-14, 1e-15, err_msg=name)
    for name, ours in (("asin", "arcsin"), ("acos", "arccos"), ("atan", "arctan")):
        expected = getattr(np, ours)(unit)
        np.testing.assert_allclose(mapped(getattr(math, name), unit), expected, 1e-14, 1e-15)
    for name in ("erf", "erfc", "gamma", "lgamma"):
        f = getattr(math, name)
        expected = np.array([f(v) for v in positive])
        np.testing.assert_allclose(mapped(f, positive), expected, 1e-13, 1e-14, err_msg=name)


@case
def math_of_floats(rng):
    a = (rng.standard_normal(200) * 3).astype(np.float32)
    b = (np.abs(rng.standard_normal(200)) + 0.01).astype(np.float32)
    for name in ("sin", "cos", "exp", "tanh", "atan2", "pow", "hypot", "fmod", "copysign", "log"):
        f, two = getattr(math, name), name in ("atan2", "pow", "hypot", "fmod", "copysign")
        ours = {"atan2": "arctan2", "pow": "power"}.get(name, name)
        one = np.abs(a) if name in ("log", "pow") else a
        inputs = (one, b) if two else (one,)
        expected = getattr(np, ours)(*(v.astype(np.float64) for v in inputs))
        np.testing.assert_allclose(mapped(f, *inputs), expected, 4e-6, 1e-6, err_msg=name)


@case
def fast_math(rng):
    a = (rng.standard_normal(100)).astype(np.float32)
    b = (np.abs(a) + np.float32(0.5)).astype(np.float32)
    for f, expected in (
        (lambda x: math.sin(x) + math.cos(x), np.sin(a) + np.cos(a)),
        (lambda x: math.exp(x) / (x * x + 1), np.exp(a) / (a * a + 1)),
    ):
        np.testing.assert_allclose(mapped(f, a, fastmath=True), expected, 2e-5, 2e-6)
    got = mapped(lambda x, y: math.sqrt(y) / y + x / y, a, b, fastmath=True)
    np.testing.assert_allclose(got, np.sqrt(b) / b + a / b, 2e-5, 2e-6)


@case
def libdevice_by_name(rng):
    a = rng.standard_normal(64)
    np.testing.assert_allclose(mapped(libdevice.cbrt, a), np.cbrt(a), 1e-14)
    np.testing.assert_array_equal(mapped(libdevice.rint, a * 9), np.rint(a * 9))
    np.testing.assert_array_equal(mapped(libdevice.trunc, a * 9), np.trunc(a * 9))
    small = (np.abs(a) + 0.5).astype(np.float32)
    for name, mode in (("fadd_rd", -np.inf), ("fadd_ru", np.inf)):
        got = mapped(getattr(libdevice, name), small, small[::-1].copy())
        exact = small.astype(np.float64) + small[::-1]
        nearest = exact.astype(np.float32)
        wrong = nearest > exact if mode < 0 else nearest < exact
        expected = np.where(wrong, np.nextafter(nearest, np.float32(mode)), nearest)
        np.testing.assert_array_equal(got, expected.astype(np.float32))


@case
def integers(rng):
    """Python's division rounds down, C's to zero; powers, shifts and bits."""
    for kind in (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint32, np.uint64):
        info = np.iinfo(kind)
        a = rng.integers(info.min, info.max, 150, dtype=kind, endpoint=True)
        b = rng.integers(1, 100, 150).astype(kind)
        for f in (operator.add, operator.sub, operator.mul, operator.and_, operator.xor):
            np.testing.assert_array_equal(mapped(f, a, b), f(a, b), err_msg=f"{f} {kind}")
        if kind is not np.uint64:  # Python makes doubles of those
            for f in (operator.floordiv, operator.mod):
                np.testing.assert_array_equal(mapped(f, a, b), f(a, b), err_msg=f"{f} {kind}")
    a = rng.integers(0, 2**32, 100, dtype=np.uint32)
    a[:3] = 0, 1, 2**31
    bits = [f"{v:032b}" for v in a]
    np.testing.assert_array_equal(mapped(lambda v: cuda.popc(v), a), [s.count("1") for s in bits])
    np.testing.assert_array_equal(
        mapped(lambda v: cuda.brev(v), a), [int(s[::-1], 2) for s in bits]
    )
    leading = [32 if not v else s.index("1") for v, s in zip(a, bits, strict=True)]
    np.testing.assert_array_equal(mapped(lambda v: cuda.clz(v), a), leading)
    first = [0 if not v else s[::-1].index("1") + 1 for v, s in zip(a, bits, strict=True)]
    np.testing.assert_array_equal(mapped(lambda v: cuda.ffs(v), a), first)
    wide = rng.integers(0, 2**64, 100, dtype=np.uint64)
    ones = [int(v).bit_count() for v in wide]
    np.testing.assert_array_equal(mapped(lambda v: cuda.popc(v), wide), ones)
    small = rng.integers(-5, 6, 60)
    np.testing.assert_array_equal(mapped(lambda v: v**5, small), small**5)


@case
def half_precision(rng):
    a, b = (rng.standard_normal(128).astype(np.float16) for _ in range(2))
    for f in (operator.add, operator.sub, operator.mul):
        np.testing.assert_array_equal(mapped(f, a, b), f(a, b), err_msg=str(f))
    got = mapped(operator.truediv, a, b)
    np.testing.assert_allclose(got, a / b, 2e-3)
    np.testing.assert_array_equal(
        mapped(lambda x, y: -x if x < y else abs(y), a, b), np.where(a < b, -a, np.abs(b))
    )
    np.testing.assert_array_equal(mapped(lambda x: float16(x) + float16(1), a), a + np.float16(1))
    fused = (a.astype(np.float64) * b + a).astype(np.float16)
    np.testing.assert_array_equal(mapped(lambda x, y: fp16.hfma(x, y, x), a, b), fused)
    for name in ("hexp", "hsin", "hcos", "hsqrt", "hlog", "htrunc", "hceil"):
        x = np.abs(a) + np.float16(0.1)
        ours = getattr(np, name[1:])(x.astype(np.float32))
        got = mapped(getattr(fp16, name), x)
        np.testing.assert_allclose(got, ours, 2e-3, 2e-3, err_msg=name)


@case
def complex_numbers(rng):
    a, b = (rng.standard_normal(64) + 1j * rng.standard_normal(64) for _ in range(2))
    np.testing.assert_allclose(mapped(operator.mul, a, b), a * b, 1e-13)
    np.testing.assert_allclose(mapped(operator.truediv, a, b), a / b, 1e-13)
    got = mapped(lambda x: abs(x) + x.real * x.imag, a, kind=np.float64)
    np.testing.assert_allclose(got, abs(a) + a.real * a.imag, 1e-13)


@case
def casts(rng):
    a = rng.uniform(-100, 100, 64)
    for kind in (np.int8, np.int16, np.int32, np.int64, np.float32, np.float16):
        np.testing.assert_array_equal(mapped(lambda x: x, a, kind=kind), a.astype(kind))
    b = rng.integers(-(2**60), 2**60, 64)
    for kind in (np.float64, np.float32, np.int32, np.uint8):
        np.testing.assert_array_equal(mapped(lambda x: x, b, kind=kind), b.astype(kind))


# ------------------------------------------------------------------------------------- data ------
@case
def records(rng):
    kind = np.dtype([("n", np.int16), ("x", np.float64), ("v", np.float32, (3,))], align=True)

    @cuda.jit
    def turn(rows):
        i = cuda.grid(1)
        if i < rows.size:
            rows[i].x += rows[i].n
            for k in range(3):
                rows[i].v[k] *= rows[i].n

    rows = np.zeros(70, kind)
    rows["n"], rows["x"] = rng.integers(-9, 9, 70), rng.random(70)
    rows["v"] = rng.integers(-9, 9, (70, 3))
    expected = rows.copy()
    expected["x"] += rows["n"]
    expected["v"] *= rows["n"][:, None]
    turn[2, 64](rows)
    np.testing.assert_array_equal(rows, expected)


@case
def constant_and_local_arrays(rng):
    table = rng.integers(0, 99, (4, 5))

    @cuda.jit
    def look(out):
        here = cuda.const.array_like(table)
        mine = cuda.local.array(20, int64)
        t = cuda.threadIdx.x
        for k in range(20):
            mine[k] = here[k % 4, k // 4] * (t + 1)
        total = 0
        for k in range(20):
            total += mine[(k + t) % 20] * k
        out[t] = total

    out = np.zeros(32, np.int64)
    look[1, 32](out)
    flat = np.array([table[k % 4, k // 4] for k in range(20)])
    for t in range(32):
        assert out[t] == sum(int(flat[(k + t) % 20]) * (t + 1) * k for k in range(20))


@case
def device_functions(rng):
    @cuda.jit(device=True, inline="never")
    def fib(n):
        if n < 2:
            return n
        return fib(n - 1) + fib(n - 2)

    @cuda.jit(device=True)
    def pair(a, b):
        return max(a, b), min(a, b)

    @cuda.jit
    def call(a, out):
        i = cuda.grid(1)
        high, low = pair(a[i], 7)
        out[i] = fib(a[i]) * 1000 + high - low

    a = np.arange(16)
    out = np.zeros(16, np.int64)
    call[1, 16](a, out)
    numbers = [0, 1]
    for _ in range(14):
        numbers.append(numbers[-1] + numbers[-2])
    np.testing.assert_array_equal(out, np.array(numbers) * 1000 + np.abs(a - 7))


@case
def views_with_strides(rng):
    @cuda.jit
    def double(a):
        x, y = cuda.grid(2)
        if x < a.shape[0] and y < a.shape[1]:
            a[x, y] *= 2

    whole = rng.integers(0, 99, (20, 30))
    expected = whole.copy()
    expected[3:18:2, 5::3] *= 2
    there = cuda.to_device(whole)
    double[(2, 2), (8, 8)](there[3:18:2, 5::3])
    np.testing.assert_array_equal(there.copy_to_host(), expected)
    turned = cuda.to_device(np.asfortranarray(whole))
    double[(5, 5), (8, 8)](turned)
    np.testing.assert_array_equal(turned.copy_to_host(), whole * 2)


@case
def random_numbers(rng):
    """Each thread's sequence is the generator's own, so a second run gives it again."""

    @cuda.jit
    def draw(states, out):
        i = cuda.grid(1)
        for k in range(out.shape[1]):
            out[i, k] = xoroshiro128p_uniform_float32(states, i)

    runs = []
    for _ in range(2):
        out = np.zeros((64, 50), np.float32)
        draw[1, 64](create_xoroshiro128p_states(64, seed=3), out)
        runs.append(out)
    np.testing.assert_array_equal(*runs)
    assert 0 <= runs[0].min() < runs[0].max() < 1
    assert abs(runs[0].mean() - 0.5) < 0.02
    assert len(np.unique(runs[0])) > 3000
