# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN001, ANN201, ANN202, ARG001, PLW0108, PT017
"""What numba-cuda asks of the driver around kernels: memory, streams, linking, errors, output."""

from __future__ import annotations

import ctypes
import os
import tempfile

import numpy as np
from casebook import Casebook
from numba import cuda, float32, guvectorize, int32, int64, vectorize

BOOK = Casebook()
case = BOOK.case

#: an external function for kernels to call; numba's functions give their value back by pointer
TWICE = """.version 7.0
.target sm_70
.address_size 64
.visible .func (.param .b32 status) twice(.param .b64 result, .param .b32 value)
{
    .reg .b32 %r<3>;
    .reg .b64 %p;
    ld.param.u64 %p, [result];
    ld.param.u32 %r1, [value];
    shl.b32 %r2, %r1, 1;
    st.u32 [%p], %r2;
    mov.u32 %r0, 0;
    st.param.b32 [status], %r0;
    ret;
}
"""


@cuda.jit
def increase(a, by):
    i = cuda.grid(1)
    if i < a.size:
        a[i] += by


@case
def streams_and_events(rng):
    first, second = cuda.stream(), cuda.stream()
    begin, end = cuda.event(), cuda.event()
    a, b = (rng.integers(0, 99, 500).astype(np.int32) for _ in range(2))
    there = cuda.to_device(a, stream=first)
    begin.record(first)
    for _ in range(5):
        increase[8, 64, first](there, 2)
    end.record(first)
    end.wait(second)
    other = cuda.to_device(b, stream=second)
    increase[8, 64, second](other, 1)
    increase[8, 64, second](there, 1)
    second.synchronize()
    np.testing.assert_array_equal(there.copy_to_host(), a + 11)
    np.testing.assert_array_equal(other.copy_to_host(), b + 1)
    assert end.query()
    assert begin.elapsed_time(end) > 0


@case
def pinned_mapped_and_managed(rng):
    for make in (cuda.pinned_array, cuda.mapped_array, cuda.managed_array):
        a = make(300, np.int64)
        a[:] = np.arange(300)
        increase[5, 64](a, 3)
        cuda.synchronize()
        np.testing.assert_array_equal(a, np.arange(300) + 3, err_msg=make.__name__)
    plain = rng.integers(0, 9, 100)
    expected = plain + 1
    with cuda.pinned(plain):
        there = cuda.to_device(plain, stream=cuda.stream())
        increase[2, 64](there, 1)
        there.copy_to_host(plain)
    np.testing.assert_array_equal(plain, expected)


@case
def device_arrays(rng):
    a = rng.random((20, 30)).astype(np.float32)
    there = cuda.to_device(a)
    again = cuda.device_array_like(there)
    again.copy_to_device(there)
    np.testing.assert_array_equal(again[3:5].copy_to_host(), a[3:5])
    np.testing.assert_array_equal(again.reshape(600).copy_to_host(), a.ravel())
    free, total = cuda.current_context().get_memory_info()
    assert 0 < free < total
    again[:] = 4
    assert (again.copy_to_host() == 4).all()
    view = cuda.as_cuda_array(again)
    increase[10, 64](view.reshape(600), 1)
    assert (again.copy_to_host() == 5).all()


@case
def the_device(rng):
    device = cuda.get_current_device()
    assert device.compute_capability == (9, 0)
    assert device.WARP_SIZE == 32
    assert device.name.startswith("HARP Software GPU")
    assert len(device.uuid) == 40
    assert cuda.detect()
    increase[1, 32](np.zeros(9, np.int64), 1)
    kernel = next(iter(increase.overloads.values()))
    assert kernel.regs_per_thread > 0
    assert kernel.max_threads_per_block == 1024
    assert kernel.max_cooperative_grid_blocks(64) > 0


