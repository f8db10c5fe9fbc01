# SPDX-License-Identifier: Apache-2.0
"""Cases of graphs: built by hand, read back, launched, changed."""

from __future__ import annotations

import ctypes as c
from typing import Any

from soft_mod_driver import (
    INVALID_VALUE,
    NOT_SUPPORTED,
    UPDATE_FAILURE,
    Copy3D,
    Driver,
    KernelNode,
    Memset,
    Params,
    case,
    main,
    np,
)

KERNEL, MEMCPY, MEMSET, HOST, CHILD, EMPTY = range(6)
DEVICE = 2
HOST_FUNCTION = c.CFUNCTYPE(None, c.c_void_p)


class Graph:
    """A graph under construction, and its nodes by name."""

    def __init__(self, d: Driver) -> None:
        self.d = d
        self.handle = d.handle("cuGraphCreate", 0)
        self.keep: list[Any] = []

    def _add(self, name: str, deps: tuple[c.c_void_p, ...], *rest: Any) -> c.c_void_p:
        array = (c.c_void_p * max(1, len(deps)))(*(x.value for x in deps))
        self.keep += rest
        return self.d.handle(name, self.handle, array, c.c_size_t(len(deps)), *rest)

    def kernel(self, *deps: c.c_void_p, v2: bool = False, **node: Any) -> c.c_void_p:
        params = kernel_node(self, **node)
        return self._add(f"cuGraphAddKernelNode{'_v2' if v2 else ''}", deps, c.byref(params))

    def copy(self, dst: c.c_uint64, src: c.c_uint64, size: int, *deps: c.c_void_p) -> c.c_void_p:
        params = copy_of(dst, src, size)
        return self._add("cuGraphAddMemcpyNode", deps, c.byref(params), self.d.ctx)

    def fill(self, dst: c.c_uint64, value: int, count: int, *deps: c.c_void_p) -> c.c_void_p:
        params = Memset(dst.value, 0, value, 4, count, 1)
        return self._add("cuGraphAddMemsetNode", deps, c.byref(params), self.d.ctx)

    def host(self, function: Any, *deps: c.c_void_p) -> c.c_void_p:
        params = (c.c_void_p * 2)(c.cast(function, c.c_void_p), None)
        self.keep += [function]
        return self._add("cuGraphAddHostNode", deps, params)

    def empty(self, *deps: c.c_void_p) -> c.c_void_p:
        return self._add("cuGraphAddEmptyNode", deps)

    def child(self, graph: Graph, *deps: c.c_void_p) -> c.c_void_p:
        return self._add("cuGraphAddChildGraphNode", deps, graph.handle)

    def instantiate(self) -> c.c_void_p:
        return self.d.handle("cuGraphInstantiateWithFlags", self.handle, c.c_uint64(0))

    def nodes(self, call: str = "cuGraphGetNodes") -> list[int]:
        count = c.c_size_t()
        self.d.ok(call, self.handle, None, c.byref(count))
        array = (c.c_void_p * (count.value + 1))()
        room = c.c_size_t(count.value + 1)
        self.d.ok(call, self.handle, array, c.byref(room))
        assert room.value == count.value
        assert array[count.value] is None
        return list(array)[: count.value]


def kernel_node(graph: Any, **node: Any) -> KernelNode:
    params: Params = node["params"]
    extra = node.get("extra", False)
    grid, block = node.get("grid", (1, 1, 1)), node.get("block", (1, 1, 1))
    graph.keep += [params]
    return KernelNode(
        node["function"],
        *grid,
        *block,
        node.get("shared", 0),
        None if extra else c.addressof(params.array),
        c.addressof(params.extra) if extra else None,
        None,
        None,
    )


def copy_of(dst: c.c_uint64, src: c.c_uint64, size: int) -> Copy3D:
    return Copy3D(
        src_type=DEVICE,
        src_device=src.value,
        src_pitch=size,
        src_height=1,
        dst_type=DEVICE,
        dst_device=dst.value,
        dst_pitch=size,
        dst_height=1,
        width=size,
        height=1,
        depth=1,
    )


