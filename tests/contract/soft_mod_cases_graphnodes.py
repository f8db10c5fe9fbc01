# SPDX-License-Identifier: Apache-2.0
"""Cases of graphs: what their nodes and edges say, and what of an executable one can be changed."""

from __future__ import annotations

import ctypes as c

from soft_mod_cases_graph import Graph, copy_of, kernel_node, launch
from soft_mod_cases_graph2 import (
    ATTRIBUTES,
    COOPERATIVE,
    FUNCTION,
    HOST_FUNCTION,
    PARAMETERS,
    PRIORITY,
    TOPOLOGY,
    TYPE,
    pinned,
)
from soft_mod_driver import (
    INVALID_VALUE,
    NOT_SUPPORTED,
    TOO_LARGE,
    UPDATE_FAILURE,
    Copy3D,
    Driver,
    Memset,
    Params,
    case,
    main,
    np,
)


class Info(c.Structure):
    _fields_ = (("result", c.c_int), ("node", c.c_void_p), ("source", c.c_void_p))


def updated(d: Driver, executable: c.c_void_p, g: Graph) -> Info:
    info = Info()
    result = d.call("cuGraphExecUpdate_v2", executable, g.handle, c.byref(info))
    assert result == (0 if info.result == 0 else UPDATE_FAILURE), (result, info.result)
    return info


@case
def updates_say_what_differs(d: Driver) -> None:
    module = d.module()
    add1, bump = d.function(module, "add1"), d.function(module, "bump")
    a, b = d.up_now(np.zeros(4, "f4")), d.alloc(64)
    count = c.c_uint32(4)

    def make(kinds: str, *, tweak: str = "", first: int = 0) -> tuple[Graph, list[c.c_void_p]]:
        g, nodes = Graph(d), []
        for kind in kinds:
            on = nodes[-1:] if tweak != "flat" else []
            if kind == "k":
                node = g.kernel(*on, function=add1, params=Params(a, a, count), block=(4, 1, 1))
            elif kind == "b":
                node = g.kernel(*on, function=bump, params=Params())
            elif kind == "f":
                height = 2 if tweak == "rows" else 1
                fill = Memset(b.value, 16, first, 4, 2, height)
                node = g._add("cuGraphAddMemsetNode", tuple(on), c.byref(fill), d.ctx)
            elif kind == "c":
                params = copy_of(b, a, 16)
                if tweak == "host":
                    params.dst_type, params.dst_host = 1, pinned(d, 64).value
                node = g._add("cuGraphAddMemcpyNode", tuple(on), c.byref(params), d.ctx)
            else:
                node = g.empty(*on)
            nodes.append(node)
        return g, nodes

    base, _ = make("kfce")
    executable = base.instantiate()
    same, _ = make("kfce", first=9)
    assert updated(d, executable, same).result == 0
    launch(d, executable)
    assert d.down(b, 4, "f4").tolist() == [1] * 4
    for kinds, tweak, result, at in (
        ("kfc", "", TOPOLOGY, None),
        ("kfcee", "", TOPOLOGY, None),
        ("kfce", "flat", TOPOLOGY, 1),
        ("ffce", "", TYPE, 0),
        ("kfce", "rows", PARAMETERS, 1),
        ("kfce", "host", PARAMETERS, 2),
    ):
        g, nodes = make(kinds, tweak=tweak)
        info = updated(d, executable, g)
        assert info.result == result, (kinds, tweak, info.result)
        assert info.node == (None if at is None else nodes[at].value), (kinds, tweak)
    # another function of the same context may come in its place
    other, _ = make("bfce")
    assert updated(d, executable, other).result == 0
    # a function of another context may not, nor what runs together
    g, nodes = make("kfce")
    value = (c.c_uint * 16)(1)
    d.ok("cuGraphKernelNodeSetAttribute", nodes[0], COOPERATIVE, value)
    info = updated(d, executable, g)
    assert (info.result, info.node) == (ATTRIBUTES, nodes[0].value)
    two = d.handle("cuCtxCreate_v2", 0, d.device)
    g = Graph(d)
    node = kernel_node(g, function=d.function(d.module(), "bump"), params=Params())
    node.ctx = two.value
    first = g._add("cuGraphAddKernelNode_v2", (), c.byref(node))
    fill = Memset(b.value, 16, 0, 4, 2, 1)
    second = g._add("cuGraphAddMemsetNode", (first,), c.byref(fill), d.ctx)
    g.empty(g.copy(b, a, 16, second))
    info = updated(d, executable, g)
    assert (info.result, info.node) == (FUNCTION, first.value)
    info = Info()
    d.fails(INVALID_VALUE, "cuGraphExecUpdate_v2", executable, d.ctx, c.byref(info))
    assert info.result == 1
    d.ok("cuCtxSetCurrent", d.ctx)
    launch(d, executable)  # as it was before what failed
    assert d.counters()["bump"].launches == 1


