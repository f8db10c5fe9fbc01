# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN001, ANN002, ANN003, ANN201, ANN202, ANN204, ARG001, PT017
"""PyCUDA's driver parts, with the kernels of kernels.ptx: `pycuda_run.py [CASE...]`.

SourceModule and gpuarray's arithmetic need nvcc and are left out, and so is register_host_memory:
it gives back one reference too many of what NumPy 2 does not take, whatever the driver.
"""

from __future__ import annotations

from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np
import pycuda.driver as cuda
from casebook import Casebook
from counters import Watch
from pycuda import gpuarray, tools

BOOK = Casebook()
case = BOOK.case
PTX = Path(__file__).with_name("kernels.ptx").read_bytes()
#: the watch of the case that runs
watching: list[Watch] = []


class Kernel:
    """A function whose launches are told to the watch."""

    def __init__(self, module, name: str) -> None:
        self.name, self.function = name, module.get_function(name)

    def __call__(self, *arguments, block, grid, **more):
        watching[-1].launched(self.name, prod(grid), prod(block))
        return self.function(*arguments, block=block, grid=grid, **more)


def module():
    return cuda.module_from_buffer(PTX)


@BOOK.host
def devices_and_contexts(rng):
    assert cuda.get_driver_version() == 13000
    assert cuda.Device.count() == 1
    device = cuda.Device(0)
    assert device.compute_capability() == (9, 0)
    assert device.total_memory() > 70 << 30
    assert device.get_attribute(cuda.device_attribute.WARP_SIZE) == 32
    known = device.get_attributes()
    assert known[cuda.device_attribute.MAX_THREADS_PER_BLOCK] == 1024
    assert cuda.Device(device.pci_bus_id()) == device
    before = cuda.Context.get_current()
    other = device.make_context()
    assert cuda.Context.get_current() == other
    assert cuda.Context.get_device() == device
    free, total = cuda.mem_get_info()
    assert 0 < free < total == device.total_memory()
    cuda.Context.set_limit(cuda.limit.STACK_SIZE, 4096)
    assert cuda.Context.get_limit(cuda.limit.STACK_SIZE) == 4096
    other.pop()
    assert cuda.Context.get_current() == before
    other.push()
    other.detach()
    primary = device.retain_primary_context()
    primary.push()
    cuda.mem_alloc(64).free()
    primary.detach()  # while it is current: PyCUDA leaves a detached one current otherwise