def launch(d: Driver, executable: c.c_void_p, times: int = 1) -> None:
    for _ in range(times):
        d.ok("cuGraphLaunch", executable, None)
    d.sync()


@case
def a_graph_does_what_plain_launches_do(d: Driver) -> None:
    n = 1000
    data = np.arange(n, dtype="f4")
    a, b, e = d.up(data), d.alloc(4 * n), d.alloc(4 * n)
    add1 = d.function(d.module(), "add1")
    shape = {"grid": (4, 1, 1), "block": (256, 1, 1)}
    count = c.c_uint32(n)
    g = Graph(d)
    first = g.kernel(function=add1, params=Params(a, b, count), **shape)
    second = g.kernel(first, function=add1, params=Params(b, a, count), extra=True, **shape)
    third = g.kernel(second, function=add1, params=Params(a, b, count), v2=True, **shape)
    g.copy(e, b, 4 * n, third)
    executable = g.instantiate()
    launch(d, executable, 3)
    # a gains 2 a launch; b is one more than a, and e is b
    assert (d.down(a, n) == data + 6).all()
    assert (d.down(e, n) == data + 7).all()
    assert d.counters()["add1"].launches == 9
    d.ok("cuGraphExecDestroy", executable)
    d.ok("cuGraphDestroy", g.handle)
    d.fails(INVALID_VALUE, "cuGraphDestroy", g.handle)
    d.fails(INVALID_VALUE, "cuGraphLaunch", executable, None)


@case
def nodes_run_in_order_of_dependencies_not_of_creation(d: Driver) -> None:
    a = d.up(np.zeros(1, "f4"))
    b = d.alloc(4)
    add1 = d.function(d.module(), "add1")
    g = Graph(d)
    last = g.copy(b, a, 4)
    middle = g.kernel(function=add1, params=Params(a, a, c.c_uint32(1)))
    start = g.fill(a, 0x41200000, 1)  # 10.0
    pairs = ((start, middle), (middle, last))
    from_, to = ((c.c_void_p * 2)(*(p[i].value for p in pairs)) for i in range(2))
    d.ok("cuGraphAddDependencies", g.handle, from_, to, c.c_size_t(2))
    d.fails(INVALID_VALUE, "cuGraphAddDependencies", g.handle, from_, to, c.c_size_t(1))
    launch(d, g.instantiate())
    assert d.down(b, 1)[0] == 11
    back = (c.c_void_p * 1)(last.value), (c.c_void_p * 1)(start.value)
    d.ok("cuGraphAddDependencies", g.handle, *back, c.c_size_t(1))
    out, error = c.c_void_p(), c.c_void_p()
    log = c.create_string_buffer(64)
    instantiate = "cuGraphInstantiate_v2"
    size = c.c_size_t(64)
    d.fails(INVALID_VALUE, instantiate, c.byref(out), g.handle, c.byref(error), log, size)
    assert error.value in {x.value for x in (start, middle, last)}
    assert b"cycle" in log.value
    d.ok("cuGraphRemoveDependencies", g.handle, *back, c.c_size_t(1))
    g.instantiate()


@case
def parameters_are_copied_when_a_node_is_added(d: Driver) -> None:
    data = d.up(np.zeros(4, "f4"))
    add1 = d.function(d.module(), "add1")
    pointer, count = c.c_uint64(data.value), c.c_uint32(4)
    for extra in (False, True):
        g = Graph(d)
        params = Params(pointer, pointer, count)
        g.kernel(function=add1, params=params, block=(4, 1, 1), extra=extra)
        saved, blob = pointer.value, params.blob.raw
        pointer.value = count.value = 0
        params.blob.raw = bytes(len(blob))
        launch(d, g.instantiate())
        pointer.value, count.value = saved, 4
    assert d.down(data, 4).tolist() == [2] * 4