@case
def parts_of_an_executable_graph_change(d: Driver) -> None:
    add1 = d.function(d.module(), "add1")
    a, b = d.up_now(np.zeros(4, "f4")), d.up_now(np.zeros(4, "f4"))
    count = c.c_uint32(4)

    def child(to: c.c_uint64, times: int) -> Graph:
        g, last = Graph(d), ()
        for _ in range(times):
            last = (g.kernel(*last, function=add1, params=Params(to, to, count), block=(4, 1, 1)),)
        return g

    outer = Graph(d)
    node = outer.child(child(a, 2))
    executable = outer.instantiate()
    launch(d, executable)
    d.ok("cuGraphExecChildGraphNodeSetParams", executable, node, child(b, 2).handle)
    launch(d, executable)
    assert d.down(a, 4).tolist() == [2] * 4
    assert d.down(b, 4).tolist() == [2] * 4
    other = child(b, 3).handle
    d.fails(INVALID_VALUE, "cuGraphExecChildGraphNodeSetParams", executable, node, other)
    any_node = (c.c_uint64 * 32)(4)
    any_node[2] = child(a, 2).handle.value or 0
    d.ok("cuGraphExecNodeSetParams", executable, node, any_node)
    launch(d, executable)
    assert d.down(a, 4).tolist() == [4] * 4
    # a graph can be given away instead of copied
    mine, owner = child(a, 1), Graph(d)
    any_node[2], any_node[3] = mine.handle.value or 0, 1
    zero = c.c_size_t(0)
    moved = d.handle("cuGraphAddNode_v2", owner.handle, None, None, zero, any_node)
    inside = c.c_void_p()
    d.ok("cuGraphChildGraphNodeGetGraph", moved, c.byref(inside))
    assert inside.value == mine.handle.value
    d.fails(INVALID_VALUE, "cuGraphDestroy", mine.handle)
    launch(d, owner.instantiate())
    assert d.down(a, 4).tolist() == [5] * 4
    # what is on the device keeps its kinds of memory
    g = Graph(d)
    copy = g.copy(b, a, 16)
    executable = g.instantiate()
    params = copy_of(b, a, 16)
    params.dst_type, params.dst_host = 1, pinned(d, 64).value
    d.fails(
        INVALID_VALUE, "cuGraphExecMemcpyNodeSetParams", executable, copy, c.byref(params), d.ctx
    )


@case
def kernel_nodes_have_attributes(d: Driver) -> None:
    bump = d.function(d.module(), "bump")
    g = Graph(d)
    one = g.kernel(function=bump, params=Params(), grid=(2, 1, 1))
    two = g.kernel(one, function=bump, params=Params(), grid=(1 << 20, 1, 1))
    value, told = (c.c_uint * 16)(), (c.c_uint * 16)()
    for number, word in ((COOPERATIVE, 1), (PRIORITY, c.c_uint(-2).value), (10, 1), (14, 50)):
        value[0] = word
        d.ok("cuGraphKernelNodeSetAttribute", one, number, value)
        d.ok("cuGraphKernelNodeGetAttribute", one, number, told)
        assert told[0] == word, number
    value[0] = 1
    d.fails(TOO_LARGE, "cuGraphKernelNodeSetAttribute", two, COOPERATIVE, value)
    d.fails(INVALID_VALUE, "cuGraphKernelNodeSetAttribute", one, 12, value)
    d.fails(INVALID_VALUE, "cuGraphKernelNodeGetAttribute", one, 3, told)
    d.fails(INVALID_VALUE, "cuGraphKernelNodeGetAttribute", g.empty(), PRIORITY, told)
    d.fails(TOO_LARGE, "cuGraphKernelNodeCopyAttributes", two, one)
    three = g.kernel(function=bump, params=Params())
    d.ok("cuGraphKernelNodeCopyAttributes", three, one)
    # parameters come and go, attributes stay, in clones too
    params = kernel_node(g, function=bump, params=Params(), grid=(3, 1, 1))
    d.ok("cuGraphKernelNodeSetParams", three, c.byref(params))
    clone = d.handle("cuGraphClone", g.handle)
    found = d.handle("cuGraphNodeFindInClone", three, clone)
    d.ok("cuGraphKernelNodeGetAttribute", found, PRIORITY, told)
    assert c.c_int(told[0]).value == -2
    # captured kernels have the priority of their stream
    stream = d.handle("cuStreamCreateWithPriority", 1, -3)
    d.ok("cuStreamBeginCapture_v2", stream, 0)
    d.launch(bump, Params(), stream=stream)
    graph, node, count = c.c_void_p(), (c.c_void_p * 1)(), c.c_size_t(1)
    d.ok("cuStreamEndCapture", stream, c.byref(graph))
    d.ok("cuGraphGetNodes", graph, node, c.byref(count))
    d.ok("cuGraphKernelNodeGetAttribute", c.c_void_p(node[0]), PRIORITY, told)
    assert c.c_int(told[0]).value == -3


