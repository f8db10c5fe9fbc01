# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN001, ANN201, ANN202, ARG001, SIM108
"""Taichi's CUDA back end, which calls the driver by itself: `taichi_run.py [CASE...]`.

Taichi launches from C++, so what it launched is not counted apart: that kernels ran is.
"""

import math
from contextlib import contextmanager

import numpy as np
import taichi as ti
from casebook import Casebook
from counters import Count, read

BOOK = Casebook()
case = BOOK.case


@case
def fill_and_read(rng):
    x = ti.field(ti.f32, (20, 30))

    @ti.kernel
    def fill():
        for i, j in x:
            x[i, j] = i * 100 + j

    fill()
    i, j = np.indices((20, 30))
    np.testing.assert_array_equal(x.to_numpy(), i * 100 + j)


@case
def arrays_from_outside(rng):
    @ti.kernel
    def saxpy(x: ti.types.ndarray(), y: ti.types.ndarray(), a: ti.f32):
        for i in x:
            y[i] += a * x[i]

    x, y = (rng.integers(0, 99, 1000).astype(np.float32) for _ in range(2))
    expected = y + 3 * x
    saxpy(x, y, 3.0)
    np.testing.assert_array_equal(y, expected)
    there = ti.ndarray(ti.f32, 1000)
    there.from_numpy(x)
    other = ti.ndarray(ti.f32, 1000)
    other.fill(1.0)
    saxpy(there, other, 2.0)
    np.testing.assert_array_equal(other.to_numpy(), 1 + 2 * x)