@case
def an_executable_graph_is_changed_node_by_node(d: Driver) -> None:
    a, b = d.up(np.zeros(4, "f4")), d.up(np.full(4, 100, "f4"))
    out = d.alloc(16)
    add1 = d.function(d.module(), "add1")
    g = Graph(d)
    count = c.c_uint32(4)
    node = g.kernel(function=add1, params=Params(a, a, count), block=(4, 1, 1), extra=True)
    copy = g.copy(out, a, 16, node)
    executable = g.instantiate()
    launch(d, executable)
    assert d.down(out, 4).tolist() == [1] * 4
    new = kernel_node(g, function=add1, params=Params(b, b, count), block=(4, 1, 1), extra=True)
    d.ok("cuGraphExecKernelNodeSetParams", executable, node, c.byref(new))
    change = copy_of(out, b, 16)
    d.ok("cuGraphExecMemcpyNodeSetParams", executable, copy, c.byref(change), d.ctx)
    launch(d, executable, 2)
    assert d.down(out, 4).tolist() == [102] * 4
    assert d.down(a, 4).tolist() == [1] * 4
    d.fails(INVALID_VALUE, "cuGraphExecKernelNodeSetParams", executable, copy, c.byref(new))
    # the graph itself has not changed
    launch(d, g.instantiate())
    assert d.down(a, 4).tolist() == [2] * 4
    d.ok("cuGraphNodeSetEnabled", executable, node, 0)
    launch(d, executable)
    assert d.down(b, 4).tolist() == [102] * 4


@case
def an_executable_graph_is_updated_as_a_whole(d: Driver) -> None:
    a, b = d.up(np.zeros(4, "f4")), d.up(np.full(4, 50, "f4"))
    add1 = d.function(d.module(), "add1")
    shape = {"function": add1, "block": (4, 1, 1)}
    graphs = []
    for pointer in (a, b):
        g = Graph(d)
        first = g.kernel(params=Params(pointer, pointer, c.c_uint32(4)), **shape)
        g.kernel(first, params=Params(pointer, pointer, c.c_uint32(4)), **shape)
        graphs.append(g)
    executable = graphs[0].instantiate()
    info = (c.c_uint64 * 3)()
    d.ok("cuGraphExecUpdate_v2", executable, graphs[1].handle, info)
    assert info[0] & 0xFFFFFFFF == 0
    launch(d, executable)
    assert d.down(a, 4).tolist() == [0] * 4
    assert d.down(b, 4).tolist() == [52] * 4
    wider = Graph(d)
    wider.empty()
    d.fails(UPDATE_FAILURE, "cuGraphExecUpdate_v2", executable, wider.handle, info)
    assert info[0] & 0xFFFFFFFF == 2
    other = Graph(d)
    other.fill(a, 0, 4, other.fill(a, 0, 4))
    d.fails(UPDATE_FAILURE, "cuGraphExecUpdate_v2", executable, other.handle, info)
    assert info[0] & 0xFFFFFFFF == 3
    launch(d, executable)
    assert d.down(b, 4).tolist() == [54] * 4


@case
def graphs_are_read_back(d: Driver) -> None:
    a = d.up(np.zeros(4, "f4"))
    add1 = d.function(d.module(), "add1")
    g = Graph(d)
    root = g.empty()
    fill = g.fill(a, 3, 4, root)
    node = g.kernel(root, fill, function=add1, params=Params(a, a, c.c_uint32(4)), block=(4, 1, 1))
    assert g.nodes() == [root.value, fill.value, node.value]
    assert g.nodes("cuGraphGetRootNodes") == [root.value]
    count = c.c_size_t()
    d.ok("cuGraphGetEdges", g.handle, None, None, c.byref(count))
    assert count.value == 3
    from_, to = (c.c_void_p * 3)(), (c.c_void_p * 3)()
    d.ok("cuGraphGetEdges", g.handle, from_, to, c.byref(count))
    edges = set(zip(from_, to, strict=True))
    assert edges == {
        (root.value, fill.value),
        (root.value, node.value),
        (fill.value, node.value),
    }
    d.ok("cuGraphNodeGetDependencies", node, None, c.byref(count))
    assert count.value == 2
    d.ok("cuGraphNodeGetDependentNodes", root, None, c.byref(count))
    assert count.value == 2
    kinds = []
    for x in (root, fill, node):
        kind = c.c_int()
        d.ok("cuGraphNodeGetType", x, c.byref(kind))
        kinds.append(kind.value)
    assert kinds == [EMPTY, MEMSET, KERNEL]
    params = KernelNode()
    d.ok("cuGraphKernelNodeGetParams_v2", node, c.byref(params))
    assert (params.func, params.bx, params.gx) == (add1.value, 4, 1)
    pointers = c.cast(params.params, c.POINTER(c.c_void_p))
    assert c.cast(pointers[0], c.POINTER(c.c_uint64))[0] == a.value
    assert c.cast(pointers[2], c.POINTER(c.c_uint32))[0] == 4
    filled = Memset()
    d.ok("cuGraphMemsetNodeGetParams", fill, c.byref(filled))
    assert (filled.dst, filled.value, filled.width) == (a.value, 3, 4)
    d.fails(INVALID_VALUE, "cuGraphMemsetNodeGetParams", node, c.byref(filled))
    clone = d.handle("cuGraphClone", g.handle)
    found = d.handle("cuGraphNodeFindInClone", node, clone)
    assert found.value not in {None, node.value}
    d.ok("cuGraphDestroyNode", fill)
    assert g.nodes() == [root.value, node.value]
    d.ok("cuGraphNodeGetDependencies", node, None, c.byref(count))
    assert count.value == 1
    d.fails(INVALID_VALUE, "cuGraphDestroyNode", fill)


