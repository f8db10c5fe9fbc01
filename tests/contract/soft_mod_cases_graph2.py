# SPDX-License-Identifier: Apache-2.0
"""Cases of graphs: branches, updates, attributes, user objects, what is refused."""

from __future__ import annotations

import ctypes as c
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from soft_mod_cases_graph import Graph, copy_of, kernel_node, launch
from soft_mod_driver import (
    DESTROYED,
    INVALID_VALUE,
    NOT_READY,
    NOT_SUPPORTED,
    TOO_LARGE,
    UPDATE_FAILURE,
    Copy3D,
    Driver,
    Memset,
    Params,
    case,
    main,
)

HOST_FUNCTION = c.CFUNCTYPE(None, c.c_void_p)
MB = 1 << 20
COOPERATIVE, PRIORITY = 2, 8
TOPOLOGY, TYPE, PARAMETERS, FUNCTION, ATTRIBUTES = 2, 3, 5, 7, 8


def pinned(d: Driver, size: int) -> c.c_void_p:
    ptr = c.c_void_p()
    d.ok("cuMemHostAlloc", c.byref(ptr), c.c_size_t(size), 0)
    return ptr


def upload(
    d: Driver, g: Graph, host: c.c_void_p, to: int, size: int, *deps: c.c_void_p
) -> c.c_void_p:
    params = copy_of(c.c_uint64(to), c.c_uint64(0), size)
    params.src_type, params.src_host = 1, host.value
    return g._add("cuGraphAddMemcpyNode", deps, c.byref(params), d.ctx)


def timed(d: Driver, executable: c.c_void_p, stream: c.c_void_p) -> float:
    start, end = d.event(), d.event()
    d.ok("cuEventRecord", start, stream)
    d.ok("cuGraphLaunch", executable, stream)
    d.ok("cuEventRecord", end, stream)
    return d.elapsed_ms(start, end)


class Info(c.Structure):
    _fields_ = (("result", c.c_int), ("node", c.c_void_p), ("source", c.c_void_p))


def updated(d: Driver, executable: c.c_void_p, g: Graph) -> Info:
    info = Info()
    result = d.call("cuGraphExecUpdate_v2", executable, g.handle, c.byref(info))
    assert result == (0 if info.result == 0 else UPDATE_FAILURE), (result, info.result)
    return info


def eventually(true: object) -> None:
    for _ in range(500):
        if callable(true) and true():
            return
        time.sleep(0.01)
    raise AssertionError("it never came true")


@case
def branches_overlap_in_device_time(d: Driver) -> None:
    """A copy beside a kernel, and kernels that leave each other room, against the same in a row."""
    nap = d.function(d.module(), "nap")
    stream, size = d.stream(), 8 * MB
    host, to = pinned(d, size), d.alloc(size)
    spread, line = Graph(d), Graph(d)
    kernel_end, copy_end = d.event(), d.event()
    first = spread.kernel(function=nap, params=Params(c.c_uint32(50)))
    spread._add("cuGraphAddEventRecordNode", (first,), kernel_end)
    for _ in range(2):
        spread.kernel(function=nap, params=Params(c.c_uint32(50)))
    copy = upload(d, spread, host, to.value, size)
    spread._add("cuGraphAddEventRecordNode", (copy,), copy_end)
    before: tuple[c.c_void_p, ...] = ()
    for _ in range(3):
        before = (line.kernel(*before, function=nap, params=Params(c.c_uint32(50))),)
    upload(d, line, host, to.value, size, *before)
    fast, slow = spread.instantiate(), line.instantiate()
    timed(d, fast, stream)
    begin = d.event()
    d.ok("cuEventRecord", begin, stream)
    spread_ms, line_ms = timed(d, fast, stream), timed(d, slow, stream)
    assert spread_ms >= 50
    assert line_ms >= 150
    assert line_ms / spread_ms > 1.5, (line_ms, spread_ms)
    # in a row, in whatever order, the later of the two would end after the sum of both
    kernel_ms, copy_ms = d.elapsed_ms(begin, kernel_end), d.elapsed_ms(begin, copy_end)
    assert max(kernel_ms, copy_ms) < 50 + 0.9 * min(copy_ms, kernel_ms), (kernel_ms, copy_ms)
    # fork and join by a child graph
    outer = Graph(d)
    first = outer.kernel(function=nap, params=Params(c.c_uint32(10)))
    inner = outer.child(spread, first)
    outer.kernel(inner, function=nap, params=Params(c.c_uint32(10)))
    both = timed(d, outer.instantiate(), stream)
    assert 70 <= both < line_ms, both


