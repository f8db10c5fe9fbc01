# SPDX-License-Identifier: Apache-2.0
"""Cases of stream capture: every call that is illegal in it, in every mode, and what it spoils."""

from __future__ import annotations

import ctypes as c
import threading
import time
from collections.abc import Callable

from soft_mod_cases_capture import (
    GLOBAL,
    KERNEL,
    RELAXED,
    THREAD_LOCAL,
    begin,
    edge_count,
    end,
    end_fails,
    instantiate,
    kinds,
    status,
)
from soft_mod_driver import (
    CAPTURE_IMPLICIT,
    CAPTURE_INVALIDATED,
    CAPTURE_ISOLATION,
    CAPTURE_MERGE,
    CAPTURE_UNMATCHED,
    CAPTURE_UNSUPPORTED,
    CAPTURED_EVENT,
    ILLEGAL_STATE,
    INVALID_VALUE,
    NOT_SUPPORTED,
    WRONG_THREAD,
    Driver,
    Params,
    case,
    main,
    np,
)

WAIT_EVENT, EVENT_RECORD = 6, 7
ACTIVE, INVALIDATED = 1, 2
CALLBACK = c.CFUNCTYPE(None, c.c_void_p, c.c_int, c.c_void_p)


def in_thread(d: Driver, body: Callable[[], int]) -> int:
    told: list[int] = []

    def work() -> None:
        d.ok("cuCtxSetCurrent", d.ctx)
        told.append(body())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return told[0]


@case
def illegal_calls_spoil_a_capture_in_every_mode(d: Driver) -> None:
    """Calls on what is being captured, and on what holds it: no mode allows them."""
    event, callback = d.event(), CALLBACK(lambda *_: None)
    ms = c.c_float()
    table: list[tuple[str, int, Callable[[c.c_void_p], int]]] = [
        ("synchronise", CAPTURE_UNSUPPORTED, lambda s: d.call("cuStreamSynchronize", s)),
        ("query", CAPTURE_UNSUPPORTED, lambda s: d.call("cuStreamQuery", s)),
        ("context", CAPTURE_UNSUPPORTED, lambda _: d.call("cuCtxSynchronize")),
        (
            "callback",
            CAPTURE_UNSUPPORTED,
            lambda s: d.call("cuStreamAddCallback", s, callback, None, 0),
        ),
        ("event query", CAPTURED_EVENT, lambda _: d.call("cuEventQuery", event)),
        ("event wait", CAPTURED_EVENT, lambda _: d.call("cuEventSynchronize", event)),
        (
            "elapsed",
            CAPTURED_EVENT,
            lambda _: d.call("cuEventElapsedTime", c.byref(ms), event, event),
        ),
        (
            "context event",
            CAPTURE_UNSUPPORTED,
            lambda _: d.call("cuCtxRecordEvent", d.ctx, event),
        ),
        ("context wait", CAPTURE_UNSUPPORTED, lambda _: d.call("cuCtxWaitEvent", d.ctx, event)),
    ]
    bump = d.function(d.module(), "bump")
    for mode in (GLOBAL, THREAD_LOCAL, RELAXED):
        for name, expected, call in table:
            stream = begin(d, mode)
            d.launch(bump, Params(), stream=stream)
            d.ok("cuEventRecord", event, stream)
            result = call(stream)
            assert result == expected, (name, mode, result)
            assert status(d, stream) == INVALIDATED, (name, mode)
            # nothing can be added any more, whatever it is
            assert d.try_launch(bump, Params(), stream=stream) == CAPTURE_INVALIDATED
            d.fails(CAPTURE_INVALIDATED, "cuEventRecord", event, stream)
            end_fails(d, stream, CAPTURE_INVALIDATED)
            assert status(d, stream) == 0
            d.ok("cuEventRecord", event, stream)
            d.ok("cuStreamSynchronize", stream)
    d.sync()
    assert "bump" not in d.counters() or d.counters()["bump"].launches == 0