@case
def arguments_of_launches(rng):
    saxpy = Kernel(module(), "saxpy")
    x, y = (rng.integers(0, 99, 1000).astype(np.float32) for _ in range(2))
    there = cuda.to_device(x)
    out = y.copy()
    size = {"block": (128, 1, 1), "grid": (8, 1)}
    saxpy(cuda.InOut(out), there, np.float32(3), np.uint32(1000), **size)
    np.testing.assert_array_equal(out, x * 3 + y)
    out = y.copy()
    saxpy(cuda.InOut(out), cuda.In(x), np.float32(2), np.uint32(500), **size)
    np.testing.assert_array_equal(out[:500], (x * 2 + y)[:500])
    np.testing.assert_array_equal(out[500:], y[500:])

    function = saxpy.function
    function.prepare("PPfi")
    target = cuda.to_device(y)
    for _ in range(3):
        watching[-1].launched("saxpy", 8, 1024 // 8)
        function.prepared_call((8, 1), (128, 1, 1), int(target), int(there), 1.0, 1000)
    np.testing.assert_array_equal(cuda.from_device(target, 1000, np.float32), x * 3 + y)
    watching[-1].launched("saxpy", 8, 128)
    stream = cuda.Stream()
    function.prepared_async_call((8, 1), (128, 1, 1), stream, int(target), int(there), 1.0, 1000)
    stream.synchronize()
    np.testing.assert_array_equal(cuda.from_device(target, 1000, np.float32), x * 4 + y)
    assert function.max_threads_per_block == 1024
    assert function.shared_size_bytes == 0
    assert function.num_regs > 0


@case
def modules_globals_and_linking(rng):
    code = module()
    factor, size = code.get_global("factor")
    assert size == 4
    cuda.memcpy_htod(factor, np.float32(5))
    table, size = code.get_global("table")
    assert size == 32
    values = np.zeros(4, np.uint64)
    cuda.memcpy_dtoh(values, table)
    assert values.tolist() == [1, 20, 300, 4000]
    x = rng.integers(0, 99, 1024).astype(np.uint32)
    total = np.zeros(1, np.uint64)
    block_sum = Kernel(code, "block_sum")
    block_sum(cuda.InOut(total), cuda.In(x), block=(256, 1, 1), grid=(4, 1))
    assert total[0] == x.sum()
    for bad, error in (
        (lambda: code.get_function("nothing"), "not found"),
        (lambda: code.get_global("nothing"), "not found"),
    ):
        try:
            bad()
        except cuda.LogicError as told:
            assert error in str(told), told
        else:
            raise AssertionError(error)
    linker = cuda.jit_input_type.PTX
    joined = cuda.Linker()
    joined.add_data(PTX, linker, "kernels.ptx")
    linked = joined.link_module()
    y = np.zeros(1000, np.float32)
    ones = np.ones(1000, np.float32)
    saxpy = Kernel(linked, "saxpy")
    size = {"block": (128, 1, 1), "grid": (8, 1)}
    saxpy(cuda.InOut(y), cuda.In(ones), np.float32(7), np.uint32(1000), **size)
    assert (y == 7).all()


@BOOK.host
def invalid_programs_are_refused(rng):
    for text, why in ((b"nonsense", "module_from_buffer"), (PTX[:600], "module_from_buffer")):
        try:
            cuda.module_from_buffer(text)
        except cuda.Error as told:
            assert why in str(told) or "cuModuleLoad" in str(told), told
        else:
            raise AssertionError(text[:20])


@BOOK.host
def copies(rng):
    a = rng.integers(0, 255, 4096).astype(np.uint8)
    first, second = cuda.mem_alloc(4096), cuda.mem_alloc(4096)
    cuda.memcpy_htod(first, a)
    cuda.memcpy_dtod(second, first, 4096)
    back = np.zeros_like(a)
    cuda.memcpy_dtoh(back, second)
    np.testing.assert_array_equal(back, a)
    assert cuda.mem_get_address_range(int(first) + 100) == (int(first), 4096)

    stream = cuda.Stream()
    host = cuda.pagelocked_empty(4096, np.uint8)
    host[:] = a[::-1]
    cuda.memcpy_htod_async(first, host, stream)
    cuda.memcpy_dtod_async(second, first, 4096, stream)
    host2 = cuda.pagelocked_zeros(4096, np.uint8)
    cuda.memcpy_dtoh_async(host2, second, stream)
    stream.synchronize()
    np.testing.assert_array_equal(host2, a[::-1])

    pitched, pitch = cuda.mem_alloc_pitch(60, 40, 4)
    assert pitch % 4 == 0
    assert pitch >= 60
    square = a[:2400].reshape(40, 60)
    copy = cuda.Memcpy2D()
    copy.set_src_host(square)
    copy.set_dst_device(pitched)
    copy.width_in_bytes, copy.src_pitch, copy.dst_pitch, copy.height = 60, 60, pitch, 40
    copy(aligned=False)
    out = np.zeros_like(square)
    copy = cuda.Memcpy2D()
    copy.set_src_device(pitched)
    copy.set_dst_host(out)
    copy.width_in_bytes, copy.src_pitch, copy.dst_pitch, copy.height = 60, pitch, 60, 40
    copy(aligned=False)
    np.testing.assert_array_equal(out, square)

    cuda.memset_d8(first, 7, 4096)
    cuda.memset_d16(int(first) + 1024, 0x1234, 100)
    cuda.memset_d32(int(first) + 2048, 0x12345678, 100)
    cuda.memset_d2d8(pitched, pitch, 9, 10, 10)
    cuda.memcpy_dtoh(back, first)
    assert (back[:1024] == 7).all()
    assert (back[1024:1224].view(np.uint16) == 0x1234).all()
    assert (back[2048:2448].view(np.uint32) == 0x12345678).all()
    copy(aligned=False)
    assert (out[:10, :10] == 9).all()
    np.testing.assert_array_equal(out[10:], square[10:])


@BOOK.host
def arrays_of_texels(rng):
    """Opaque arrays can be filled and read; textures on them cannot be sampled here."""
    a = rng.random((6, 8)).astype(np.float32)
    array = cuda.np_to_array(a, order="C")
    out = np.zeros_like(a)
    copy = cuda.Memcpy2D()
    copy.set_src_array(array)
    copy.set_dst_host(out)
    copy.width_in_bytes = copy.dst_pitch = 32
    copy.height = 6
    copy(aligned=True)
    np.testing.assert_array_equal(out, a)
    description = array.get_descriptor()
    assert (description.width, description.height) == (8, 6)


@case
def memory_that_hosts_share(rng):
    saxpy = Kernel(module(), "saxpy")
    size = {"block": (128, 1, 1), "grid": (1, 1)}
    managed = cuda.managed_zeros(100, np.float32, mem_flags=cuda.mem_attach_flags.GLOBAL)
    ones = cuda.to_device(np.ones(100, np.float32))
    saxpy(managed, ones, np.float32(4), np.uint32(100), **size)
    cuda.Context.synchronize()
    assert (managed == 4).all()
    mapped = cuda.pagelocked_zeros(100, np.float32, mem_flags=cuda.host_alloc_flags.DEVICEMAP)
    address = np.intp(mapped.base.get_device_pointer())
    saxpy(address, ones, np.float32(2), np.uint32(100), **size)
    cuda.Context.synchronize()
    assert (mapped == 2).all()


@case
def streams_and_events(rng):
    chain = Kernel(module(), "chain")
    x = cuda.to_device(np.array([1], np.uint32))
    first, second = cuda.Stream(), cuda.Stream()
    begin, middle, end = cuda.Event(), cuda.Event(), cuda.Event()
    size = {"block": (1, 1, 1), "grid": (1, 1)}
    begin.record(first)
    chain(x, np.uint32(3), np.uint32(1), stream=first, **size)
    middle.record(first)
    second.wait_for_event(middle)
    chain(x, np.uint32(5), np.uint32(2), stream=second, **size)
    end.record(second)
    end.synchronize()
    assert end.query()
    assert first.is_done()
    assert cuda.from_device(x, 1, np.uint32)[0] == (1 * 3 + 1) * 5 + 2
    assert end.time_since(begin) >= middle.time_since(begin) > 0


@BOOK.host
def pools(rng):
    pool = tools.DeviceMemoryPool()
    a = pool.allocate(1000)
    address = int(a)
    cuda.memset_d8(a, 1, 1000)
    del a
    assert int(pool.allocate(1000)) == address
    assert pool.active_blocks == 0
    pool.free_held()
    locked = tools.PageLockedMemoryPool()
    host = locked.allocate((10, 10), np.float32)
    host[:] = 2
    assert host.sum() == 200
    there = gpuarray.to_gpu(host, allocator=pool.allocate)
    np.testing.assert_array_equal(there.get(), host)
    np.testing.assert_array_equal(there[2:4].get(), host[2:4])
    record = tools.OccupancyRecord(tools.DeviceData(), 128)
    assert record.occupancy > 0


@BOOK.host
def too_much_memory(rng):
    try:
        cuda.mem_alloc(1 << 45)
    except cuda.MemoryError:
        return
    raise AssertionError("allocated")


def main() -> None:
    cuda.init()
    context = cuda.Device(0).make_context()

    @contextmanager
    def watch():
        with Watch(cuda.Context.synchronize) as one:
            watching.append(one)
            try:
                yield one
            finally:
                watching.clear()

    BOOK.main(watch)
    context.pop()


main()