@case
def branches_heed_their_edges(d: Driver) -> None:
    """A diamond of kernels: what each reads was written by the ones before."""
    add1 = d.function(d.module(), "add1")
    n = 4096
    a, b, e, f = (d.up_now(np.zeros(n, "f4")) for _ in range(4))
    count, shape = c.c_uint32(n), {"grid": (16, 1, 1), "block": (256, 1, 1)}
    g = Graph(d)
    top = g.kernel(function=add1, params=Params(a, b, count), **shape)
    left = g.kernel(top, function=add1, params=Params(b, e, count), **shape)
    right = g.kernel(top, function=add1, params=Params(b, f, count), **shape)
    right = g.kernel(right, function=add1, params=Params(f, f, count), **shape)
    middle = g.empty(left, right)
    last = g.kernel(middle, function=add1, params=Params(f, a, count), **shape)
    g.kernel(last, left, function=add1, params=Params(e, e, count), **shape)
    executable = g.instantiate()
    streams = [d.stream(), d.stream()]
    for i in range(20):
        d.ok("cuGraphLaunch", executable, streams[i % 2])
    d.sync()
    # a gains four each time: b is one more, f three more than the a before
    assert (d.down(a, n) == 80).all()
    assert (d.down(b, n) == 77).all()
    assert (d.down(f, n) == 79).all()
    assert (d.down(e, n) == 79).all()


@case
def launches_of_one_graph_follow_each_other(d: Driver) -> None:
    nap = d.function(d.module(), "nap")
    g = Graph(d)
    for _ in range(2):
        g.kernel(function=nap, params=Params(c.c_uint32(15)))
    executable = g.instantiate()
    one, two = d.stream(), d.stream()
    start, end = d.event(), d.event()
    d.ok("cuEventRecord", start, one)
    d.ok("cuGraphLaunch", executable, one)
    d.ok("cuGraphLaunch", executable, two)
    d.ok("cuStreamDestroy_v2", one)
    d.ok("cuGraphLaunch", executable, two)
    d.ok("cuGraphExecDestroy", executable)  # what was launched goes on
    d.ok("cuGraphDestroy", g.handle)
    d.ok("cuEventRecord", end, two)
    assert d.elapsed_ms(start, end) >= 45
    assert d.counters()["nap"].launches == 6
    # the quick branch of a launch waits for the slow one of the launch before
    order: list[str] = []
    g = Graph(d)
    g.host(HOST_FUNCTION(lambda _: order.append("quick")))
    slow = g.kernel(function=nap, params=Params(c.c_uint32(40)))
    g.host(HOST_FUNCTION(lambda _: order.append("slow")), slow)
    executable = g.instantiate()
    for stream in (two, d.stream(), two):
        d.ok("cuGraphLaunch", executable, stream)
    d.sync()
    assert order == ["quick", "slow"] * 3


