# SPDX-License-Identifier: Apache-2.0
"""Cases of graphs that allocate: how their nodes come about, what is refused, who reaches it."""

from __future__ import annotations

import ctypes as c

from soft_mod_cases_graph import Graph
from soft_mod_cases_graphmem import (
    MEM_ALLOC,
    MEM_FREE,
    AllocNode,
    instantiate,
    release,
    up_down_graph,
    wanted,
)
from soft_mod_cases_pool import (
    DEVICE,
    FD,
    INVALID_DEVICE,
    MANAGED,
    READ,
    READWRITE,
    Access,
    Location,
    Props,
    alloc,
    create,
    props,
)
from soft_mod_driver import (
    CAPTURE_UNSUPPORTED,
    ILLEGAL_ADDRESS,
    INVALID_VALUE,
    NOT_SUPPORTED,
    UPDATE_FAILURE,
    Driver,
    Params,
    case,
    main,
    np,
)


@case
def captured_calls_become_nodes(d: Driver) -> None:
    n = 1000
    add1 = d.function(d.module(), "add1")
    stream = d.stream()
    source, sink = d.up(np.arange(n, dtype="f4")), d.alloc(4 * n)
    outside = alloc(d, 64, stream)
    d.sync()
    d.ok("cuStreamBeginCapture_v2", stream, 0)
    ptr = alloc(d, 4 * n, stream)
    shape = ((4, 1, 1), (256, 1, 1))
    d.launch(add1, Params(source, ptr, c.c_uint32(n)), *shape, stream=stream)
    d.ok("cuMemcpyDtoDAsync_v2", sink, ptr, c.c_size_t(4 * n), stream)
    d.ok("cuMemsetD8Async", ptr, 0, c.c_size_t(4 * n), stream)
    d.fails(INVALID_VALUE, "cuMemFreeAsync", outside, stream)  # not the graph's
    d.ok("cuMemFreeAsync", ptr, stream)
    d.fails(INVALID_VALUE, "cuMemFreeAsync", ptr, stream)
    graph = c.c_void_p()
    d.ok("cuStreamEndCapture", stream, c.byref(graph))
    count = c.c_size_t(8)
    nodes = (c.c_void_p * 8)()
    d.ok("cuGraphGetNodes", graph, nodes, c.byref(count))
    kinds = []
    for i in range(count.value):
        kind = c.c_int()
        d.ok("cuGraphNodeGetType", c.c_void_p(nodes[i]), c.byref(kind))
        kinds.append(kind.value)
    assert kinds == [MEM_ALLOC, 0, 1, 2, MEM_FREE]
    d.ok("cuGraphGetEdges", graph, None, None, c.byref(count))
    assert count.value == 4
    executable = instantiate(d, graph)
    for _ in range(2):
        d.ok("cuGraphLaunch", executable, stream)
    d.ok("cuStreamSynchronize", stream)
    assert (d.down(sink, n) == np.arange(n) + 1).all()
    back = AllocNode()
    d.ok("cuGraphMemAllocNodeGetParams", c.c_void_p(nodes[0]), c.byref(back))
    assert (back.ptr, back.bytes, back.desc_count) == (ptr.value, 4 * n, 0)
    freed = c.c_uint64()
    d.ok("cuGraphMemFreeNodeGetParams", c.c_void_p(nodes[4]), c.byref(freed))
    assert freed.value == ptr.value
    d.fails(INVALID_VALUE, "cuGraphMemFreeNodeGetParams", c.c_void_p(nodes[0]), c.byref(freed))
    d.fails(INVALID_VALUE, "cuGraphMemAllocNodeGetParams", c.c_void_p(nodes[4]), c.byref(back))
    # host memory has no place in a graph
    host = create(d, place=(2, 0))
    d.ok("cuStreamBeginCapture_v2", stream, 2)
    out = c.c_uint64()
    size = c.c_size_t(64)
    d.fails(CAPTURE_UNSUPPORTED, "cuMemAllocFromPoolAsync", c.byref(out), size, host, stream)
    assert d.call("cuStreamEndCapture", stream, c.byref(c.c_void_p())) == 901


