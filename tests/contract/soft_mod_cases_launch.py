# SPDX-License-Identifier: Apache-2.0
"""Cases of launches: checks, parameters, faults, modelled time, counters."""

from __future__ import annotations

import ctypes as c
import sys
import threading

from soft_mod_driver import (
    ILLEGAL_ADDRESS,
    INVALID_HANDLE,
    INVALID_VALUE,
    LAUNCH_FAILED,
    MISALIGNED,
    NOT_SUPPORTED,
    OUT_OF_RESOURCES,
    SOFTWARE,
    TIMES,
    TOO_LARGE,
    Driver,
    Params,
    case,
    main,
    np,
)

COOPERATIVE, CLUSTER, SERIALIZATION, PROGRAMMATIC_EVENT, PRIORITY = 2, 4, 6, 7, 8
DOMAIN_MAP, DOMAIN, COMPLETION_EVENT, UPDATABLE, CARVEOUT = 9, 10, 12, 13, 14


class Attribute(c.Structure):
    _fields_ = (("id", c.c_int), ("pad", c.c_int), ("value", c.c_uint * 16))


class Config(c.Structure):
    _fields_ = (
        ("grid", c.c_uint * 3),
        ("block", c.c_uint * 3),
        ("shared", c.c_uint),
        ("stream", c.c_void_p),
        ("attributes", c.c_void_p),
        ("count", c.c_uint),
    )


def attribute_of(d: Driver, number: int) -> int:
    value = c.c_int()
    d.ok("cuDeviceGetAttribute", c.byref(value), number, d.device)
    return value.value


