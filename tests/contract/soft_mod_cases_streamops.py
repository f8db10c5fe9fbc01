# SPDX-License-Identifier: Apache-2.0
"""Cases of stream memory operations: values written and waited for in stream order."""

from __future__ import annotations

import ctypes as c
import time

from soft_mod_driver import (
    INVALID_HANDLE,
    INVALID_VALUE,
    LAUNCH_FAILED,
    NOT_READY,
    NOT_SUPPORTED,
    Driver,
    Params,
    case,
    main,
    np,
)

GEQ, EQ, AND, NOR, FLUSH = 0, 1, 2, 3, 1 << 30
WAIT32, WRITE32, FLUSH_REMOTE, WAIT64, WRITE64, BARRIER = 1, 2, 3, 4, 5, 6
BATCH_NODE = 12


class Op(c.Structure):
    """One of a batch: all kinds have these members."""

    _fields_ = (
        ("kind", c.c_int),
        ("pad", c.c_int),
        ("address", c.c_uint64),
        ("value", c.c_uint64),
        ("flags", c.c_uint),
        ("alias", c.c_uint64),
        ("rest", c.c_uint64),
    )


class Node(c.Structure):
    _fields_ = (
        ("ctx", c.c_void_p),
        ("count", c.c_uint),
        ("ops", c.POINTER(Op)),
        ("flags", c.c_uint),
    )


def barrier(flags: int = 0) -> Op:
    op = Op(BARRIER)
    op.pad = flags
    return op


def wait32(d: Driver, stream: c.c_void_p, address: int, value: int, flags: int = EQ) -> None:
    where, number = c.c_uint64(address), c.c_uint32(value)
    d.ok("cuStreamWaitValue32_v2", stream, where, number, flags)


def write32(d: Driver, stream: c.c_void_p, address: int, value: int) -> None:
    d.ok("cuStreamWriteValue32_v2", stream, c.c_uint64(address), c.c_uint32(value), 0)


def pinned(d: Driver, words: int = 16) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
    ptr = c.c_void_p()
    d.ok("cuMemHostAlloc", c.byref(ptr), c.c_size_t(4 * words), 2)
    assert ptr.value is not None
    array: np.ndarray[tuple[int], np.dtype[np.uint32]] = np.frombuffer(
        (c.c_uint32 * words).from_address(ptr.value), "u4"
    )
    array[:] = 0
    return array


def waiting(d: Driver, stream: c.c_void_p) -> bool:
    """Does it wait still, after time enough to have seen what it waits for?"""
    time.sleep(0.02)
    result = d.call("cuStreamQuery", stream)
    assert result in {0, NOT_READY}, result
    return result == NOT_READY


@case
def each_comparison_waits_for_its_value(d: Driver) -> None:
    word, stream = pinned(d, 2), d.stream()
    address, wide = word.ctypes.data, word.view("u8")
    top = 0xFFFFFFFF
    for flags, asked, no, yes in (
        (GEQ, 5, (4, 0x80000005), (5, 9, 0x80000004)),
        (GEQ, top, (top - 1,), (top, 0, 7)),  # cyclic
        (EQ, 5, (4, 6), (5,)),
        (AND, 6, (0, 1, 8), (2, 4, 7)),
        (NOR, 6, (top, top & ~2), (0, 6, top & ~1)),
    ):
        for value in yes:
            for before in no:
                word[0] = before
                wait32(d, stream, address, asked, flags)
                assert d.call("cuStreamQuery", stream) == NOT_READY
                word[0] = value
                d.ok("cuStreamSynchronize", stream)
    for before in no:
        word[0] = before
        wait32(d, stream, address, asked, flags)
        assert waiting(d, stream), (flags, asked, before)
        word[0] = yes[0]
        d.ok("cuStreamSynchronize", stream)
    # 64 bits wide: the low half alone does not do
    for flags, value in ((EQ, 1 << 40), (GEQ, 1 << 40), (AND, 1 << 40)):
        wide[0] = 0
        d.ok("cuStreamWaitValue64_v2", stream, c.c_uint64(address), c.c_uint64(value), flags)
        assert waiting(d, stream)
        wide[0] = value
        d.ok("cuStreamSynchronize", stream)
    wide[0] = (1 << 64) - 1
    d.ok("cuStreamWaitValue64_v2", stream, c.c_uint64(address), c.c_uint64(0), NOR)
    assert waiting(d, stream)
    wide[0] = (1 << 64) - 1 - (1 << 40)
    d.ok("cuStreamSynchronize", stream)