@case
def integers(rng):
    for kind, dtype in (
        (ti.i32, np.int32),
        (ti.i64, np.int64),
        (ti.i16, np.int16),
        (ti.u32, np.uint32),
    ):

        @ti.kernel
        def compute(a: ti.types.ndarray(), b: ti.types.ndarray(), out: ti.types.ndarray()):
            for i in a:
                out[0, i] = a[i] + b[i]
                out[1, i] = a[i] * b[i]
                out[2, i] = a[i] // b[i]
                out[3, i] = a[i] % b[i]
                out[4, i] = (a[i] & b[i]) ^ (a[i] | b[i] * 2)
                out[5, i] = (a[i] << 1) ^ (a[i] >> 2)

        low = 0 if dtype(0) - 1 > 0 else -50
        with np.errstate(over="ignore"):
            a, b = rng.integers(low, 90, 64).astype(dtype), rng.integers(1, 9, 64).astype(dtype)
            out = np.zeros((6, 64), dtype)
            compute(a, b, out)
            rows = (a + b, a * b, a // b, a % b, (a & b) ^ (a | b * dtype(2)))
            for k, row in enumerate((*rows, (a << 1) ^ (a >> 2))):
                np.testing.assert_array_equal(out[k], row, err_msg=f"{kind} {k}")


@case
def functions(rng):
    for dtype, tolerance in ((np.float32, 4e-6), (np.float64, 1e-13)):

        @ti.kernel
        def compute(x: ti.types.ndarray(), out: ti.types.ndarray()):
            for i in x:
                v = x[i]
                p = ti.abs(v) + 0.125
                out[0, i] = ti.sin(v)
                out[1, i] = ti.cos(v)
                out[2, i] = ti.exp(v)
                out[3, i] = ti.log(p)
                out[4, i] = ti.sqrt(p)
                out[5, i] = ti.tanh(v)
                out[6, i] = ti.atan2(v, p)
                out[7, i] = ti.pow(p, v)
                out[8, i] = ti.floor(v * 9)
                out[9, i] = ti.round(v * 9)

        x = rng.standard_normal(200).astype(dtype)
        p = np.abs(x) + dtype(0.125)
        out = np.zeros((10, 200), dtype)
        compute(x, out)
        expected = (
            *(np.sin(x), np.cos(x), np.exp(x), np.log(p), np.sqrt(p), np.tanh(x)),
            *(np.arctan2(x, p), p**x, np.floor(x * dtype(9)), np.rint(x * dtype(9))),
        )
        for k, row in enumerate(expected):
            np.testing.assert_allclose(out[k], row, tolerance, tolerance, err_msg=f"{dtype} {k}")


@case
def sums_and_atomics(rng):
    a = rng.integers(-99, 99, 5000).astype(np.int32)
    bins = ti.field(ti.i32, 16)
    most = ti.field(ti.i32, ())

    @ti.kernel
    def count(a: ti.types.ndarray()) -> ti.i32:
        total = 0
        for i in a:
            total += a[i]
            ti.atomic_add(bins[i % 16], 1)
            ti.atomic_max(most[None], a[i])
        return total

    assert count(a) == a.sum()
    assert most[None] == a.max()
    np.testing.assert_array_equal(bins.to_numpy(), np.bincount(np.arange(5000) % 16))


@case
def vectors_and_matrices(rng):
    m = ti.Matrix.field(3, 3, ti.f64, 50)
    v = ti.Vector.field(3, ti.f64, 50)
    out = ti.Vector.field(3, ti.f64, 50)
    det = ti.field(ti.f64, 50)

    @ti.kernel
    def solve():
        for i in m:
            out[i] = m[i].inverse() @ v[i]
            det[i] = m[i].determinant() + v[i].dot(v[i])

    ms, vs = rng.standard_normal((50, 3, 3)) + 3 * np.eye(3), rng.standard_normal((50, 3))
    m.from_numpy(ms)
    v.from_numpy(vs)
    solve()
    np.testing.assert_allclose(out.to_numpy(), np.linalg.solve(ms, vs[..., None])[..., 0], 1e-9)
    expected = np.linalg.det(ms) + (vs * vs).sum(1)
    np.testing.assert_allclose(det.to_numpy(), expected, 1e-9)


@case
def loops_and_branches(rng):
    """Collatz: threads of a warp leave their loops at different times."""

    @ti.kernel
    def steps(out: ti.types.ndarray()):
        for i in out:
            n, k = i + 1, 0
            while n != 1:
                if n % 2 == 0:
                    n = n // 2
                else:
                    n = 3 * n + 1
                k += 1
            out[i] = k

    out = np.zeros(300, np.int32)
    steps(out)
    for i in range(300):
        n, k = i + 1, 0
        while n != 1:
            n, k = (n // 2 if n % 2 == 0 else 3 * n + 1), k + 1
        assert out[i] == k


@case
def shared_memory_in_a_block(rng):
    @ti.kernel
    def reverse(a: ti.types.ndarray(), out: ti.types.ndarray()):
        ti.loop_config(block_dim=64)
        for i in range(256):
            t = i % 64
            part = ti.simt.block.SharedArray((64,), ti.f32)
            part[t] = a[i]
            ti.simt.block.sync()
            out[i] = part[63 - t]

    a = rng.random(256).astype(np.float32)
    out = np.zeros_like(a)
    reverse(a, out)
    np.testing.assert_array_equal(out.reshape(4, 64), a.reshape(4, 64)[:, ::-1])


@case
def sparse_fields(rng):
    """Pointers and dynamic lists: Taichi's own allocator and lists on the device."""
    x = ti.field(ti.i32)
    ti.root.pointer(ti.i, 16).dense(ti.i, 8).place(x)
    total = ti.field(ti.i32, ())

    @ti.kernel
    def activate():
        for i in range(128):
            if i // 8 % 3 == 0:
                x[i] = i

    @ti.kernel
    def add():
        for i in x:
            total[None] += x[i] + 1

    activate()
    add()
    active = [i for i in range(128) if i // 8 % 3 == 0]
    assert total[None] == sum(active) + len(active)


@case
def automatic_gradients(rng):
    x = ti.field(ti.f32, 40, needs_grad=True)
    loss = ti.field(ti.f32, (), needs_grad=True)

    @ti.kernel
    def square():
        for i in x:
            loss[None] += x[i] ** 2 * 0.5 + ti.sin(x[i])

    values = rng.standard_normal(40).astype(np.float32)
    x.from_numpy(values)
    with ti.ad.Tape(loss):
        square()
    np.testing.assert_allclose(x.grad.to_numpy(), values + np.cos(values), 1e-5, 1e-6)


@case
def a_wave(rng):
    """A few hundred launches that each read what the last wrote, against NumPy."""
    n = 32
    now, before = ti.field(ti.f64, (n, n)), ti.field(ti.f64, (n, n))

    @ti.kernel
    def step():
        for i, j in now:
            if 0 < i < n - 1 and 0 < j < n - 1:
                around = now[i - 1, j] + now[i + 1, j] + now[i, j - 1] + now[i, j + 1]
                before[i, j] = 2 * now[i, j] - before[i, j] + 0.25 * (around - 4 * now[i, j])

    a = np.zeros((n, n))
    a[10, 12] = 1
    b = a.copy()
    now.from_numpy(a)
    before.from_numpy(b)
    for _ in range(100):
        step()
        now_, before_ = before.to_numpy(), now.to_numpy()
        now.from_numpy(now_)
        before.from_numpy(before_)
        around = a[:-2, 1:-1] + a[2:, 1:-1] + a[1:-1, :-2] + a[1:-1, 2:]
        inner = a[1:-1, 1:-1]
        b[1:-1, 1:-1] = 2 * inner - b[1:-1, 1:-1] + 0.25 * (around - 4 * inner)
        a, b = b, a
    np.testing.assert_allclose(now.to_numpy(), a, 1e-9, 1e-12)


@case
def random_numbers(rng):
    x = ti.field(ti.f32, 4000)

    @ti.kernel
    def draw():
        for i in x:
            x[i] = ti.random()

    draw()
    values = x.to_numpy()
    assert 0 <= values.min() < values.max() < 1
    assert math.isclose(values.mean(), 0.5, abs_tol=0.03)
    assert len(np.unique(values)) > 3900


class _Watch:
    """What ran between entering and leaving."""

    def __init__(self) -> None:
        self.counts: dict[str, Count] = {}


@contextmanager
def watch():
    one, before = _Watch(), read()
    yield one
    ti.sync()
    after = {name: count - before.get(name, Count()) for name, count in read().items()}
    one.counts = {name: count for name, count in after.items() if count.launches}
    assert all(count.instructions >= count.threads for count in one.counts.values())


# Once: to seed the random numbers of every thread that the device could have takes a second.
ti.init(arch=ti.cuda, offline_cache=False, log_level=ti.ERROR, random_seed=3)
assert ti.lang.impl.current_cfg().arch == ti.cuda
BOOK.main(watch)
