# SPDX-License-Identifier: Apache-2.0
"""A program that allocates and frees small memory over and over; what it sees, as JSON.

lease_program.py WHAT [ARG]: what is one of the functions below `main`.
"""

from __future__ import annotations

import ctypes as c
import json
import sys
import threading
import time
from typing import Any

from remote_program import Gpu

KIB, MIB = 1 << 10, 1 << 20
SUCCESS, INVALID_VALUE, OUT_OF_MEMORY = 0, 1, 2
RANGE_START, RANGE_SIZE, BUFFER_ID = 11, 12, 7


class Program(Gpu):
    def call(self, name: str, *args: Any) -> int:
        return int(getattr(self.cu, name)(*args))

    def try_alloc(self, size: int) -> int:
        """0: there is no memory. All else ends the program."""
        at = c.c_uint64()
        result = self.call("cuMemAlloc_v2", c.byref(at), c.c_size_t(size))
        if result == OUT_OF_MEMORY:
            return 0
        assert result == SUCCESS, result
        return at.value

    def free(self, at: int) -> int:
        return self.call("cuMemFree_v2", c.c_uint64(at))

    def free_all(self, all_of: list[int]) -> None:
        for at in all_of:
            assert self.free(at) == SUCCESS

    def many(self, count: int, size: int) -> list[int]:
        made = [self.try_alloc(size) for _ in range(count)]
        assert all(made)
        assert len(set(made)) == count
        return made

    def sync(self) -> int:
        return self.call("cuCtxSynchronize")

    def info(self) -> tuple[int, int]:
        free, total = c.c_size_t(), c.c_size_t()
        self.ok("cuMemGetInfo_v2", c.byref(free), c.byref(total))
        return free.value, total.value

    def fill(self, at: int, size: int, word: int) -> None:
        self.ok("cuMemsetD8_v2", c.c_uint64(at), c.c_ubyte(word), c.c_size_t(size))

    def read(self, at: int, size: int) -> bytes:
        out = (c.c_char * size)()
        self.ok("cuMemcpyDtoH_v2", out, c.c_uint64(at), c.c_size_t(size))
        return out.raw

    def attribute(self, what: int, at: int) -> int:
        value = c.c_uint64()
        self.ok("cuPointerGetAttribute", c.byref(value), what, c.c_uint64(at))
        return value.value


def warm(gpu: Program, size: int) -> None:
    """So often that some are spare."""
    gpu.free_all(gpu.many(40, size))
    assert gpu.sync() == SUCCESS


def trips(gpu: Program, _arg: str) -> dict[str, int]:
    """Of 100 allocations and their frees; and of the same in steps, each with the same sizes."""
    told = {}
    before = gpu.trips()
    gpu.free_all(gpu.many(100, 1000))
    assert gpu.sync() == SUCCESS
    told["hundred"] = gpu.trips() - before

    def step() -> None:
        made = [gpu.try_alloc(size * KIB) for size in (1, 4, 4, 16, 64, 100) for _ in range(5)]
        for number, at in enumerate(made):
            gpu.fill(at, KIB, number)
        assert [gpu.read(at, 1)[0] for at in (made[0], made[-1])] == [0, len(made) - 1]
        gpu.free_all(made)

    for _ in range(8):
        step()
    before = gpu.trips()
    for _ in range(10):
        step()
    told["step"] = (gpu.trips() - before) // 10
    before = gpu.trips()
    gpu.free_all([gpu.try_alloc(size) for size in range(5000, 5030)])  # each size once
    told["once"] = gpu.trips() - before
    return told