@case
def launches_compute_with_both_kinds_of_parameters(d: Driver) -> None:
    data = np.arange(100_003, dtype="f4")
    a, b = d.up(data), d.alloc(data.nbytes)
    add1 = d.function(d.module(), "add1")
    grid, block = (-(-len(data) // 256), 1, 1), (256, 1, 1)
    d.launch(add1, Params(a, b, c.c_uint32(len(data))), grid, block)
    d.launch(add1, Params(b, a, c.c_uint32(len(data))), grid, block, extra=True)
    d.sync()
    assert (d.down(a, len(data)) == data + 2).all()
    assert (d.down(b, len(data)) == data + 1).all()


@case
def parameters_are_copied_at_the_call(d: Driver) -> None:
    out = d.alloc(8 * 4 * 50)
    mixed = d.function(d.module(), "mixed")
    nap = d.function(d.module(), "nap")
    stream = d.stream()
    d.launch(nap, Params(c.c_uint32(30)), stream=stream)
    values = [c.c_uint64(out.value), c.c_uint8(), c.c_uint16(), c.c_int32(), c.c_double()]
    for extra in (False, True):
        params = Params(*values)
        for i in range(25):
            at = i + 25 * extra
            fresh = (out.value + 32 * at, 200 + i, 60000 + i, -i, i / 4)
            for value, new in zip(values, fresh, strict=True):
                value.value = new
            params.blob.raw = Params(*values).blob.raw
            d.launch(mixed, params, stream=stream, extra=extra)
        for value in values:
            value.value = 0
        params.blob.raw = bytes(len(params.blob))
    d.sync()
    got = d.down(out, 200, "f8").reshape(2, 25, 4)
    expected = [[200 + i, 60000 + i, -i, i / 4] for i in range(25)]
    assert (got == expected).all(), got


@case
def bad_launches_are_refused_at_the_call(d: Driver) -> None:
    module = d.module()
    f = d.function
    none, one = Params(), Params(d.alloc(4))
    fixed, bound, big = f(module, "exactly64"), f(module, "upto128"), f(module, "holds40k")
    bump, reverse = f(module, "bump"), f(module, "reverse")
    table = [
        ("no function", None, none, (1, 1, 1), (1, 1, 1), 0, INVALID_HANDLE),
        ("a module is no function", module, none, (1, 1, 1), (1, 1, 1), 0, INVALID_HANDLE),
        ("empty grid", bump, none, (0, 1, 1), (1, 1, 1), 0, INVALID_VALUE),
        ("empty block", bump, none, (1, 1, 1), (1, 0, 1), 0, INVALID_VALUE),
        ("grid x", bump, none, (0x80000000, 1, 1), (1, 1, 1), 0, INVALID_VALUE),
        ("grid y", bump, none, (1, 65536, 1), (1, 1, 1), 0, INVALID_VALUE),
        ("grid z", bump, none, (1, 1, 65536), (1, 1, 1), 0, INVALID_VALUE),
        ("block x", bump, none, (1, 1, 1), (1025, 1, 1), 0, INVALID_VALUE),
        ("block z", bump, none, (1, 1, 1), (1, 1, 65), 0, INVALID_VALUE),
        ("threads", bump, none, (1, 1, 1), (64, 32, 1), 0, INVALID_VALUE),
        ("reqntid", fixed, none, (1, 1, 1), (32, 1, 1), 0, INVALID_VALUE),
        ("maxntid", bound, none, (1, 1, 1), (256, 1, 1), 0, OUT_OF_RESOURCES),
        ("dynamic shared", reverse, one, (1, 1, 1), (32, 1, 1), 49153, INVALID_VALUE),
        ("static and dynamic", big, one, (1, 1, 1), (1, 1, 1), 8193, INVALID_VALUE),
        ("no parameters", reverse, None, (1, 1, 1), (1, 1, 1), 4, INVALID_VALUE),
    ]
    for description, function, params, grid, block, shared, expected in table:
        result = d.try_launch(function, params, grid, block, shared=shared)
        assert result == expected, (description, result)
    both = Params(d.alloc(4))
    arguments = (reverse, 1, 1, 1, 1, 1, 1, 4, None)
    d.fails(INVALID_VALUE, "cuLaunchKernel", *arguments, both.array, both.extra)
    short = Params(c.c_uint32(1))
    assert d.try_launch(reverse, short, shared=4, extra=True) == INVALID_VALUE
    unknown = (c.c_void_p * 3)(9, 0, 0)
    d.fails(INVALID_VALUE, "cuLaunchKernel", *arguments, None, unknown)
    bogus = c.c_void_p(0x1234)
    assert d.try_launch(bump, none, stream=bogus) == INVALID_HANDLE
    d.launch(fixed, none, block=(64, 1, 1))
    d.launch(bound, none, block=(128, 1, 1))
    d.launch(big, one, shared=8192)
    d.sync()
    d.sync()


@case
def a_function_of_another_context_is_refused(d: Driver) -> None:
    bump = d.function(d.module(), "bump")
    d.handle("cuCtxCreate_v2", 0, d.device)
    assert d.try_launch(bump, Params()) == INVALID_HANDLE


def faults(d: Driver, name: str, params: Params, expected: int) -> None:
    module = d.module()
    d.launch(d.function(module, name), params)
    d.fails(expected, "cuCtxSynchronize")
    d.fails(expected, "cuCtxSynchronize")
    d.fails(expected, "cuMemAlloc_v2", c.byref(c.c_uint64()), c.c_size_t(4))
    d.fails(expected, "cuModuleLoadData", c.byref(c.c_void_p()), b"x")
    d.ok("cuCtxDestroy_v2", d.ctx)
    d.fails(expected, "cuCtxCreate_v2", c.byref(c.c_void_p()), 0, d.device)


@case
def a_wild_store_is_sticky(d: Driver) -> None:
    faults(d, "store4", Params(c.c_uint64(0x1000)), ILLEGAL_ADDRESS)


@case
def a_freed_address_is_illegal(d: Driver) -> None:
    gone = d.alloc(8 << 20)
    d.ok("cuMemFree_v2", gone)
    faults(d, "store4", Params(gone), ILLEGAL_ADDRESS)


@case
def a_misaligned_store_is_sticky(d: Driver) -> None:
    faults(d, "store4", Params(c.c_uint64(d.alloc(64).value + 2)), MISALIGNED)


@case
def a_trap_is_sticky(d: Driver) -> None:
    faults(d, "fail", Params(), LAUNCH_FAILED)


@case
def dynamic_shared_memory_and_barriers_work(d: Driver) -> None:
    reverse = d.function(d.module(), "reverse")
    data = np.arange(1024, dtype="u4")
    ptr = d.up(data)
    d.launch(reverse, Params(ptr), block=(1024, 1, 1), shared=4096)
    d.sync()
    assert (d.down(ptr, 1024, "u4") == data[::-1]).all()


@case(only=SOFTWARE, why=TIMES)
def a_sleeping_kernel_lasts_as_long_as_its_waves(d: Driver) -> None:
    nap = d.function(d.module(), "nap")
    start, end = d.event(), d.event()
    told = c.c_int()
    occupancy = "cuOccupancyMaxActiveBlocksPerMultiprocessor"
    d.ok(occupancy, c.byref(told), nap, 1024, c.c_size_t(0))
    resident = told.value * attribute_of(d, 16)
    for blocks, waves in ((1, 1), (resident, 1), (resident + 1, 2)):
        d.ok("cuEventRecord", start, None)
        d.launch(nap, Params(c.c_uint32(20)), (blocks, 1, 1), (1024 if blocks > 1 else 1, 1, 1))
        d.ok("cuEventRecord", end, None)
        ms = d.elapsed_ms(start, end)
        assert 20 * waves <= ms, (blocks, ms)
        assert ms < 20 * waves + 20, (blocks, ms)


def stay_busy(d: Driver) -> None:
    """Not a case: keeps the device busy for the NVML tests until killed."""
    nap = d.function(d.module(), "nap")
    print("busy", flush=True)
    while True:
        d.launch(nap, Params(c.c_uint32(50)))
        d.sync()


@case
def work_takes_modelled_time(d: Driver) -> None:
    """Bytes over bandwidth: a kernel on 16 times the data takes longer by the model."""
    add1 = d.function(d.module(), "add1")
    count = 1 << 20
    a, b = d.up(np.zeros(count, "f4")), d.alloc(4 * count)
    start, end = d.event(), d.event()
    d.ok("cuEventRecord", start, None)
    d.launch(add1, Params(a, b, c.c_uint32(count)), (count // 256, 1, 1), (256, 1, 1))
    d.ok("cuEventRecord", end, None)
    assert d.elapsed_ms(start, end) * 1e6 >= 8 * count / 10_000  # at 10 TB/s and more


@case
def every_thread_is_counted(d: Driver) -> None:
    module = d.module()
    data = d.up(np.zeros(1000, "f4"))
    for _ in range(3):
        d.launch(
            d.function(module, "add1"),
            Params(data, data, c.c_uint32(1000)),
            (8, 1, 1),
            (128, 1, 1),
        )
    d.launch(d.function(module, "bump"), Params(), (2, 2, 2), (4, 4, 4))
    d.sync()
    told = d.counters()
    add1, bump = told["add1"], told["bump"]
    assert (add1.launches, add1.blocks, add1.threads) == (3, 24, 3 * 1024)
    assert add1.load_bytes == add1.store_bytes == 3 * 4000
    # 16 instructions reach the store of a thread inside, 10 the end of one outside
    assert 3 * (1000 * 14 + 24 * 9) <= add1.instructions <= 3 * (1000 * 18 + 24 * 12)
    assert (bump.launches, bump.blocks, bump.threads) == (1, 8, 512)
    assert d.down(d.global_of(module, "counter")[0], 1, "u4")[0] == 7 + 512


@case
def cuLaunchKernelEx_reads_its_attributes(d: Driver) -> None:
    bump = d.function(d.module(), "bump")

    def launch(*attributes: tuple[int, list[int]], grid: int = 1) -> int:
        rows = (Attribute * max(1, len(attributes)))()
        for row, (number, value) in zip(rows, attributes, strict=False):
            row.id = number
            for i, word in enumerate(value):
                row.value[i] = word
        config = Config((grid, 1, 1), (1, 1, 1), 0, None, c.addressof(rows), len(attributes))
        return d.call("cuLaunchKernelEx", c.byref(config), bump, None, None)

    assert launch() == 0
    assert launch((COOPERATIVE, [1]), (PRIORITY, [3])) == 0
    assert launch((CLUSTER, [1, 1, 1])) == 0
    assert launch((CLUSTER, [2, 1, 1]), grid=2) == NOT_SUPPORTED
    assert launch((CLUSTER, [1, 0, 1])) == INVALID_VALUE
    assert launch((COMPLETION_EVENT, [0])) == INVALID_HANDLE
    assert launch((UPDATABLE, [1])) == NOT_SUPPORTED
    assert launch((DOMAIN_MAP, [0x100])) == INVALID_VALUE
    assert launch((DOMAIN, [1]), (DOMAIN_MAP, [0]), (SERIALIZATION, [1])) == 0
    assert launch((CARVEOUT, [101])) == INVALID_VALUE
    assert launch((500, [0])) == INVALID_VALUE
    assert launch((COOPERATIVE, [1]), grid=1 << 20) == TOO_LARGE
    # an event at the latest when the kernel ends; it must be one that tells no time
    timed, event = d.event(), d.event(2)
    for number in (COMPLETION_EVENT, PROGRAMMATIC_EVENT):
        words = [event.value & 0xFFFFFFFF, event.value >> 32]
        assert launch((number, words)) == 0
        d.ok("cuEventSynchronize", event)
        assert launch((number, [timed.value & 0xFFFFFFFF, timed.value >> 32])) == INVALID_VALUE
        assert launch((number, [*words, 1])) == INVALID_VALUE  # not an external one
    d.sync()
    assert d.counters()["bump"].launches == 6


@case
def an_urgent_kernel_goes_first(d: Driver) -> None:
    """Priority by launch attribute, in streams that have none."""
    nap = d.function(d.module(), "nap")
    low, high, begin, end_low, end_high = d.stream(), d.stream(), *(d.event() for _ in range(3))
    d.ok("cuEventRecord", begin, low)
    params = Params(c.c_uint32(5))
    for _ in range(12):
        d.launch(nap, params, (132 * 64, 1, 1), stream=low)
    d.ok("cuEventRecord", end_low, low)
    rows = (Attribute * 1)()
    rows[0].id, rows[0].value[0] = PRIORITY, c.c_uint(-4).value
    config = Config((132 * 64, 1, 1), (1, 1, 1), 0, high, c.addressof(rows), 1)
    for _ in range(12):
        d.ok("cuLaunchKernelEx", c.byref(config), nap, params.array, None)
    d.ok("cuEventRecord", end_high, high)
    assert d.elapsed_ms(begin, end_high) < 0.75 * d.elapsed_ms(begin, end_low)


@case
def all_blocks_of_a_cooperative_grid_meet(d: Driver) -> None:
    """A barrier of atomics and spinning, far more blocks than the machine has cores."""
    meet = d.function(d.module(), "meet")
    count = d.up_now(np.zeros(1, "u4"))
    params = Params(count, c.c_uint32(3))
    d.keep.append(params)
    d.ok("cuLaunchCooperativeKernel", meet, 64, 1, 1, 1, 1, 1, 0, None, params.array)
    d.sync()
    assert d.down(count, 1, "u4")[0] == 3 * 64
    per_sm = c.c_int()
    occupancy = "cuOccupancyMaxActiveBlocksPerMultiprocessor"
    d.ok(occupancy, c.byref(per_sm), meet, 256, c.c_size_t(0))
    most = per_sm.value * attribute_of(d, 16)
    shape = (1, 1, 256, 1, 1, 0, None, Params(count, c.c_uint32(0)).array)
    d.ok("cuLaunchCooperativeKernel", d.function(d.module(), "bump"), 1, *shape[:-1], None)
    d.fails(TOO_LARGE, "cuLaunchCooperativeKernel", meet, most + 1, *shape)
    d.sync()


@case
def a_grid_larger_than_the_device_may_wait_for_earlier_blocks(d: Driver) -> None:
    """Blocks begin in order, so each can wait for those before it, however many there are."""
    turn = d.up_now(np.zeros(1, "u4"))
    in_turn, shared = d.function(d.module(), "in_turn"), 200 << 10  # one on each multiprocessor
    d.ok("cuFuncSetAttribute", in_turn, c.c_int(8), c.c_int(shared))
    per_sm = c.c_int()
    occupancy = "cuOccupancyMaxActiveBlocksPerMultiprocessor"
    d.ok(occupancy, c.byref(per_sm), in_turn, 1, c.c_size_t(shared))
    assert per_sm.value * attribute_of(d, 16) < 600
    d.launch(in_turn, Params(turn), (600, 1, 1), (1, 1, 1), shared=shared)
    d.sync()
    assert d.down(turn, 1, "u4")[0] == 600


@case
def a_block_that_fails_frees_those_that_wait_for_it(d: Driver) -> None:
    count = d.up_now(np.zeros(1, "u4"))
    params = Params(count)
    d.keep.append(params)
    spin = d.function(d.module(), "fail_and_spin")
    d.ok("cuLaunchCooperativeKernel", spin, 8, 1, 1, 1, 1, 1, 0, None, params.array)
    d.fails(LAUNCH_FAILED, "cuCtxSynchronize")


@case
def a_failure_ends_all_that_runs_in_the_context(d: Driver) -> None:
    module = d.module()
    flag = d.up_now(np.zeros(2, "u4"))
    waiting, failing = d.stream(), d.stream()
    params = Params(flag, c.c_uint32(1), c.c_uint64(flag.value + 4), c.c_uint32(1))
    d.launch(d.function(module, "await"), params, stream=waiting)
    d.launch(d.function(module, "fail"), Params(), stream=failing)
    d.fails(LAUNCH_FAILED, "cuStreamSynchronize", waiting)


@case
def launches_over_devices_are_refused(d: Driver) -> None:
    assert attribute_of(d, 96) == 0
    name = "cuLaunchCooperativeKernelMultiDevice"
    rows = (c.c_uint64 * 7)()
    d.fails(NOT_SUPPORTED, name, rows, 1, 0)
    d.fails(INVALID_VALUE, name, rows, 0, 0)
    d.fails(INVALID_VALUE, name, None, 1, 0)
    d.fails(INVALID_VALUE, name, rows, 1, 4)


@case
def cooperative_launches_must_fit(d: Driver) -> None:
    bump = d.function(d.module(), "bump")
    arguments = (1, 1, 1024, 1, 1, 0, None, None)
    d.fails(TOO_LARGE, "cuLaunchCooperativeKernel", bump, 1 << 16, *arguments)
    d.ok("cuLaunchCooperativeKernel", bump, 2, *arguments)
    d.sync()
    assert d.counters()["bump"].threads == 2048


@case
def the_launch_api_of_old_works(d: Driver) -> None:
    module = d.module()
    add1 = d.function(module, "add1")
    data = d.up(np.arange(64, dtype="f4"))
    d.ok("cuFuncSetBlockShape", add1, 32, 1, 1)
    for at in (0, 8):
        d.ok("cuParamSetv", add1, at, c.byref(data), 8)
    d.ok("cuParamSeti", add1, 16, 64)
    d.ok("cuParamSetSize", add1, 20)
    d.ok("cuLaunchGrid", add1, 2, 1)
    d.sync()
    assert (d.down(data, 64) == np.arange(64) + 1).all()
    d.fails(INVALID_VALUE, "cuLaunchGrid", add1, 0, 1)


@case
def many_threads_launch_at_once(d: Driver) -> None:
    module = d.module()
    bump = d.function(module, "bump")
    errors: list[BaseException] = []

    def work() -> None:
        try:
            d.ok("cuCtxSetCurrent", d.ctx)
            stream = d.stream()
            for _ in range(100):
                d.launch(bump, Params(), (2, 1, 1), stream=stream)
            d.ok("cuStreamSynchronize", stream)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert d.down(d.global_of(module, "counter")[0], 1, "u4")[0] == 7 + 800


if __name__ == "__main__":
    if sys.argv[1] == "stay_busy":
        stay_busy(Driver())
    main()
