# SPDX-License-Identifier: Apache-2.0
"""Cases of graphs that allocate: launches, frees, footprints."""

from __future__ import annotations

import ctypes as c
import threading
from typing import Any, ClassVar

from soft_mod_cases_graph import Graph
from soft_mod_cases_pool import (
    DEVICE,
    INVALID_DEVICE,
    MIB,
    PINNED,
    UNIT,
    Access,
    Location,
    Props,
    pointer,
)
from soft_mod_driver import (
    INVALID_VALUE,
    Driver,
    Params,
    case,
    main,
    np,
)

MEM_ALLOC, MEM_FREE = 10, 11


AUTO_FREE = 1


USED, USED_HIGH, RESERVED, RESERVED_HIGH = range(4)


class AllocNode(c.Structure):
    _fields_: ClassVar = [
        ("props", Props),
        ("descs", c.POINTER(Access)),
        ("desc_count", c.c_size_t),
        ("bytes", c.c_size_t),
        ("ptr", c.c_uint64),
    ]


def wanted(size: int, **more: Any) -> AllocNode:
    return AllocNode(Props(PINNED, 0, Location(DEVICE, 0)), None, 0, size, **more)


def node_list(deps: tuple[c.c_void_p, ...]) -> tuple[Any, c.c_size_t]:
    return (c.c_void_p * max(1, len(deps)))(*(x.value for x in deps)), c.c_size_t(len(deps))


def allocate(g: Graph, size: int, *deps: c.c_void_p) -> tuple[c.c_void_p, c.c_uint64]:
    node = wanted(size)
    out = g.d.handle("cuGraphAddMemAllocNode", g.handle, *node_list(deps), c.byref(node))
    return out, c.c_uint64(node.ptr)


def release(g: Graph, ptr: c.c_uint64, *deps: c.c_void_p) -> c.c_void_p:
    return g.d.handle("cuGraphAddMemFreeNode", g.handle, *node_list(deps), ptr)


def instantiate(d: Driver, graph: c.c_void_p, flags: int = 0) -> c.c_void_p:
    return d.handle("cuGraphInstantiateWithFlags", graph, c.c_uint64(flags))


def memory(d: Driver, which: int = RESERVED) -> int:
    value = c.c_uint64()
    d.ok("cuDeviceGetGraphMemAttribute", d.device, which, c.byref(value))
    return value.value


def trim(d: Driver) -> None:
    d.ok("cuDeviceGraphMemTrim", d.device)


def up_down_graph(d: Driver, n: int = 1000) -> tuple[Graph, c.c_uint64, c.c_uint64, c.c_void_p]:
    """input -> (memory of the graph) -> output, one more at each step."""
    add1 = d.function(d.module(), "add1")
    shape: dict[str, Any] = {"grid": (4, 1, 1), "block": (256, 1, 1)}
    source, sink = d.up(np.arange(n, dtype="f4")), d.alloc(4 * n)
    d.sync()  # a small copy may still be on its way, and streams need not wait for it
    g = Graph(d)
    node, ptr = allocate(g, 4 * n)
    count = c.c_uint32(n)
    first = g.kernel(node, function=add1, params=Params(source, ptr, count), **shape)
    second = g.kernel(first, function=add1, params=Params(ptr, sink, count), **shape)
    g.keep += [source]
    return g, ptr, sink, second


@case
def a_graph_has_its_memory_while_it_runs(d: Driver) -> None:
    before = d.free_bytes()
    g, ptr, sink, last = up_down_graph(d)
    taken = before - d.free_bytes()  # what the test itself took
    release(g, ptr, last)
    assert memory(d) == 0  # addresses cost nothing
    executable = g.instantiate()
    assert memory(d) == 0
    for _ in range(3):
        d.ok("cuGraphLaunch", executable, None)
    d.sync()
    assert (d.down(sink, 1000) == np.arange(1000) + 2).all()
    assert [memory(d, i) for i in range(4)] == [UNIT] * 4
    assert d.free_bytes() == before - taken - UNIT
    assert pointer(d, ptr, 12) == 4000
    d.fails(INVALID_VALUE, "cuMemFree_v2", ptr)  # its own graph frees it
    d.fails(INVALID_VALUE, "cuMemFreeAsync", ptr, None)
    d.ok("cuGraphExecDestroy", executable)
    d.ok("cuGraphDestroy", g.handle)
    assert (memory(d, USED), memory(d)) == (0, UNIT)  # kept for other graphs
    trim(d)
    assert memory(d) == 0
    assert d.free_bytes() == before - taken
    assert memory(d, RESERVED_HIGH) == UNIT
    zero, one = c.c_uint64(0), c.c_uint64(1)
    set_high = "cuDeviceSetGraphMemAttribute"
    d.fails(INVALID_VALUE, set_high, d.device, RESERVED_HIGH, c.byref(one))
    d.fails(INVALID_VALUE, set_high, d.device, RESERVED, c.byref(zero))
    d.fails(INVALID_DEVICE, set_high, 99, RESERVED_HIGH, c.byref(zero))
    d.fails(INVALID_VALUE, "cuDeviceGetGraphMemAttribute", d.device, 4, c.byref(zero))
    d.fails(INVALID_DEVICE, "cuDeviceGraphMemTrim", 99)
    d.ok(set_high, d.device, RESERVED_HIGH, c.byref(zero))
    d.ok(set_high, d.device, USED_HIGH, c.byref(zero))
    assert [memory(d, i) for i in range(4)] == [0] * 4


