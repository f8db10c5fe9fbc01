# SPDX-License-Identifier: Apache-2.0
"""Cases of graphs: branches, launches, priorities, user objects, drawings."""

from __future__ import annotations

import ctypes as c
import tempfile
import threading
import time
from pathlib import Path

from soft_mod_cases_graph import Graph, copy_of, kernel_node
from soft_mod_driver import (
    DESTROYED,
    INVALID_VALUE,
    NOT_READY,
    Driver,
    Params,
    case,
    main,
    np,
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


if __name__ == "__main__":
    main()