@case
def reductions_and_ufuncs(rng):
    a = rng.integers(0, 99, 3001)
    assert cuda.reduce(lambda x, y: x + y)(a) == a.sum()
    assert cuda.reduce(lambda x, y: max(x, y))(a) == a.max()

    @vectorize([float32(float32, float32)], target="cuda")
    def blend(x, y):
        return x * 2 + y

    x, y = (rng.integers(0, 99, (7, 9)).astype(np.float32) for _ in range(2))
    np.testing.assert_array_equal(blend(x, y), x * 2 + y)

    @guvectorize([(int64[:], int64[:], int64[:])], "(n),()->(n)", target="cuda")
    def shift(row, by, out):
        for i in range(row.size):
            out[i] = row[i] + by[0]

    rows, by = rng.integers(0, 99, (6, 5)), rng.integers(0, 9, 6)
    np.testing.assert_array_equal(shift(rows, by), rows + by[:, None])


@case
def linked_with_ptx(rng):
    """numba hands its PTX and ours to the driver's linker."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(TWICE)
        file.flush()
        twice = cuda.declare_device("twice", int32(int32), link=[file.name])

        @cuda.jit
        def kernel(a):
            i = cuda.grid(1)
            if i < a.size:
                a[i] = twice(a[i])

        a = rng.integers(-99, 99, 100).astype(np.int32)
        expected = a * 2
        kernel[2, 64](a)
    np.testing.assert_array_equal(a, expected)


@case
def raised_in_a_kernel(rng):
    """debug=True: the kernel says who raised what; the next launch works."""

    @cuda.jit(debug=True, opt=False)
    def check(a, by):
        i = cuda.grid(1)
        assert a[i] >= 0, "negative"
        if by == 0 and i == 5:
            raise ValueError("no such step")
        a[i] = a[i] // by

    a = np.arange(64)
    check[1, 64](a, 2)
    np.testing.assert_array_equal(a, np.arange(64) // 2)
    for by, values, error, text in (
        (0, a, ValueError, "no such step"),
        (1, a - 1, AssertionError, "negative"),
    ):
        try:
            check[1, 64](values, by)
        except (error, ZeroDivisionError) as told:
            assert "tid=" in str(told), told
            assert isinstance(told, ZeroDivisionError) or text in str(told), told
        else:
            raise AssertionError(f"{error} was not raised")
    check[1, 64](a, 2)
    np.testing.assert_array_equal(a, np.arange(64) // 4)


@case
def printed(rng):
    """The driver writes what kernels print to the process's own output."""

    @cuda.jit
    def say(a):
        i = cuda.grid(1)
        if i < 3:
            print("row", i, a[i], "half", a[i] * 0.5, i == 1)

    cuda.synchronize()
    with tempfile.TemporaryFile() as file:
        mine = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            say[1, 32](np.arange(10, 20))
            cuda.synchronize()
            ctypes.CDLL(None).fflush(None)
        finally:
            os.dup2(mine, 1)
            os.close(mine)
        file.seek(0)
        lines = file.read().decode().splitlines()
    assert lines == [
        f"row {i} {i + 10} half {(i + 10) * 0.5:f} {'True' if i == 1 else 'False'}"
        for i in range(3)
    ], lines


@case
def loaded_again_from_disk(rng):
    """cache=True: the second process-like dispatcher loads what the first compiled."""
    source = (
        "from numba import cuda\n@cuda.jit(cache=True)\n"
        "def kernel(a):\n    i = cuda.grid(1)\n    if i < a.size:\n        a[i] = a[i] * 3\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "kept.py")  # noqa: PTH118
        with open(path, "w") as file:  # noqa: PTH123
            file.write(source)
        for hits in (0, 1):
            space: dict[str, object] = {"__file__": path, "__name__": "kept"}
            exec(compile(source, path, "exec"), space)
            kernel = space["kernel"]
            a = np.arange(50)
            kernel[1, 64](a)
            np.testing.assert_array_equal(a, np.arange(50) * 3)
            assert sum(kernel.stats.cache_hits.values()) == hits