@case
def writes_come_in_stream_order(d: Driver) -> None:
    memory = d.up_now(np.zeros(4, "u4"))
    nap = d.function(d.module(), "nap")
    one, two = d.stream(), d.stream()
    start, end = d.event(), d.event()
    d.ok("cuEventRecord", start, one)
    wait32(d, two, memory.value, 7)
    write32(d, two, memory.value + 4, 9)
    d.ok("cuEventRecord", end, two)
    d.launch(nap, Params(c.c_uint32(30)), stream=one)
    write32(d, one, memory.value, 7)
    wide = c.c_uint64(memory.value + 8)
    d.ok("cuStreamWriteValue64_v2", one, wide, c.c_uint64((5 << 32) | 3), 1)
    d.sync()
    assert d.down(memory, 4, "u4").tolist() == [7, 9, 3, 5]
    assert d.elapsed_ms(start, end) >= 30


@case
def a_kernel_and_a_stream_signal_each_other(d: Driver) -> None:
    flags = d.up_now(np.zeros(3, "u4"))
    module = d.module()
    one, two = d.stream(), d.stream()
    params = Params(flags, c.c_uint32(1), c.c_uint64(flags.value + 4), c.c_uint32(2))
    d.launch(d.function(module, "await"), params, stream=one)  # spins until the stream writes
    wait32(d, two, flags.value + 8, 3)
    write32(d, two, flags.value, 1)
    wait32(d, two, flags.value + 4, 2)
    put = Params(c.c_uint64(flags.value + 8), c.c_uint32(3))
    d.launch(d.function(module, "put"), put, stream=d.stream())
    d.sync()
    assert d.down(flags, 3, "u4").tolist() == [1, 2, 3]


@case
def a_wait_holds_no_engine(d: Driver) -> None:
    word = pinned(d)
    module = d.module()
    stuck, free = d.stream(), d.stream()
    d.launch(d.function(module, "bump"), Params(), stream=stuck)
    wait32(d, stuck, word.ctypes.data, 1)
    d.launch(d.function(module, "bump"), Params(), stream=stuck)
    memory = d.alloc(4096)
    for _ in range(3):
        d.launch(d.function(module, "bump"), Params(), stream=free)
        d.ok("cuMemsetD8Async", memory, 1, c.c_size_t(4096), free)
        d.ok("cuStreamSynchronize", free)
    one = d.ctx
    d.handle("cuCtxCreate_v2", 0, d.device)  # nor does another context wait
    d.launch(d.function(d.module(), "bump"), Params())
    d.sync()
    d.ok("cuCtxSetCurrent", one)
    assert d.call("cuStreamQuery", stuck) == NOT_READY
    word[0] = 1
    d.sync()
    assert d.counters()["bump"].launches == 6