@case
def instantiation_tells_why(d: Driver) -> None:
    class Instantiate(c.Structure):
        _fields_ = (
            ("flags", c.c_uint64),
            ("stream", c.c_void_p),
            ("node", c.c_void_p),
            ("result", c.c_int),
        )

    g = Graph(d)
    one = g.empty()
    two = g.empty(one)
    params, out, told = Instantiate(2, d.stream().value), c.c_void_p(), c.c_uint64()
    by_params = "cuGraphInstantiateWithParams"
    d.ok(by_params, c.byref(out), g.handle, c.byref(params))
    assert (params.node, params.result) == (None, 0)
    d.ok("cuGraphExecGetFlags", out, c.byref(told))
    assert told.value == 2
    params.flags = 1 | 8
    d.ok(by_params, c.byref(out), g.handle, c.byref(params))
    d.fails(INVALID_VALUE, "cuGraphInstantiateWithFlags", c.byref(out), g.handle, c.c_uint64(2))
    params.flags = 4
    d.fails(NOT_SUPPORTED, by_params, c.byref(out), g.handle, c.byref(params))
    assert params.result == 1
    pair = (c.c_void_p * 1)(two.value), (c.c_void_p * 1)(one.value)
    d.ok("cuGraphAddDependencies", g.handle, *pair, c.c_size_t(1))
    params.flags = 0
    d.fails(INVALID_VALUE, by_params, c.byref(out), g.handle, c.byref(params))
    assert params.result == 2
    assert params.node in {one.value, two.value}
    text = c.create_string_buffer(64)
    node = c.c_void_p()
    instantiate = (c.byref(out), g.handle, c.byref(node), text, c.c_size_t(64))
    d.fails(INVALID_VALUE, "cuGraphInstantiate", *instantiate)
    assert b"cycle" in text.value


@case
def edges_carry_data(d: Driver) -> None:
    g = Graph(d)
    one, two = g.empty(), g.empty()
    pair = (c.c_void_p * 1)(one.value), (c.c_void_p * 1)(two.value)
    add, count = "cuGraphAddDependencies_v2", c.c_size_t(1)
    for data, expected in (
        (b"\1\0\1\0\0\0\0\0", NOT_SUPPORTED),  # programmatic
        (b"\0\1\0\0\0\0\0\0", INVALID_VALUE),
        (b"\0\0\2\0\0\0\0\0", INVALID_VALUE),
        (b"\0\0\0\1\0\0\0\0", INVALID_VALUE),
    ):
        d.fails(expected, add, g.handle, *pair, data, count)
    d.ok(add, g.handle, *pair, b"\0" * 8, count)
    d.fails(INVALID_VALUE, add, g.handle, *pair, None, count)  # there already
    d.fails(INVALID_VALUE, add, g.handle, pair[0], pair[0], None, count)
    told = c.create_string_buffer(b"\xff" * 8, 8)
    array = (c.c_void_p * 1)()
    d.ok("cuGraphNodeGetDependencies_v2", two, array, told, c.byref(count))
    assert (array[0], told.raw) == (one.value, b"\0" * 8)
    d.ok("cuGraphRemoveDependencies_v2", g.handle, *pair, None, count)
    d.fails(INVALID_VALUE, "cuGraphRemoveDependencies_v2", g.handle, *pair, None, count)