@case
def events_of_branches(d: Driver) -> None:
    """An event that a node records is pending from the launch on, in graphs of branches too."""
    nap = d.function(d.module(), "nap")
    event, before = d.event(), d.event()
    stream, other = d.stream(), d.stream()
    g = Graph(d)
    first = g.kernel(function=nap, params=Params(c.c_uint32(20)))
    g._add("cuGraphAddEventRecordNode", (first,), event)
    waits = g._add("cuGraphAddEventWaitNode", (), before)
    g.kernel(waits, function=nap, params=Params(c.c_uint32(1)))
    executable = g.instantiate()
    start, end = d.event(), d.event()
    d.launch(nap, Params(c.c_uint32(40)), stream=other)
    d.ok("cuEventRecord", before, other)
    d.ok("cuEventRecord", start, stream)
    d.ok("cuGraphLaunch", executable, stream)
    d.fails(NOT_READY, "cuEventQuery", event)
    d.ok("cuEventRecord", end, stream)
    d.ok("cuEventSynchronize", event)
    assert d.elapsed_ms(start, event) >= 20
    assert d.elapsed_ms(before, end) >= 1  # one branch waited for the other stream
    assert d.elapsed_ms(start, event) < 39
    # it waits for what was recorded before the launch, though it runs later
    d.launch(nap, Params(c.c_uint32(60)), stream=stream)
    d.ok("cuGraphLaunch", executable, stream)
    d.launch(nap, Params(c.c_uint32(400)), stream=other)
    d.ok("cuEventRecord", before, other)
    d.ok("cuEventRecord", end, stream)
    d.ok("cuEventSynchronize", end)
    d.fails(NOT_READY, "cuEventQuery", before)


@case(devices="tiny,tiny")
def a_graph_may_span_devices(d: Driver) -> None:
    one, two = d.ctx, d.handle("cuCtxCreate_v2", 0, 1)
    there, nap = d.up_now(np.zeros(1, "u4")), d.function(d.module(), "nap")
    put = d.function(d.module(), "put")
    d.ok("cuCtxSetCurrent", one)
    here = d.up_now(np.zeros(1, "u4"))
    put_here = d.function(d.module(), "put")
    g = Graph(d)
    params = kernel_node(g, function=put_here, params=Params(here, c.c_uint32(3)))
    first = g._add("cuGraphAddKernelNode", (), c.byref(params))
    for function, rest in ((put, Params(there, c.c_uint32(4))), (nap, Params(c.c_uint32(5)))):
        node = kernel_node(g, function=function, params=rest)
        node.ctx = two.value
        first = g._add("cuGraphAddKernelNode_v2", (first,), c.byref(node))
    executable, stream = g.instantiate(), d.stream()
    assert timed(d, executable, stream) >= 5
    assert d.down(here, 1, "u4")[0] == 3
    d.ok("cuCtxSetCurrent", two)
    assert d.down(there, 1, "u4")[0] == 4
    d.ok("cuCtxDestroy_v2", two)
    d.ok("cuCtxSetCurrent", one)
    d.fails(DESTROYED, "cuGraphLaunch", executable, stream)
    d.sync()


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
def nodes_go_by_their_own_priority_if_asked(d: Driver) -> None:
    nap = d.function(d.module(), "nap")
    g, value = Graph(d), (c.c_uint * 16)(c.c_uint(-5).value)
    events = [d.event(), d.event()]
    for urgent, event in zip((False, True), events, strict=True):
        last: tuple[c.c_void_p, ...] = ()
        for _ in range(12):
            last = (
                g.kernel(*last, function=nap, params=Params(c.c_uint32(5)), grid=(132 * 64, 1, 1)),
            )
            if urgent:
                d.ok("cuGraphKernelNodeSetAttribute", last[0], PRIORITY, value)
        g._add("cuGraphAddEventRecordNode", last, event)
    executable = d.handle("cuGraphInstantiateWithFlags", g.handle, c.c_uint64(8))
    start, stream = d.event(), d.stream()
    d.ok("cuEventRecord", start, stream)
    d.ok("cuGraphLaunch", executable, stream)
    d.ok("cuStreamSynchronize", stream)
    slow, quick = (d.elapsed_ms(start, event) for event in events)
    assert quick < 0.75 * slow, (quick, slow)