@case
def host_and_child_nodes_run_in_their_place(d: Driver) -> None:
    a, b = d.up(np.zeros(4, "f4")), d.alloc(16)
    add1 = d.function(d.module(), "add1")
    order: list[str] = []
    inner = Graph(d)
    first = inner.kernel(function=add1, params=Params(a, a, c.c_uint32(4)), block=(4, 1, 1))
    inner.host(HOST_FUNCTION(lambda _: order.append("inner")), first)
    outer = Graph(d)
    before = outer.host(HOST_FUNCTION(lambda _: order.append("before")))
    child = outer.child(inner, before)
    outer.copy(b, a, 16, child)
    outer.host(HOST_FUNCTION(lambda _: order.append("after")), child)
    d.ok("cuGraphDestroy", inner.handle)  # the child is a copy
    launch(d, outer.instantiate(), 2)
    assert order == ["before", "inner", "after"] * 2
    assert d.down(b, 4).tolist() == [2] * 4


@case
def a_graph_launched_in_two_streams_does_not_overlap_itself(d: Driver) -> None:
    module = d.module()
    g = Graph(d)
    node = g.kernel(function=d.function(module, "nap"), params=Params(c.c_uint32(10)))
    g.kernel(node, function=d.function(module, "bump"), params=Params())
    executable = g.instantiate()
    one, two = d.stream(), d.stream()
    start, end = d.event(), d.event()
    d.ok("cuEventRecord", start, one)
    d.ok("cuGraphLaunch", executable, one)
    d.ok("cuGraphLaunch", executable, two)
    d.ok("cuEventRecord", end, two)
    assert d.elapsed_ms(start, end) >= 20
    assert d.down(d.global_of(module, "counter")[0], 1, "u4")[0] == 9


@case
def what_is_not_supported_says_so(d: Driver) -> None:
    g = Graph(d)
    flags = c.c_uint64(4)  # launch from the device
    out = c.c_void_p()
    d.fails(NOT_SUPPORTED, "cuGraphInstantiateWithFlags", c.byref(out), g.handle, flags)
    d.fails(INVALID_VALUE, "cuGraphInstantiateWithFlags", c.byref(out), g.handle, c.c_uint64(64))
    node = (c.c_uint64 * 32)(8)  # an external semaphore
    size = c.c_size_t(0)
    add = "cuGraphAddNode_v2"
    d.fails(NOT_SUPPORTED, add, c.byref(out), g.handle, None, None, size, node)
    d.fails(INVALID_VALUE, "cuGraphLaunch", d.ctx, None)
    d.fails(INVALID_VALUE, "cuGraphAddEmptyNode", c.byref(out), d.ctx, None, size)
    stranger = (c.c_void_p * 1)(d.ctx.value)
    d.fails(INVALID_VALUE, "cuGraphAddEmptyNode", c.byref(out), g.handle, stranger, c.c_size_t(1))


if __name__ == "__main__":
    main()