def limit(gpu: Program, arg: str) -> dict[str, Any]:
    """How much there is in pieces of so many KiB, while pieces of two sizes are spare."""
    size = int(arg) * KIB
    told: dict[str, Any] = {}
    warm(gpu, 10 * KIB)
    warm(gpu, size)
    before = gpu.info()
    warm(gpu, 10 * KIB)
    warm(gpu, size)
    made = []
    while at := gpu.try_alloc(size):
        made.append(at)
    told["count"] = len(made)
    told["unique"] = len(set(made)) == len(made)
    gpu.fill(made[-1], size, 7)
    told["again"] = gpu.try_alloc(size)
    assert gpu.sync() == SUCCESS
    gpu.free_all(made)
    told["info"] = (before == gpu.info(), before[0] == before[1])
    return told


def whole(gpu: Program, _arg: str) -> dict[str, Any]:
    """All that there is at once, while some is spare, by each call that is made of memory."""
    told: dict[str, Any] = {}
    free, _total = gpu.info()
    pitch = c.c_size_t()

    def alloc(at: c.c_uint64) -> int:
        return gpu.call("cuMemAlloc_v2", c.byref(at), c.c_size_t(free))

    def pitched(at: c.c_uint64) -> int:
        rows = c.c_size_t(free // MIB)
        wide = c.c_size_t(MIB)
        return gpu.call("cuMemAllocPitch_v2", c.byref(at), c.byref(pitch), wide, rows, 4)

    def ordered(at: c.c_uint64) -> int:
        return gpu.call("cuMemAllocAsync", c.byref(at), c.c_size_t(free), None)

    for each in (alloc, pitched, ordered):
        warm(gpu, 10 * KIB)
        at = c.c_uint64()
        told[each.__name__] = each(at)
        told[f"{each.__name__} again"] = each(c.c_uint64())
        assert gpu.free(at.value) == SUCCESS
        assert gpu.sync() == SUCCESS
    warm(gpu, 10 * KIB)
    told["more"] = gpu.try_alloc(free + MIB)
    told["still"] = gpu.try_alloc(10 * KIB) != 0
    return told


def errors(gpu: Program, _arg: str) -> dict[str, Any]:
    """What a program does wrong with memory that was spare, and is again."""
    warm(gpu, 4096)
    before = gpu.trips()
    one, other = gpu.many(2, 4096)
    assert gpu.trips() == before  # they were there
    told: dict[str, Any] = {}
    base, size = c.c_uint64(), c.c_size_t()
    gpu.ok("cuMemGetAddressRange_v2", c.byref(base), c.byref(size), c.c_uint64(one + 100))
    told["range"] = (base.value == one, size.value)
    told["attributes"] = (
        gpu.attribute(RANGE_START, one + 5) == one,
        gpu.attribute(RANGE_SIZE, one + 5),
        gpu.attribute(BUFFER_ID, one) != gpu.attribute(BUFFER_ID, other),
    )
    told["aligned"] = one % 256 == 0 and other % 256 == 0
    told["fresh"] = gpu.read(one, 4096) == bytes(4096)
    data = (c.c_char * 8192)()
    told["overrun"] = gpu.call("cuMemcpyHtoD_v2", c.c_uint64(one), data, c.c_size_t(4097))
    told["fill"] = gpu.call("cuMemsetD8_v2", c.c_uint64(one), 1, c.c_size_t(4097))
    told["inside"] = gpu.free(one + 256)
    gpu.fill(one, 4096, 3)
    identity = gpu.attribute(BUFFER_ID, one)
    assert gpu.free(one) == SUCCESS
    told["twice"] = gpu.free(one)
    told["written"] = gpu.call("cuMemcpyHtoD_v2", c.c_uint64(one), data, c.c_size_t(16))
    told["filled"] = gpu.call("cuMemsetD32_v2", c.c_uint64(one), 1, c.c_size_t(4))
    told["asked"] = gpu.call(
        "cuMemGetAddressRange_v2", c.byref(base), c.byref(size), c.c_uint64(one)
    )
    told["attribute"] = gpu.call(
        "cuPointerGetAttribute", c.byref(base), RANGE_SIZE, c.c_uint64(one)
    )
    again = gpu.try_alloc(4096)
    told["anew"] = (
        gpu.read(again, 4096) == bytes(4096),
        gpu.attribute(BUFFER_ID, again) != identity,
    )
    told["sync"] = gpu.sync()
    return told


def idle(gpu: Program, _arg: str) -> dict[str, Any]:
    """Spare memory goes back by itself, with any call after a while."""
    warm(gpu, 64 * KIB)
    print("warm", flush=True)
    sys.stdin.readline()
    assert gpu.sync() == SUCCESS
    print("idle", flush=True)
    sys.stdin.readline()
    return {}


def threads(gpu: Program, _arg: str) -> dict[str, Any]:
    """Several at once: what one has, no other is given."""
    wrong: list[str] = []

    def work(number: int) -> None:
        gpu.ok("cuCtxSetCurrent", gpu.ctx)
        for turn in range(60):
            made = gpu.many(4, (1 + turn % 3) * KIB)
            for at in made:
                gpu.fill(at, KIB, number)
            wrong.extend(f"{number}: {at:#x}" for at in made if set(gpu.read(at, KIB)) != {number})
            gpu.free_all(made)
            if turn % 20 == number:
                gpu.info()

    all_of = [threading.Thread(target=work, args=(n,)) for n in range(1, 5)]
    for thread in all_of:
        thread.start()
    for thread in all_of:
        thread.join()
    return {"wrong": wrong, "sync": gpu.sync()}


def contexts(gpu: Program, _arg: str) -> dict[str, Any]:
    """Spare memory ends with its context, and is no other's."""
    warm(gpu, 4096)
    other = c.c_void_p()
    gpu.ok("cuCtxCreate_v2", c.byref(other), 0, 0)
    made = gpu.many(40, 4096)
    owner = {gpu.attribute(1, at) for at in made}
    told: dict[str, Any] = {"owners": owner == {other.value}}
    gpu.free_all(made)
    gpu.ok("cuCtxDestroy_v2", other)
    gpu.ok("cuCtxSetCurrent", gpu.ctx)
    made = gpu.many(100, 4096)
    gpu.fill(made[99], 4096, 1)
    gpu.free_all(made)
    gpu.ok("cuDevicePrimaryCtxReset_v2", 0)
    gpu.ok("cuDevicePrimaryCtxRetain", c.byref(gpu.ctx), 0)
    gpu.ok("cuCtxSetCurrent", gpu.ctx)
    for at in gpu.many(100, 4096):
        gpu.fill(at, 4096, 1)
    told["sync"] = gpu.sync()
    return told


def captured(gpu: Program, _arg: str) -> dict[str, Any]:
    """While a stream captures nothing is spare, and a capture is not disturbed by what was."""
    warm(gpu, 4096)
    made = gpu.many(3, 4096)
    stream, graph = c.c_void_p(), c.c_void_p()
    gpu.ok("cuStreamCreate", c.byref(stream), 1)
    gpu.ok("cuStreamBeginCapture_v2", stream, 0)
    gpu.ok("cuMemsetD8Async", c.c_uint64(made[0]), 5, c.c_size_t(4096), stream)
    gpu.ok("cuStreamEndCapture", stream, c.byref(graph))
    gpu.free_all(made)
    return {"graph": bool(graph.value), "sync": gpu.sync()}


def cost(gpu: Program, arg: str) -> dict[str, float]:
    """Microseconds of a pair of cuMemAlloc and cuMemFree."""
    size = int(arg)
    warm(gpu, size)
    times = 2000
    start = time.perf_counter()
    for _ in range(times):
        gpu.free(gpu.try_alloc(size))
    assert gpu.sync() == SUCCESS
    return {"pair_us": (time.perf_counter() - start) / times * 1e6}


def main() -> int:
    what, arg = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
    found = {
        each.__name__: each
        for each in (trips, limit, whole, errors, idle, threads, contexts, captured, cost)
    }
    print(json.dumps(found[what](Program(), arg)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