@case
def graphs_one_after_the_other_share(d: Driver) -> None:
    first, second = (up_down_graph(d) for _ in range(2))
    executables = []
    for g, ptr, _, last in (first, second):
        release(g, ptr, last)
        executables.append(g.instantiate())
    assert first[1].value != second[1].value
    stream, other = d.stream(), d.stream()
    for _ in range(3):
        for executable in executables:
            d.ok("cuGraphLaunch", executable, stream)
    d.sync()
    assert memory(d) == UNIT
    assert memory(d, USED) == UNIT  # one block, behind the addresses of both
    nap = d.function(d.module(), "nap")
    for each in (stream, other):
        d.launch(nap, Params(c.c_uint32(2000)), stream=each)
    d.ok("cuGraphLaunch", executables[0], stream)
    d.ok("cuGraphLaunch", executables[1], other)  # at the same time: not the same block
    assert memory(d) == 2 * UNIT
    trim(d)
    assert memory(d) == 2 * UNIT  # both are to run
    d.sync()
    for _, _, sink, _ in (first, second):
        assert (d.down(sink, 1000) == np.arange(1000) + 2).all()
    trim(d)
    assert memory(d) == 0
    d.ok("cuGraphLaunch", executables[0], other)  # mapped again
    d.sync()
    assert memory(d) == UNIT


@case
def addresses_are_used_again_inside_a_graph(d: Driver) -> None:
    g = Graph(d)
    a, pa = allocate(g, MIB)
    freed = release(g, pa, a)
    _, pb = allocate(g, MIB, freed)
    _, pc = allocate(g, MIB, a)  # not behind the free
    assert pb.value == pa.value
    assert pc.value != pa.value
    _, big = allocate(g, 3 * UNIT, freed)
    d.ok("cuGraphLaunch", instantiate(d, g.handle), None)
    d.sync()
    assert memory(d) == 4 * UNIT
    for ptr in (pb, pc, big):
        d.ok("cuMemFree_v2", ptr)


@case
def branches_run_beside_each_other_in_the_graphs_memory(d: Driver) -> None:
    """The left branch waits, in a host function, for what comes after the right one's kernel."""
    n = 1000
    gate, late = threading.Event(), []
    callback = c.CFUNCTYPE(None, c.c_void_p)
    add1 = d.function(d.module(), "add1")
    shape: dict[str, Any] = {"function": add1, "grid": (4, 1, 1), "block": (256, 1, 1)}
    count = c.c_uint32(n)
    source, left_sink, right_sink = (
        d.up_now(np.arange(n, dtype="f4")),
        d.alloc(4 * n),
        d.alloc(4 * n),
    )
    g = Graph(d)
    root = g.empty()
    left, left_ptr = allocate(g, 4 * n, root)
    right, right_ptr = allocate(g, 4 * n, root)
    held = g.host(callback(lambda _: late.append(not gate.wait(30))), left)
    first = g.kernel(held, params=Params(source, left_ptr, count), **shape)
    last_left = g.kernel(first, params=Params(left_ptr, left_sink, count), **shape)
    release(g, left_ptr, last_left)
    first = g.kernel(right, params=Params(source, right_ptr, count), **shape)
    freed = release(
        g, right_ptr, g.kernel(first, params=Params(right_ptr, right_sink, count), **shape)
    )
    again, again_ptr = allocate(g, 4 * n, freed)
    assert again_ptr.value == right_ptr.value  # while the left branch has its own still
    filled = g.fill(again_ptr, 7, n, again)
    g.host(callback(lambda _: gate.set()), filled)
    release(g, again_ptr, filled)
    executable = g.instantiate()
    for stream in (d.stream(), d.stream(), None):
        gate.clear()
        for sink in (left_sink, right_sink):
            d.ok("cuMemsetD8_v2", sink, 0, c.c_size_t(4 * n))
        d.sync()
        d.ok("cuGraphLaunch", executable, stream)
        d.sync()
        for sink in (left_sink, right_sink):
            assert (d.down(sink, n) == np.arange(n) + 2).all()
    assert late == [False] * 3
    assert memory(d) == UNIT