@case
def bad_operations_are_refused(d: Driver) -> None:
    memory, stream = d.alloc(64), d.stream()
    address = memory.value
    host = np.zeros(1, "u4")
    for where, value, flags, expected in (
        (0x1000, 0, EQ, INVALID_VALUE),
        (host.ctypes.data, 0, EQ, INVALID_VALUE),  # not pinned
        (address + 2, 0, EQ, INVALID_VALUE),
        (address, 0, 4, INVALID_VALUE),
        (address, 0, FLUSH, NOT_SUPPORTED),
        (address, 0, FLUSH | 4, INVALID_VALUE),
    ):
        for name in ("cuStreamWaitValue32", "cuStreamWaitValue32_v2"):
            d.fails(expected, name, stream, c.c_uint64(where), c.c_uint32(value), flags)
    wide = c.c_uint64(address + 4)
    for name in ("cuStreamWaitValue64_v2", "cuStreamWriteValue64_v2"):
        d.fails(INVALID_VALUE, name, stream, wide, c.c_uint64(0), 0)
    d.fails(INVALID_VALUE, "cuStreamWriteValue32_v2", stream, c.c_uint64(address), c.c_uint32(0), 2)
    bogus = c.c_void_p(0x1234)
    number = c.c_uint32(0)
    d.fails(INVALID_HANDLE, "cuStreamWriteValue32_v2", bogus, c.c_uint64(address), number, 0)
    ops = (Op * 256)(*(Op(WRITE32, 0, address, i, 0) for i in range(256)))
    batch = "cuStreamBatchMemOp_v2"
    d.fails(INVALID_VALUE, batch, stream, 256, ops, 0)
    d.fails(INVALID_VALUE, batch, stream, 0, ops, 0)
    d.fails(INVALID_VALUE, batch, stream, 1, None, 0)
    d.fails(INVALID_VALUE, batch, stream, 1, ops, 1)
    d.fails(INVALID_VALUE, batch, stream, 1, (Op * 1)(Op(99)), 0)
    d.fails(NOT_SUPPORTED, batch, stream, 1, (Op * 1)(Op(FLUSH_REMOTE)), 0)
    d.fails(INVALID_VALUE, batch, stream, 1, (Op * 1)(barrier(2)), 0)
    d.fails(INVALID_VALUE, "cuStreamBatchMemOp", stream, 1, (Op * 1)(barrier()), 0)
    d.ok(batch, stream, 255, ops, 0)
    d.ok("cuStreamSynchronize", stream)
    assert d.down(memory, 1, "u4")[0] == 254
    told = c.c_int()
    for attribute, value in ((92, 1), (93, 1), (94, 1), (98, 0), (122, 1), (123, 1)):
        d.ok("cuDeviceGetAttribute", c.byref(told), attribute, d.device)
        assert told.value == value, attribute


@case
def batches_go_through_their_operations(d: Driver) -> None:
    word, memory = pinned(d), d.up_now(np.zeros(4, "u4"))
    one, two = d.stream(), d.stream()
    address = memory.value
    ops = (Op * 4)(
        Op(WRITE32, 0, address, 1, 0),
        Op(WAIT32, 0, word.ctypes.data, 5, EQ),
        barrier(1),
        Op(WRITE64, 0, address + 8, (3 << 32) | 2, 0),
    )
    d.ok("cuStreamBatchMemOp_v2", one, 4, ops, 0)
    ops[1].value = 6  # what was given was copied
    wait32(d, two, address, 1)
    d.ok("cuStreamSynchronize", two)
    assert d.down(memory, 4, "u4").tolist() == [1, 0, 0, 0]
    word[0] = 5
    d.ok("cuStreamSynchronize", one)
    assert d.down(memory, 4, "u4").tolist() == [1, 0, 2, 3]


@case
def a_failing_context_ends_the_wait(d: Driver) -> None:
    word, stream = pinned(d), d.stream()
    wait32(d, stream, word.ctypes.data, 1)
    d.launch(d.function(d.module(), "fail"), Params(), stream=d.stream())
    d.fails(LAUNCH_FAILED, "cuStreamSynchronize", stream)


@case(devices="tiny,tiny")
def a_context_that_waits_in_vain_can_be_destroyed(d: Driver) -> None:
    other = d.ctx
    for _ in range(2):
        ctx = d.handle("cuCtxCreate_v2", 0, 1)
        bump = d.function(d.module(), "bump")
        word, stream = pinned(d), d.stream()
        kept, copy = d.stream(), d.alloc(64)
        wait32(d, stream, word.ctypes.data, 1)
        d.launch(bump, Params(), stream=stream)
        # that a wait of one stream is met by another's work is waited for
        wait32(d, kept, copy.value, 5)
        napping = d.stream()
        d.launch(d.function(d.module(), "nap"), Params(c.c_uint32(400)), stream=napping)
        write32(d, napping, copy.value, 5)
        d.launch(bump, Params(), stream=kept)
        d.ok("cuCtxDestroy_v2", ctx)
    assert d.counters()["bump"].launches == 2  # not what stood behind the value that never came
    assert d.handle("cuCtxGetCurrent").value == other.value
    d.sync()
    d.launch(d.function(d.module(), "bump"), Params())
    d.sync()