@case
def unsafe_calls_heed_the_modes(d: Driver) -> None:
    """Calls that may tie a capture to something: the mode of the capture and thread decides."""
    done, host = d.event(), np.zeros(4, "u4")
    device, size, pointer = d.alloc(4096), c.c_size_t(16), c.c_uint64()
    d.ok("cuEventRecord", done, None)
    d.ok("cuEventSynchronize", done)
    at = c.c_void_p(host.ctypes.data)
    table: list[tuple[str, Callable[[], int]]] = [
        ("allocate", lambda: d.call("cuMemAlloc_v2", c.byref(pointer), size)),
        ("free", lambda: d.call("cuMemFree_v2", c.c_uint64(0)) or 0),
        ("copy", lambda: d.call("cuMemcpyHtoD_v2", device, at, size)),
        ("fill", lambda: d.call("cuMemsetD8_v2", device, 0, size)),
        ("event query", lambda: d.call("cuEventQuery", done)),
        ("event wait", lambda: d.call("cuEventSynchronize", done)),
    ]
    for name, call in table:
        for mode, here, elsewhere in (
            (GLOBAL, CAPTURE_UNSUPPORTED, CAPTURE_UNSUPPORTED),
            (THREAD_LOCAL, CAPTURE_UNSUPPORTED, 0),
            (RELAXED, 0, 0),
        ):
            for expected, run in ((here, call), (elsewhere, lambda call=call: in_thread(d, call))):
                stream = begin(d, mode)
                result = run()
                assert result == expected, (name, mode, expected, result)
                assert status(d, stream) == (ACTIVE if expected == 0 else INVALIDATED)
                if expected == 0:
                    end(d, stream)
                else:
                    end_fails(d, stream, CAPTURE_INVALIDATED)


@case
def a_thread_may_look_away(d: Driver) -> None:
    mode, size, pointer = c.c_int(7), c.c_size_t(16), c.c_uint64()
    exchange = "cuThreadExchangeStreamCaptureMode"
    d.fails(INVALID_VALUE, exchange, c.byref(mode))
    d.fails(INVALID_VALUE, exchange, None)
    mode.value = THREAD_LOCAL

    def local() -> int:
        d.ok(exchange, c.byref(mode))
        return d.call("cuMemAlloc_v2", c.byref(pointer), size)

    stream = begin(d, GLOBAL)
    assert in_thread(d, local) == 0  # heeds its own captures only
    assert mode.value == GLOBAL
    mode.value = RELAXED
    d.ok(exchange, c.byref(mode))
    assert mode.value == GLOBAL  # a thread's mode is its own
    d.ok("cuMemAlloc_v2", c.byref(pointer), size)
    d.fails(CAPTURE_UNSUPPORTED, "cuStreamQuery", stream)  # what conflicts in any case does still
    end_fails(d, stream, CAPTURE_INVALIDATED)


@case
def the_legacy_stream_is_refused_in_all_its_names(d: Driver) -> None:
    bump, event = d.function(d.module(), "bump"), d.event()
    calls: list[Callable[[], int]] = [
        lambda: d.try_launch(bump, Params(), stream=c.c_void_p(1)),
        lambda: d.call("cuStreamSynchronize", None),
        lambda: d.call("cuEventRecord", event, None),
        lambda: d.call("cuStreamWaitEvent", None, event, 0),
    ]
    for mode in (GLOBAL, THREAD_LOCAL, RELAXED):
        for i, call in enumerate(calls):
            stream = begin(d, mode, flags=0)
            assert call() == CAPTURE_IMPLICIT, (mode, i)
            end_fails(d, stream, CAPTURE_INVALIDATED)
    d.fails(CAPTURE_UNSUPPORTED, "cuStreamBeginCapture_v2", c.c_void_p(1), GLOBAL)
    # the per-thread one captures like any other
    own = c.c_void_p(2)
    d.ok("cuStreamBeginCapture_v2", own, GLOBAL)
    d.launch(bump, Params(), stream=own)
    assert kinds(d, end(d, own)) == [KERNEL]
    # a wait for a captured event would draw the legacy stream in
    stream = begin(d, RELAXED)
    d.ok("cuEventRecord", event, stream)
    d.fails(CAPTURE_IMPLICIT, "cuStreamWaitEvent", None, event, 0)
    end_fails(d, stream, CAPTURE_INVALIDATED)