@case
def nodes_that_are_not_there_are_refused(d: Driver) -> None:
    g, handle = Graph(d), c.c_uint64()
    create = (c.byref(handle), g.handle, d.ctx, 1, 1)
    d.fails(NOT_SUPPORTED, "cuGraphConditionalHandleCreate", *create)
    for kind in (8, 9, 13):
        node, out = (c.c_uint64 * 32)(kind), c.c_void_p()
        zero = c.c_size_t(0)
        add = (c.byref(out), g.handle, None, None, zero, node)
        d.fails(NOT_SUPPORTED, "cuGraphAddNode_v2", *add)
    node = (c.c_uint64 * 32)(77)
    d.fails(INVALID_VALUE, "cuGraphAddNode_v2", c.byref(out), g.handle, None, None, zero, node)
    found, status = c.c_void_p(), c.c_int()
    name = b"cuGraphConditionalHandleCreate"
    address = "cuGetProcAddress_v2"
    d.fails(500, address, name, c.byref(found), 13000, c.c_uint64(0), c.byref(status))


@case
def captured_copies_and_fills_can_be_read(d: Driver) -> None:
    """They come back as parameters of nodes, which make the same nodes again."""
    a, b, stream = d.up_now(np.arange(8, dtype="f4")), d.up_now(np.zeros(8, "f4")), d.stream()
    host = pinned(d, 64)
    d.ok("cuStreamBeginCapture_v2", stream, 0)
    d.ok("cuMemcpyDtoDAsync_v2", b, a, c.c_size_t(32), stream)
    d.ok("cuMemcpyDtoHAsync_v2", host, c.c_uint64(b.value + 4), c.c_size_t(16), stream)
    d.ok("cuMemsetD2D32Async", a, c.c_size_t(16), 5, c.c_size_t(2), c.c_size_t(2), stream)
    graph, nodes, count = c.c_void_p(), (c.c_void_p * 3)(), c.c_size_t(3)
    d.ok("cuStreamEndCapture", stream, c.byref(graph))
    d.ok("cuGraphGetNodes", graph, nodes, c.byref(count))
    copy, fill = Copy3D(), Memset()
    again, last = Graph(d), ()
    for node in nodes[:2]:
        d.ok("cuGraphMemcpyNodeGetParams", c.c_void_p(node), c.byref(copy))
        new = again._add("cuGraphAddMemcpyNode", last, c.byref(copy), d.ctx)
        last = (new,)
    assert (copy.src_type, copy.src_device, copy.dst_type) == (2, b.value + 4, 1)
    assert (copy.dst_host, copy.width, copy.height, copy.depth) == (host.value, 16, 1, 1)
    d.ok("cuGraphMemsetNodeGetParams", c.c_void_p(nodes[2]), c.byref(fill))
    told = (fill.dst, fill.pitch, fill.value, fill.element, fill.width, fill.height)
    assert told == (a.value, 16, 5, 4, 2, 2)
    again._add("cuGraphAddMemsetNode", last, c.byref(fill), d.ctx)
    launch(d, again.instantiate())
    assert d.down(b, 8).tolist() == list(range(8))
    assert (c.c_float * 4).from_address(host.value or 0)[:] == [1, 2, 3, 4]
    assert d.down(a, 8, "u4")[[0, 1, 4, 5]].tolist() == [5] * 4


@case
def captured_host_functions_can_be_read(d: Driver) -> None:
    function = HOST_FUNCTION(lambda _: None)
    stream = d.stream()
    d.ok("cuStreamBeginCapture_v2", stream, 0)
    d.ok("cuLaunchHostFunc", stream, function, c.c_void_p(77))
    graph, node, count = c.c_void_p(), (c.c_void_p * 1)(), c.c_size_t(1)
    d.ok("cuStreamEndCapture", stream, c.byref(graph))
    d.ok("cuGraphGetNodes", graph, node, c.byref(count))
    told = (c.c_void_p * 2)()
    d.ok("cuGraphHostNodeGetParams", c.c_void_p(node[0]), told)
    assert list(told) == [c.cast(function, c.c_void_p).value, 77]


if __name__ == "__main__":
    main()
