# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN001, ANN201, ANN202, ARG001
"""Kernels in Python, as numba-cuda compiles them: what threads of a block and a grid do together.

Each case asserts its results against NumPy. numba_values.py has arithmetic, numba_host.py what is
asked of the driver around kernels.
"""

from __future__ import annotations

import numpy as np
from casebook import Casebook
from numba import config, cuda, float32, float64, int32, uint32

BOOK = Casebook()
case = BOOK.case
FULL = 0xFFFFFFFF


@case
def vector_add(rng):
    @cuda.jit
    def add(a, b, out):
        i = cuda.grid(1)
        if i < out.size:
            out[i] = a[i] + b[i]

    for kind in (np.float32, np.float64, np.int8, np.uint16, np.int32, np.int64, np.complex64):
        a, b = (rng.integers(0, 50, 1001).astype(kind) for _ in range(2))
        out = np.zeros_like(a)
        add[8, 128](a, b, out)
        np.testing.assert_array_equal(out, a + b)


@case
def grids_of_three_dimensions(rng):
    @cuda.jit
    def place(out):
        x, y, z = cuda.grid(3)
        dx, dy, _ = cuda.gridsize(3)
        if x < out.shape[2] and y < out.shape[1] and z < out.shape[0]:
            out[z, y, x] = (z * dy + y) * dx + x

    @cuda.jit
    def stride(out):
        for i in range(cuda.grid(1), out.size, cuda.gridsize(1)):
            out[i] += i

    out = np.zeros((5, 6, 8), np.int64)
    place[(2, 3, 5), (4, 2, 1)](out)
    np.testing.assert_array_equal(out.ravel(), np.arange(240))
    line = np.zeros(1000, np.int64)
    stride[3, 64](line)
    np.testing.assert_array_equal(line, np.arange(1000))


@case
def shared_reduction(rng):
    @cuda.jit
    def total(a, out):
        part = cuda.shared.array(128, float32)
        t = cuda.threadIdx.x
        i = cuda.grid(1)
        part[t] = a[i] if i < a.size else 0
        cuda.syncthreads()
        step = 64
        while step:
            if t < step:
                part[t] += part[t + step]
            cuda.syncthreads()
            step //= 2
        if t == 0:
            cuda.atomic.add(out, 0, part[0])

    a = rng.integers(-9, 9, 3000).astype(np.float32)
    out = np.zeros(1, np.float32)
    total[24, 128](a, out)
    assert out[0] == a.sum()


@case
def dynamic_shared_memory(rng):
    @cuda.jit
    def reverse(a, out):
        whole = cuda.shared.array(0, float64)
        other = cuda.shared.array(0, int32)[2 * a.size :]
        t = cuda.threadIdx.x
        whole[t], other[t] = a[t], t
        cuda.syncthreads()
        last = a.size - 1 - t
        out[t] = whole[last] + other[last]

    a = rng.random(96)
    out = np.zeros_like(a)
    reverse[1, 96, 0, 96 * 12](a, out)
    np.testing.assert_array_equal(out, a[::-1] + np.arange(96)[::-1])


@case
def barriers_that_count(rng):
    @cuda.jit
    def count(a, out):
        t = cuda.threadIdx.x
        some = cuda.syncthreads_count(a[t])
        every = cuda.syncthreads_and(a[t])
        any_ = cuda.syncthreads_or(a[t])
        if t == 0:
            out[0], out[1], out[2] = some, every != 0, any_ != 0

    for a in (rng.integers(0, 2, 77), np.zeros(77, int), np.ones(77, int)):
        out = np.zeros(3, np.int32)
        count[1, 77](a.astype(np.int32), out)
        assert out.tolist() == [a.sum(), a.all(), a.any()]