@case
def such_graphs_are_restricted(d: Driver) -> None:
    g, ptr, _, last = up_down_graph(d)
    freed = release(g, ptr, last)
    out = c.c_void_p()
    d.fails(
        INVALID_VALUE, "cuGraphAddMemFreeNode", c.byref(out), g.handle, None, c.c_size_t(0), ptr
    )
    d.fails(NOT_SUPPORTED, "cuGraphClone", c.byref(out), g.handle)
    d.fails(NOT_SUPPORTED, "cuGraphDestroyNode", freed)
    one = c.c_size_t(1)
    edge = ((c.c_void_p * 1)(last.value), (c.c_void_p * 1)(freed.value))
    d.fails(NOT_SUPPORTED, "cuGraphRemoveDependencies", g.handle, *edge, one)
    parent = Graph(d)
    child = "cuGraphAddChildGraphNode"
    d.fails(NOT_SUPPORTED, child, c.byref(out), parent.handle, None, c.c_size_t(0), g.handle)
    executable = g.instantiate()
    make = "cuGraphInstantiateWithFlags"
    d.fails(NOT_SUPPORTED, make, c.byref(out), g.handle, c.c_uint64(0))  # one at a time
    info = (c.c_uint64 * 3)()
    d.fails(UPDATE_FAILURE, "cuGraphExecUpdate_v2", executable, g.handle, info)
    assert info[0] & 0xFFFFFFFF == 6  # not supported
    stream = d.stream()
    d.ok("cuStreamBeginCapture_v2", stream, 2)
    d.fails(NOT_SUPPORTED, "cuGraphLaunch", executable, stream)  # would be a child
    d.ok("cuStreamEndCapture", stream, c.byref(out))
    d.ok("cuGraphExecDestroy", executable)
    d.ok("cuGraphExecDestroy", g.instantiate())
    inner = Graph(d)
    inner.empty()
    holder = parent.child(inner)
    d.ok("cuGraphChildGraphNodeGetGraph", holder, c.byref(out))
    node = wanted(64)
    made = c.c_void_p()
    add = "cuGraphAddMemAllocNode"
    d.fails(NOT_SUPPORTED, add, c.byref(made), out, None, c.c_size_t(0), c.byref(node))


@case
def nodes_are_checked(d: Driver) -> None:
    g = Graph(d)
    out = c.c_void_p()
    none = c.c_size_t(0)

    def fails(expected: int, node: AllocNode) -> None:
        d.fails(
            expected, "cuGraphAddMemAllocNode", c.byref(out), g.handle, None, none, c.byref(node)
        )

    fails(INVALID_VALUE, wanted(0))
    for place, expected in (
        ((DEVICE, 99), INVALID_DEVICE),
        ((2, 0), NOT_SUPPORTED),
        ((0, 0), INVALID_VALUE),
    ):
        fails(expected, AllocNode(props(place=place), None, 0, 64, 0))
    fails(NOT_SUPPORTED, AllocNode(props(FD), None, 0, 64, 0))
    fails(NOT_SUPPORTED, AllocNode(Props(MANAGED, 0, Location(DEVICE, 0)), None, 0, 64, 0))
    access = (Access * 2)(Access(Location(DEVICE, 0), READ))
    fails(INVALID_VALUE, AllocNode(props(), access, 1, 64, 0))
    access[0].flags = READWRITE
    fails(INVALID_VALUE, AllocNode(props(), access, 2, 64, 0))  # more than there are devices
    fails(INVALID_VALUE, AllocNode(props(), None, 1, 64, 0))
    assert g.nodes() == []
    node = AllocNode(props(), access, 1, 64, 0)
    add = "cuGraphAddMemAllocNode"
    d.ok(add, c.byref(out), g.handle, None, none, c.byref(node))
    back = AllocNode()
    d.ok("cuGraphMemAllocNodeGetParams", out, c.byref(back))
    assert (back.desc_count, back.descs[0].flags) == (1, READWRITE)
    free_node = "cuGraphAddMemFreeNode"
    for wrong in (c.c_uint64(node.ptr + 8), c.c_uint64(0), d.alloc(64), alloc(d, 64)):
        d.fails(INVALID_VALUE, free_node, c.byref(out), g.handle, None, none, wrong)
    # and by the call for all types, which tells the address
    union = (c.c_uint64 * 32)()
    node = wanted(4096)
    c.memmove(c.addressof(union) + 16, c.addressof(node), c.sizeof(AllocNode))
    union[0] = MEM_ALLOC
    d.ok("cuGraphAddNode_v2", c.byref(out), g.handle, None, None, none, union)
    made = AllocNode.from_buffer_copy(union, 16)
    assert made.ptr != 0
    release_it = (c.c_uint64 * 32)(MEM_FREE, 0, made.ptr)
    deps = (c.c_void_p * 1)(out.value)
    d.ok("cuGraphAddNode_v2", c.byref(out), g.handle, deps, None, c.c_size_t(1), release_it)
    assert len(g.nodes()) == 3
    again = (c.c_uint64 * 32)(MEM_FREE, 0, made.ptr)
    d.fails(INVALID_VALUE, "cuGraphAddNode_v2", c.byref(out), g.handle, None, None, none, again)
    assert len(g.nodes()) == 3


@case
def before_its_graph_runs_memory_is_out_of_reach(d: Driver) -> None:
    g, ptr, _, last = up_down_graph(d)
    release(g, ptr, last)
    d.launch(d.function(d.module(), "store4"), Params(ptr))
    assert d.call("cuCtxSynchronize") == ILLEGAL_ADDRESS


@case
def so_it_is_for_copies(d: Driver) -> None:
    g, ptr, _, last = up_down_graph(d)
    release(g, ptr, last)
    d.ok("cuMemsetD8Async", ptr, 1, c.c_size_t(1000), None)
    assert d.call("cuCtxSynchronize") == ILLEGAL_ADDRESS


if __name__ == "__main__":
    main()