@case
def captured_operations_become_nodes(d: Driver) -> None:
    word, memory = pinned(d), d.up_now(np.zeros(2, "u4"))
    stream = d.stream()
    d.ok("cuStreamBeginCapture_v2", stream, 0)
    write32(d, stream, memory.value, 4)
    wait32(d, stream, word.ctypes.data, 1)
    write32(d, stream, memory.value + 4, 6)
    graph = c.c_void_p()
    d.ok("cuStreamEndCapture", stream, c.byref(graph))
    assert d.down(memory, 2, "u4").tolist() == [0, 0]
    count, nodes, kind = c.c_size_t(8), (c.c_void_p * 8)(), c.c_int()
    d.ok("cuGraphGetNodes", graph, nodes, c.byref(count))
    for node in list(nodes)[: count.value]:
        d.ok("cuGraphNodeGetType", c.c_void_p(node), c.byref(kind))
        assert kind.value == BATCH_NODE
    assert count.value == 3
    executable = d.handle("cuGraphInstantiateWithFlags", graph, c.c_uint64(0))
    d.ok("cuGraphLaunch", executable, stream)
    assert waiting(d, stream)
    word[0] = 1
    d.ok("cuStreamSynchronize", stream)
    assert d.down(memory, 2, "u4").tolist() == [4, 6]


@case
def nodes_of_operations_are_read_and_changed(d: Driver) -> None:
    memory = d.up_now(np.zeros(2, "u4"))
    graph = d.handle("cuGraphCreate", 0)
    ops = (Op * 2)(
        Op(WRITE32, 0, memory.value, 1, 0),
        Op(WRITE32, 0, memory.value + 4, 2, 0),
    )
    params = Node(d.ctx, 2, ops, 0)
    node = d.handle("cuGraphAddBatchMemOpNode", graph, None, c.c_size_t(0), c.byref(params))
    ops[0].value = 50
    told = Node()
    d.ok("cuGraphBatchMemOpNodeGetParams", node, c.byref(told))
    assert (told.ctx, told.count, told.flags) == (d.ctx.value, 2, 0)
    assert [told.ops[i].value for i in range(2)] == [1, 2]
    executable = d.handle("cuGraphInstantiateWithFlags", graph, c.c_uint64(0))
    d.ok("cuGraphLaunch", executable, None)
    assert d.down(memory, 2, "u4").tolist() == [1, 2]
    d.ok("cuGraphExecBatchMemOpNodeSetParams", executable, node, c.byref(params))
    d.ok("cuGraphLaunch", executable, None)
    assert d.down(memory, 2, "u4").tolist() == [50, 2]
    ops[1].value = 60
    d.ok("cuGraphBatchMemOpNodeSetParams", node, c.byref(params))
    d.ok("cuGraphLaunch", executable, None)  # the executable graph is a copy
    assert d.down(memory, 2, "u4").tolist() == [50, 2]
    info = (c.c_uint64 * 3)()
    d.ok("cuGraphExecUpdate_v2", executable, graph, info)
    d.ok("cuGraphLaunch", executable, None)
    assert d.down(memory, 2, "u4").tolist() == [50, 60]
    params.count = 0
    d.fails(INVALID_VALUE, "cuGraphBatchMemOpNodeSetParams", node, c.byref(params))
    any_node = (c.c_uint64 * 32)(BATCH_NODE)
    params.count = 2
    c.memmove(c.addressof(any_node) + 16, c.byref(params), c.sizeof(params))
    zero = c.c_size_t(0)
    d.handle("cuGraphAddNode_v2", graph, None, None, zero, any_node)


if __name__ == "__main__":
    main()