@case
def what_outlives_its_graph(d: Driver) -> None:
    g, ptr, _, _ = up_down_graph(d)
    executable = g.instantiate()
    launch = "cuGraphLaunch"
    d.fails(INVALID_VALUE, "cuMemFree_v2", ptr)  # no launch has made it
    d.ok(launch, executable, None)
    d.fails(INVALID_VALUE, launch, executable, None)  # it lives
    d.sync()
    assert (d.down(ptr, 1000) == np.arange(1000) + 1).all()
    d.ok("cuMemFreeAsync", ptr, None)
    d.fails(INVALID_VALUE, "cuMemFreeAsync", ptr, None)
    d.ok(launch, executable, None)
    d.ok("cuMemFree_v2", ptr)
    d.ok(launch, executable, None)
    # another graph frees it
    other = Graph(d)
    release(other, ptr)
    d.fails(
        INVALID_VALUE,
        "cuGraphAddMemFreeNode",
        c.byref(c.c_void_p()),
        g.handle,
        None,
        c.c_size_t(0),
        ptr,
    )
    freeing = other.instantiate()
    d.ok(launch, freeing, None)
    d.fails(INVALID_VALUE, launch, freeing, None)
    d.ok(launch, executable, None)
    # neither graph is needed for it to live, and to be freed
    for exec_, graph in ((executable, g), (freeing, other)):
        d.ok("cuGraphExecDestroy", exec_)
        d.ok("cuGraphDestroy", graph.handle)
    d.sync()
    assert (d.down(ptr, 1000) == np.arange(1000) + 1).all()
    trim(d)
    assert memory(d, USED) == UNIT
    d.ok("cuMemFree_v2", ptr)
    d.fails(INVALID_VALUE, "cuMemFree_v2", ptr)
    trim(d)
    assert memory(d) == 0


@case
def a_living_allocation_keeps_its_block(d: Driver) -> None:
    g, ptr, _, _ = up_down_graph(d)
    h, other, sink, last = up_down_graph(d)
    release(h, other, last)
    d.ok("cuGraphLaunch", g.instantiate(), None)
    d.ok("cuGraphLaunch", h.instantiate(), None)
    d.sync()
    assert memory(d) == 2 * UNIT
    assert (d.down(ptr, 1000) == np.arange(1000) + 1).all()
    assert (d.down(sink, 1000) == np.arange(1000) + 2).all()
    trim(d)
    assert memory(d) == UNIT


@case
def launches_free_by_themselves_if_told_to(d: Driver) -> None:
    g, ptr, sink, _ = up_down_graph(d)
    executable = instantiate(d, g.handle, AUTO_FREE)
    for _ in range(3):
        d.ok("cuGraphLaunch", executable, None)
    d.sync()
    assert memory(d) == UNIT
    assert (d.down(sink, 1000) == np.arange(1000) + 2).all()
    d.ok("cuGraphExecDestroy", executable)
    d.ok("cuMemFreeAsync", ptr, None)  # the last one is not freed by that
    d.sync()
    trim(d)
    assert memory(d) == 0


@case
def uploads_map_ahead(d: Driver) -> None:
    g, ptr, sink, last = up_down_graph(d)
    release(g, ptr, last)
    executable = g.instantiate()
    stream = d.stream()
    d.ok("cuGraphUpload", executable, stream)
    assert memory(d) == UNIT
    d.ok("cuGraphLaunch", executable, stream)
    d.sync()
    assert memory(d) == UNIT
    assert (d.down(sink, 1000) == np.arange(1000) + 2).all()


@case(waived={"local": "libharp gives back what graphs do not need before it refuses memory"})
def what_graphs_had_is_theirs_until_trimmed(d: Driver) -> None:
    g = Graph(d)
    node, ptr = allocate(g, d.free_bytes() // UNIT * UNIT)
    release(g, ptr, node)
    d.ok("cuGraphLaunch", g.instantiate(), None)
    d.sync()
    out = c.c_uint64()
    d.fails(2, "cuMemAlloc_v2", c.byref(out), c.c_size_t(UNIT))
    trim(d)
    d.ok("cuMemAlloc_v2", c.byref(out), c.c_size_t(UNIT))


@case
def graphs_cannot_have_more_than_there_is(d: Driver) -> None:
    size = d.free_bytes() // UNIT * UNIT
    g, h = Graph(d), Graph(d)
    node, ptr = allocate(g, size)
    release(g, ptr, node)
    d.ok("cuGraphLaunch", g.instantiate(), None)
    d.sync()
    out = c.c_uint64()
    allocate(h, size + UNIT)
    d.fails(2, "cuGraphLaunch", instantiate(d, h.handle), None)
    trim(d)
    d.ok("cuMemAlloc_v2", c.byref(out), c.c_size_t(UNIT))


@case
def a_context_takes_the_graphs_memory_along(d: Driver) -> None:
    g, ptr, _, _ = up_down_graph(d)
    d.ok("cuGraphLaunch", g.instantiate(), None)
    d.ok("cuCtxDestroy_v2", d.ctx)
    assert memory(d) == 0
    d.handle("cuCtxCreate_v2", 0, d.device)
    d.fails(INVALID_VALUE, "cuMemFree_v2", ptr)
    d.ok("cuGraphDestroy", g.handle)


if __name__ == "__main__":
    main()