@case
def tiled_matmul(rng):
    side = 8

    @cuda.jit
    def multiply(a, b, out):
        left = cuda.shared.array((side, side), float32)
        right = cuda.shared.array((side, side), float32)
        x, y = cuda.grid(2)
        tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
        total = float32(0)
        for tile in range(a.shape[1] // side):
            left[ty, tx] = a[y, tile * side + tx]
            right[ty, tx] = b[tile * side + ty, x]
            cuda.syncthreads()
            for k in range(side):
                total += left[ty, k] * right[k, tx]
            cuda.syncthreads()
        out[y, x] = total

    a, b = (rng.integers(-9, 9, (32, 32)).astype(np.float32) for _ in range(2))
    out = np.zeros((32, 32), np.float32)
    multiply[(4, 4), (side, side)](a, b, out)
    np.testing.assert_array_equal(out, a @ b)


# -------------------------------------------------------------------------------------- atomics --
@case
def atomic_add_and_exchange(rng):
    @cuda.jit
    def add(out, values, olds):
        i = cuda.grid(1)
        cuda.atomic.add(out, 0, values[i])
        cuda.atomic.sub(out, 1, values[i])
        olds[i] = cuda.atomic.exch(out, 2, values[i])

    for kind in (np.int32, np.uint32, np.int64, np.uint64):
        values = np.arange(1, 257).astype(kind)
        out, olds = np.zeros(3, kind), np.zeros(256, kind)
        add[4, 64](out, values, olds)
        assert out[0] == values.sum()
        assert out[1] == kind(0) - values.sum(dtype=kind)
        # what was exchanged out, and what is left, are what there was
        assert sorted([*olds, out[2]]) == list(range(257))


@case
def atomic_floats_and_shared(rng):
    @cuda.jit
    def add(out, doubles, values):
        here = cuda.shared.array(1, float32)
        if cuda.threadIdx.x == 0:
            here[0] = 0
        cuda.syncthreads()
        v = values[cuda.grid(1)]
        cuda.atomic.add(here, 0, v)
        cuda.atomic.add(doubles, 0, float64(v))
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            cuda.atomic.add(out, 0, here[0])

    values = rng.integers(-50, 50, 512).astype(np.float32)
    out, doubles = np.zeros(1, np.float32), np.zeros(1)
    add[8, 64](out, doubles, values)
    assert out[0] == doubles[0] == values.sum()


@case
def atomic_extremes(rng):
    @cuda.jit
    def extremes(out, values):
        i = cuda.grid(1)
        cuda.atomic.max(out, 0, values[i])
        cuda.atomic.min(out, 1, values[i])

    @cuda.jit
    def nan_extremes(out, values):
        i = cuda.grid(1)
        cuda.atomic.nanmax(out, 0, values[i])
        cuda.atomic.nanmin(out, 1, values[i])

    for kind in (np.int32, np.uint32, np.int64, np.uint64, np.float32, np.float64):
        values = rng.integers(1 if kind(0) - 1 > 0 else -99, 99, 128).astype(kind)
        out = np.array([values[0], values[0]])
        extremes[2, 64](out, values)
        assert out.tolist() == [values.max(), values.min()], kind
    for kind in (np.float32, np.float64):
        values = rng.standard_normal(128).astype(kind)
        values[5] = np.nan
        out = np.array([0, 0], kind)
        nan_extremes[2, 64](out, values)
        assert out.tolist() == [np.nanmax(values), np.nanmin(values)]


@case
def atomic_bits_and_counters(rng):
    @cuda.jit
    def bits(out, values):
        i = cuda.grid(1)
        cuda.atomic.and_(out, 0, values[i])
        cuda.atomic.or_(out, 1, values[i])
        cuda.atomic.xor(out, 2, values[i])
        cuda.atomic.inc(out, 3, uint32(9))
        cuda.atomic.dec(out, 4, uint32(9))

    values = rng.integers(0, 2**32, 128, dtype=np.uint32)
    out = np.array([FULL, 0, 0, 0, 0], np.uint32)
    bits[2, 64](out, values)
    inc = dec = 0
    for _ in range(128):
        inc = 0 if inc >= 9 else inc + 1
        dec = 9 if dec == 0 or dec > 9 else dec - 1
    reduce = np.bitwise_and.reduce, np.bitwise_or.reduce, np.bitwise_xor.reduce
    assert out.tolist() == [*(int(f(values)) for f in reduce), inc, dec]


@case
def a_lock_of_compare_and_swap(rng):
    """Blocks take turns: progress of those who hold the lock while others spin."""

    @cuda.jit
    def guarded(lock, out):
        if cuda.threadIdx.x == 0:
            while cuda.atomic.cas(lock, 0, 0, 1) != 0:
                cuda.nanosleep(100)
            cuda.threadfence()
            out[0] = out[0] * 3 + 1
            cuda.threadfence()
            cuda.atomic.exch(lock, 0, 0)

    lock, out = np.zeros(1, np.int32), np.zeros(1, np.int64)
    guarded[20, 32](lock, out)
    value = 0
    for _ in range(20):
        value = value * 3 + 1
    assert (lock[0], out[0]) == (0, value)


# ---------------------------------------------------------------------------------------- warps --
@case
def warp_shuffles(rng):
    @cuda.jit
    def shuffle(a, out):
        lane = cuda.laneid
        v = a[lane]
        out[0, lane] = cuda.shfl_sync(FULL, v, 5)
        out[1, lane] = cuda.shfl_up_sync(FULL, v, 3)
        out[2, lane] = cuda.shfl_down_sync(FULL, v, 4)
        out[3, lane] = cuda.shfl_xor_sync(FULL, v, 7)

    lane = np.arange(32)
    for kind in (np.int32, np.int64, np.float32, np.float64):
        a = rng.integers(-99, 99, 32).astype(kind)
        out = np.zeros((4, 32), kind)
        shuffle[1, 32](a, out)
        up, down = np.where(lane < 3, lane, lane - 3), np.where(lane > 27, lane, lane + 4)
        np.testing.assert_array_equal(out, a[np.array([lane * 0 + 5, up, down, lane ^ 7])])


@case
def warp_votes(rng):
    @cuda.jit
    def vote(a, out):
        lane = cuda.laneid
        out[0, lane] = cuda.all_sync(FULL, a[lane])
        out[1, lane] = cuda.any_sync(FULL, a[lane])
        out[2, lane] = cuda.eq_sync(FULL, a[lane])
        out[3, lane] = cuda.ballot_sync(FULL, a[lane])
        out[4, lane] = cuda.activemask()
        if lane % 3 == 0:
            out[5, lane] = cuda.ballot_sync(0x49249249, lane > 10)
        out[6, lane] = cuda.lanemask_lt()

    lane = np.arange(32)
    bit = np.left_shift(1, lane, dtype=np.int64)
    for a in (np.zeros(32, bool), np.ones(32, bool), rng.random(32) > 0.5):
        out = np.zeros((7, 32), np.uint32)
        vote[1, 32](a, out)
        np.testing.assert_array_equal(out[0], np.full(32, a.all()))
        np.testing.assert_array_equal(out[1], np.full(32, a.any()))
        np.testing.assert_array_equal(out[2], np.full(32, a.all() or not a.any()))
        np.testing.assert_array_equal(out[3], np.full(32, (bit * a).sum()))
        np.testing.assert_array_equal(out[4], np.full(32, FULL))
        thirds = lane % 3 == 0
        np.testing.assert_array_equal(out[5], thirds * (bit * (thirds & (lane > 10))).sum())
        np.testing.assert_array_equal(out[6], bit - 1)


@case
def warp_matches(rng):
    @cuda.jit
    def match(a, out):
        lane = cuda.laneid
        out[0, lane] = cuda.match_any_sync(FULL, a[lane])
        mask, same = cuda.match_all_sync(FULL, a[lane])
        out[1, lane] = mask
        out[2, lane] = same

    bit = np.left_shift(1, np.arange(32), dtype=np.int64)
    for kind in (np.int32, np.int64, np.float32, np.float64):
        for a in (rng.integers(0, 4, 32).astype(kind), np.full(32, 3, kind)):
            out = np.zeros((3, 32), np.uint32)
            match[1, 32](a, out)
            equal = (a[:, None] == a[None, :]) @ bit
            np.testing.assert_array_equal(out[0], equal)
            same = (a == a[0]).all()
            np.testing.assert_array_equal(out[1], np.full(32, FULL if same else 0))
            np.testing.assert_array_equal(out[2], np.full(32, same))


@case
def warps_that_part(rng):
    """Lanes go different ways, meet, and sum by shuffles with the mask of who is there."""

    @cuda.jit
    def part(a, out):
        lane = cuda.laneid
        v = a[lane]
        for _ in range(lane % 5):
            v = v * 3 + 1
        cuda.syncwarp()
        if lane < 16:
            for step in (8, 4, 2, 1):
                v += cuda.shfl_xor_sync(0xFFFF, v, step)
        else:
            v = -v
        out[lane] = v

    a = rng.integers(0, 9, 32)
    out = np.zeros(32, np.int64)
    part[1, 32](a, out)
    for lane in range(32):
        for _ in range(lane % 5):
            a[lane] = a[lane] * 3 + 1
    assert out[0] == a[:16].sum()
    np.testing.assert_array_equal(out[16:], -a[16:])


@case
def a_grid_that_meets(rng):
    """grid.sync(): all blocks of a cooperative launch, as many as there may be."""

    @cuda.jit
    def rounds(a, count):
        grid = cuda.cg.this_grid()
        i = cuda.grid(1)
        for _ in range(count):
            beside = a[(i + 1) % a.size]
            grid.sync()
            a[i] += beside
            grid.sync()

    a = rng.integers(0, 9, 7 * 64)
    there = cuda.to_device(a)
    rounds[7, 64](there, 6)
    for _ in range(6):
        a = a + np.roll(a, -1)
    np.testing.assert_array_equal(there.copy_to_host(), a)
    most = rounds.overloads[rounds.signatures[0]].max_cooperative_grid_blocks(64)
    there = cuda.to_device(np.ones(most * 64, np.int64))
    rounds[most, 64](there, 1)
    assert (there.copy_to_host() == 2).all()


@case
def arrays_made_in_kernels(rng):
    """numba's run-time library counts references on the device's heap: malloc and free there."""

    @cuda.jit
    def medians(out, values):
        i = cuda.grid(1)
        if i < out.size:
            sorted_ = np.empty(i + 1, values.dtype)
            for k in range(i + 1):
                at = k
                while at > 0 and sorted_[at - 1] > values[k]:
                    sorted_[at] = sorted_[at - 1]
                    at -= 1
                sorted_[at] = values[k]
            for _ in range(10):  # in all more than the heap holds, were nothing given back
                one = np.ones(2048, values.dtype)
                sorted_[i // 2] += one[i]
            out[i] = sorted_[i // 2]

    values = rng.integers(0, 1000, 96)
    out = np.zeros(96, values.dtype)
    config.CUDA_ENABLE_NRT = True
    try:
        medians[3, 32](out, values)
    finally:
        config.CUDA_ENABLE_NRT = False
    expected = [np.sort(values[: i + 1])[i // 2] + 10 for i in range(96)]
    np.testing.assert_array_equal(out, expected)