@case
def streams_join_and_leave(d: Driver) -> None:
    bump = d.function(d.module(), "bump")
    fork, join = d.event(), d.event()
    one, two, three = begin(d), d.stream(0), d.stream()
    d.launch(bump, Params(), stream=one)
    d.ok("cuEventRecord", fork, one)
    for other in (two, three):
        d.ok("cuStreamWaitEvent", other, fork, 0)
        d.launch(bump, Params(), stream=other)
    assert [status(d, s) for s in (one, two, three)] == [ACTIVE] * 3
    d.fails(ILLEGAL_STATE, "cuStreamBeginCapture_v2", two, GLOBAL)
    # the second comes back by way of the third
    d.ok("cuEventRecord", join, two)
    d.ok("cuStreamWaitEvent", three, join, 0)
    d.ok("cuEventRecord", join, three)
    d.ok("cuStreamWaitEvent", one, join, 0)
    graph = end(d, one)
    assert kinds(d, graph) == [KERNEL] * 3
    assert edge_count(d, graph) == 2
    assert [status(d, s) for s in (one, two, three)] == [0] * 3
    # its events stand for nothing now
    d.fails(CAPTURED_EVENT, "cuStreamWaitEvent", one, join, 0)
    stream = begin(d)
    d.fails(CAPTURE_ISOLATION, "cuStreamWaitEvent", stream, join, 0)
    end_fails(d, stream, CAPTURE_INVALIDATED)
    # two captures cannot become one, and one that is ended elsewhere is spoilt
    one, two = begin(d), begin(d)
    d.ok("cuEventRecord", fork, one)
    d.fails(CAPTURE_MERGE, "cuStreamWaitEvent", two, fork, 0)
    assert (status(d, one), status(d, two)) == (INVALIDATED, INVALIDATED)
    end_fails(d, one, CAPTURE_INVALIDATED)
    end_fails(d, two, CAPTURE_INVALIDATED)
    one = begin(d)
    d.ok("cuEventRecord", fork, one)
    d.ok("cuStreamWaitEvent", three, fork, 0)
    end_fails(d, three, CAPTURE_UNMATCHED)
    end_fails(d, one, CAPTURE_INVALIDATED)
    # relaxed ones may end in any thread, others not, and live on
    one = begin(d, THREAD_LOCAL)
    out = c.c_void_p()

    def finish() -> int:
        return d.call("cuStreamEndCapture", one, c.byref(out))

    assert in_thread(d, finish) == WRONG_THREAD
    assert status(d, one) == ACTIVE
    end(d, one)
    one = begin(d, RELAXED)
    assert in_thread(d, finish) == 0


@case
def external_events_are_nodes(d: Driver) -> None:
    nap = d.function(d.module(), "nap")
    inside, outside, stream = d.event(), d.event(), d.stream()
    d.fails(INVALID_VALUE, "cuEventRecordWithFlags", inside, stream, 1)
    d.fails(INVALID_VALUE, "cuStreamWaitEvent", stream, outside, 1)
    d.fails(INVALID_VALUE, "cuEventRecordWithFlags", inside, stream, 2)
    d.ok("cuStreamBeginCapture_v2", stream, GLOBAL)
    d.ok("cuStreamWaitEvent", stream, outside, 1)
    d.launch(nap, Params(c.c_uint32(10)), stream=stream)
    d.ok("cuEventRecordWithFlags", inside, stream, 1)
    d.launch(nap, Params(c.c_uint32(20)), stream=stream)
    graph = end(d, stream)
    assert kinds(d, graph) == [WAIT_EVENT, KERNEL, EVENT_RECORD, KERNEL]
    nodes, count, told = (c.c_void_p * 4)(), c.c_size_t(4), c.c_void_p()
    d.ok("cuGraphGetNodes", graph, nodes, c.byref(count))
    d.ok("cuGraphEventWaitNodeGetEvent", c.c_void_p(nodes[0]), c.byref(told))
    assert told.value == outside.value
    d.ok("cuGraphEventRecordNodeGetEvent", c.c_void_p(nodes[2]), c.byref(told))
    assert told.value == inside.value
    d.ok("cuEventQuery", inside)  # not captured itself
    other, start, done = d.stream(), d.event(), d.event()
    d.ok("cuEventRecord", start, other)
    d.launch(nap, Params(c.c_uint32(15)), stream=other)
    d.ok("cuEventRecord", outside, other)
    d.ok("cuGraphLaunch", instantiate(d, graph), stream)
    d.ok("cuEventRecord", done, stream)
    total = d.elapsed_ms(start, done)
    assert d.elapsed_ms(start, inside) >= 25
    assert total >= 45