@case
def user_objects_are_destroyed_once(d: Driver) -> None:
    gone: list[int] = []
    inside: list[int] = []
    threads: list[int] = []

    @HOST_FUNCTION
    def destroy(number: int | None) -> None:
        gone.append(number or 0)
        inside.append(d.cu.cuCtxSynchronize())
        threads.append(threading.get_ident())

    def make(number: int, count: int = 1) -> c.c_void_p:
        return d.handle("cuUserObjectCreate", c.c_void_p(number), destroy, count, 1)

    out = c.c_void_p()
    for count, flags in ((0, 1), (1 << 31, 1), (1, 0), (1, 3)):
        bad = (c.byref(out), None, destroy, count, flags)
        d.fails(INVALID_VALUE, "cuUserObjectCreate", *bad)
    one = make(1, 2)
    d.ok("cuUserObjectRetain", one, 3)
    d.ok("cuUserObjectRelease", one, 4)
    assert gone == []
    d.ok("cuUserObjectRelease", one, 1)
    eventually(lambda: gone == [1])
    d.fails(INVALID_VALUE, "cuUserObjectRetain", one, 1)
    # graphs, their clones, children and executable graphs hold them, and launches to their end
    two, nap = make(2), d.function(d.module(), "nap")
    g = Graph(d)
    g.kernel(function=nap, params=Params(c.c_uint32(300)))
    d.fails(INVALID_VALUE, "cuGraphRetainUserObject", g.handle, two, 1, 2)
    d.ok("cuGraphRetainUserObject", g.handle, two, 1, 1)  # moved: it is ours no more
    outer = Graph(d)
    outer.child(g)
    executable = outer.instantiate()
    d.ok("cuGraphDestroy", g.handle)
    d.ok("cuGraphDestroy", outer.handle)
    d.ok("cuGraphLaunch", executable, None)
    d.ok("cuGraphExecDestroy", executable)
    time.sleep(0.1)
    assert gone == [1]
    d.sync()
    eventually(lambda: gone == [1, 2])
    three = make(3, 2)
    g = Graph(d)
    d.ok("cuGraphRetainUserObject", g.handle, three, 3, 0)
    d.fails(INVALID_VALUE, "cuGraphReleaseUserObject", g.handle, three, 4)
    clone = d.handle("cuGraphClone", g.handle)
    d.ok("cuGraphReleaseUserObject", g.handle, three, 3)
    d.fails(INVALID_VALUE, "cuGraphReleaseUserObject", g.handle, three, 1)
    d.ok("cuUserObjectRelease", three, 2)
    time.sleep(0.05)
    assert gone == [1, 2]
    d.ok("cuGraphDestroy", clone)
    eventually(lambda: gone == [1, 2, 3])
    assert inside == [800] * 3  # no calls in there
    assert threading.get_ident() not in threads
    d.ok("cuGraphDestroy", g.handle)


@case
def graphs_are_drawn(d: Driver) -> None:
    g, inner = Graph(d), Graph(d)
    inner.empty()
    first = g.kernel(function=d.function(d.module(), "bump"), params=Params(), grid=(7, 1, 1))
    g.child(inner, first)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.dot"
        d.ok("cuGraphDebugDotPrint", g.handle, str(path).encode(), 0)
        text = path.read_text()
        assert text.startswith("digraph")
        assert text.count("->") == 1
        assert "bump" in text
        assert "<<<7" not in text
        assert text.count("{") == text.count("}") == 3
        d.ok("cuGraphDebugDotPrint", g.handle, str(path).encode(), 1)
        assert "<<<7,1,1, 1,1,1, 0>>>" in path.read_text()
        missing = str(Path(folder) / "none" / "x").encode()
        d.fails(304, "cuGraphDebugDotPrint", g.handle, missing, 0)
    d.fails(INVALID_VALUE, "cuGraphDebugDotPrint", g.handle, None, 0)
    d.fails(INVALID_VALUE, "cuGraphDebugDotPrint", d.ctx, b"/dev/null", 0)


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