@case
def captures_go_into_given_graphs(d: Driver) -> None:
    bump = d.function(d.module(), "bump")
    graph, stream = d.handle("cuGraphCreate", 0), d.stream()
    zero = c.c_size_t(0)
    first = d.handle("cuGraphAddEmptyNode", graph, None, zero)
    into = "cuStreamBeginCaptureToGraph"
    deps = (c.c_void_p * 1)(first.value)
    one = c.c_size_t(1)
    d.fails(INVALID_VALUE, into, stream, None, None, None, zero, GLOBAL)
    d.fails(INVALID_VALUE, into, stream, graph, None, None, one, GLOBAL)
    d.fails(NOT_SUPPORTED, into, stream, graph, deps, b"\1\0\1\0\0\0\0\0", one, GLOBAL)
    stranger = d.handle("cuGraphAddEmptyNode", d.handle("cuGraphCreate", 0), None, zero)
    bad = (c.c_void_p * 1)(stranger.value)
    d.fails(INVALID_VALUE, into, stream, graph, bad, None, one, GLOBAL)
    d.ok(into, stream, graph, deps, b"\0" * 8, one, GLOBAL)
    # one capture at a time into a graph, and nobody destroys or instantiates it meanwhile
    d.fails(INVALID_VALUE, into, d.stream(), graph, None, None, zero, GLOBAL)
    d.fails(INVALID_VALUE, "cuGraphDestroy", graph)
    out = c.c_void_p()
    d.fails(INVALID_VALUE, "cuGraphInstantiateWithFlags", c.byref(out), graph, c.c_uint64(0))
    told, known, edges = c.c_int(), c.POINTER(c.c_void_p)(), c.POINTER(c.c_uint64)()
    count = c.c_size_t()
    info = (c.byref(told), None, None, c.byref(known), c.byref(edges), c.byref(count))
    d.ok("cuStreamGetCaptureInfo_v3", stream, *info)
    assert (told.value, count.value, known[0], edges[0]) == (1, 1, first.value, 0)
    d.launch(bump, Params(), stream=stream)
    # and dependencies can be cut off
    update = "cuStreamUpdateCaptureDependencies_v2"
    d.fails(NOT_SUPPORTED, update, stream, deps, b"\1\0\1\0\0\0\0\0", one, 0)
    d.fails(INVALID_VALUE, update, stream, bad, None, one, 0)
    d.fails(INVALID_VALUE, update, stream, deps, None, one, 2)
    d.ok(update, stream, deps, b"\0" * 8, one, 0)
    d.launch(bump, Params(), stream=stream)
    assert end(d, stream).value == graph.value
    assert edge_count(d, graph) == 3
    d.fails(ILLEGAL_STATE, update, stream, deps, None, one, 0)
    # a spoilt capture into a graph leaves the graph to its owner
    d.ok(into, stream, graph, None, None, zero, GLOBAL)
    d.launch(bump, Params(), stream=stream)
    d.fails(CAPTURE_UNSUPPORTED, "cuStreamQuery", stream)
    end_fails(d, stream, CAPTURE_INVALIDATED)
    d.ok("cuGraphDestroy", graph)


@case
def a_capture_ends_with_its_context(d: Driver) -> None:
    for mode in (GLOBAL, RELAXED):
        two = d.handle("cuCtxCreate_v2", 0, d.device)
        stream, other, event = begin(d, mode), d.stream(), d.event()
        d.launch(d.function(d.module(), "bump"), Params(), stream=stream)
        d.ok("cuEventRecord", event, stream)
        d.ok("cuStreamWaitEvent", other, event, 0)
        d.ok("cuCtxDestroy_v2", two)
        d.fails(400, "cuStreamEndCapture", stream, c.byref(c.c_void_p()))
        d.sync()
        d.alloc(16)  # nothing is held against this thread any more

    def abandons() -> int:
        d.ok("cuStreamBeginCapture_v2", c.c_void_p(2), GLOBAL)
        return 0

    in_thread(d, abandons)  # the stream goes with its thread, and the capture with it
    out, size = c.c_uint64(), c.c_size_t(16)
    for _ in range(200):  # Python's join does not wait for all of the thread's end
        if d.call("cuMemAlloc_v2", c.byref(out), size) == 0:
            break
        time.sleep(0.01)
    d.alloc(16)
    d.sync()


if __name__ == "__main__":
    main()
