# SPDX-License-Identifier: Apache-2.0
"""Cases of stream capture: what becomes a node, what joins, what is refused."""

from __future__ import annotations

import ctypes as c
import threading

from soft_mod_driver import (
    CAPTURE_IMPLICIT,
    CAPTURE_INVALIDATED,
    CAPTURE_ISOLATION,
    CAPTURE_MERGE,
    CAPTURE_UNJOINED,
    CAPTURE_UNMATCHED,
    CAPTURE_UNSUPPORTED,
    CAPTURED_EVENT,
    ILLEGAL_STATE,
    WRONG_THREAD,
    Driver,
    Params,
    case,
    main,
    np,
)

GLOBAL, THREAD_LOCAL, RELAXED = range(3)
KERNEL, MEMCPY, MEMSET, HOST, CHILD = range(5)
HOST_FUNCTION = c.CFUNCTYPE(None, c.c_void_p)


def begin(d: Driver, mode: int = GLOBAL, flags: int = 1) -> c.c_void_p:
    stream = d.stream(flags)
    d.ok("cuStreamBeginCapture_v2", stream, mode)
    return stream


def end(d: Driver, stream: c.c_void_p) -> c.c_void_p:
    graph = c.c_void_p()
    d.ok("cuStreamEndCapture", stream, c.byref(graph))
    return graph


def end_fails(d: Driver, stream: c.c_void_p, expected: int) -> None:
    graph = c.c_void_p(1)
    d.fails(expected, "cuStreamEndCapture", stream, c.byref(graph))


def kinds(d: Driver, graph: c.c_void_p) -> list[int]:
    count = c.c_size_t(32)
    nodes = (c.c_void_p * 32)()
    d.ok("cuGraphGetNodes", graph, nodes, c.byref(count))
    told = []
    for node in list(nodes)[: count.value]:
        kind = c.c_int()
        d.ok("cuGraphNodeGetType", c.c_void_p(node), c.byref(kind))
        told.append(kind.value)
    return told


def edge_count(d: Driver, graph: c.c_void_p) -> int:
    count = c.c_size_t()
    d.ok("cuGraphGetEdges", graph, None, None, c.byref(count))
    return count.value


def instantiate(d: Driver, graph: c.c_void_p) -> c.c_void_p:
    return d.handle("cuGraphInstantiateWithFlags", graph, c.c_uint64(0))


def status(d: Driver, stream: c.c_void_p) -> int:
    told = c.c_int()
    d.ok("cuStreamIsCapturing", stream, c.byref(told))
    return told.value


@case
def captured_work_runs_at_the_launch_only(d: Driver) -> None:
    n = 8
    a, b = d.up(np.zeros(n, "f4")), d.alloc(4 * n)
    add1 = d.function(d.module(), "add1")
    count = []
    call = HOST_FUNCTION(lambda _: count.append(1))
    stream = begin(d)
    assert status(d, stream) == 1
    d.ok("cuMemsetD32Async", a, 0x40A00000, c.c_size_t(n), stream)  # 5.0
    d.launch(add1, Params(a, a, c.c_uint32(n)), block=(n, 1, 1), stream=stream)
    d.ok("cuMemcpyDtoDAsync_v2", b, a, c.c_size_t(4 * n), stream)
    d.ok("cuLaunchHostFunc", stream, call, None)
    graph = end(d, stream)
    assert status(d, stream) == 0
    assert kinds(d, graph) == [MEMSET, KERNEL, MEMCPY, HOST]
    assert edge_count(d, graph) == 3
    d.sync()
    assert not d.down(a, n).any()
    assert count == []
    executable = instantiate(d, graph)
    for _ in range(2):
        d.ok("cuGraphLaunch", executable, stream)
    d.sync()
    assert d.down(b, n).tolist() == [6] * n
    assert count == [1, 1]


@case
def events_fork_and_join_streams(d: Driver) -> None:
    module = d.module()
    bump = d.function(module, "bump")
    stream, other = begin(d), d.stream()
    fork, join = d.event(), d.event()
    d.launch(bump, Params(), stream=stream)
    d.ok("cuEventRecord", fork, stream)
    d.ok("cuStreamWaitEvent", other, fork, 0)
    assert status(d, other) == 1
    d.launch(bump, Params(), stream=other)
    d.launch(bump, Params(), stream=stream)
    d.ok("cuEventRecord", join, other)
    d.ok("cuStreamWaitEvent", stream, join, 0)
    d.launch(bump, Params(), stream=stream)
    end_fails(d, other, CAPTURE_UNMATCHED)
    end_fails(d, stream, CAPTURE_INVALIDATED)
    assert status(d, other) == 0
    # once more, ended where it began
    d.ok("cuStreamBeginCapture_v2", stream, GLOBAL)
    d.launch(bump, Params(), stream=stream)
    d.ok("cuEventRecord", fork, stream)
    d.ok("cuStreamWaitEvent", other, fork, 0)
    d.launch(bump, Params(), stream=other)
    d.launch(bump, Params(), stream=stream)
    d.ok("cuEventRecord", join, other)
    d.ok("cuStreamWaitEvent", stream, join, 0)
    d.launch(bump, Params(), stream=stream)
    graph = end(d, stream)
    assert kinds(d, graph) == [KERNEL] * 4
    assert edge_count(d, graph) == 4
    d.ok("cuGraphLaunch", instantiate(d, graph), None)
    d.sync()
    assert d.down(d.global_of(module, "counter")[0], 1, "u4")[0] == 11


@case
def unjoined_work_is_an_error(d: Driver) -> None:
    bump = d.function(d.module(), "bump")
    stream, other, fork = begin(d), d.stream(), d.event()
    d.ok("cuEventRecord", fork, stream)
    d.ok("cuStreamWaitEvent", other, fork, 0)
    d.launch(bump, Params(), stream=other)
    end_fails(d, stream, CAPTURE_UNJOINED)
    assert status(d, stream) == status(d, other) == 0
    d.launch(bump, Params(), stream=other)
    d.sync()
    assert d.counters()["bump"].launches == 1


@case
def waiting_on_a_capturing_stream_spoils_it(d: Driver) -> None:
    for call in ("cuStreamSynchronize", "cuStreamQuery"):
        stream = begin(d)
        d.fails(CAPTURE_UNSUPPORTED, call, stream)
        assert status(d, stream) == 2
        bump = d.function(d.module(), "bump") if call == "cuStreamQuery" else None
        if bump is not None:
            assert d.try_launch(bump, Params(), stream=stream) == CAPTURE_INVALIDATED
        end_fails(d, stream, CAPTURE_INVALIDATED)
        assert status(d, stream) == 0
    stream = begin(d)
    d.fails(CAPTURE_UNSUPPORTED, "cuCtxSynchronize")
    end_fails(d, stream, CAPTURE_INVALIDATED)


@case
def captured_events_are_not_for_waiting(d: Driver) -> None:
    stream, event = begin(d), d.event()
    d.ok("cuEventRecord", event, stream)
    d.fails(CAPTURED_EVENT, "cuEventQuery", event)
    end_fails(d, stream, CAPTURE_INVALIDATED)
    d.ok("cuEventRecord", event, stream)
    d.ok("cuEventSynchronize", event)


@case
def captures_do_not_mix(d: Driver) -> None:
    one, two, event = begin(d), begin(d), d.event()
    d.ok("cuEventRecord", event, one)
    d.fails(CAPTURE_MERGE, "cuStreamWaitEvent", two, event, 0)
    end_fails(d, one, CAPTURE_INVALIDATED)
    end_fails(d, two, CAPTURE_INVALIDATED)
    outside, plain = d.event(), d.stream()
    d.ok("cuEventRecord", outside, plain)
    stream = begin(d)
    d.fails(CAPTURE_ISOLATION, "cuStreamWaitEvent", stream, outside, 0)
    end_fails(d, stream, CAPTURE_INVALIDATED)


@case
def the_legacy_stream_may_not_meet_a_blocking_capture(d: Driver) -> None:
    bump = d.function(d.module(), "bump")
    d.fails(CAPTURE_UNSUPPORTED, "cuStreamBeginCapture_v2", None, GLOBAL)
    stream = begin(d, flags=0)
    told = c.c_int()
    d.fails(CAPTURE_IMPLICIT, "cuStreamIsCapturing", None, c.byref(told))
    assert status(d, stream) == 1  # asking spoils nothing
    assert d.try_launch(bump, Params()) == CAPTURE_IMPLICIT
    end_fails(d, stream, CAPTURE_INVALIDATED)
    stream = begin(d, flags=1)
    d.launch(bump, Params())  # a stream that does not block is not met
    end(d, stream)
    d.sync()


@case
def unsafe_calls_depend_on_the_mode(d: Driver) -> None:
    size, pointer = c.c_size_t(4096), c.c_uint64()

    def alloc() -> int:
        return d.call("cuMemAlloc_v2", c.byref(pointer), size)

    def elsewhere() -> int:
        told: list[int] = []

        def work() -> None:
            d.ok("cuCtxSetCurrent", d.ctx)
            told.append(alloc())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return told[0]

    stream = begin(d, GLOBAL)
    assert alloc() == CAPTURE_UNSUPPORTED
    end_fails(d, stream, CAPTURE_INVALIDATED)
    stream = begin(d, GLOBAL)
    assert elsewhere() == CAPTURE_UNSUPPORTED
    end_fails(d, stream, CAPTURE_INVALIDATED)
    stream = begin(d, THREAD_LOCAL)
    assert elsewhere() == 0
    assert alloc() == CAPTURE_UNSUPPORTED
    end_fails(d, stream, CAPTURE_INVALIDATED)
    stream = begin(d, RELAXED)
    assert alloc() == 0
    end(d, stream)
    mode = c.c_int(RELAXED)
    d.ok("cuThreadExchangeStreamCaptureMode", c.byref(mode))
    assert mode.value == GLOBAL
    stream = begin(d, GLOBAL)
    assert alloc() == 0
    end(d, stream)


@case
def a_capture_ends_in_its_thread(d: Driver) -> None:
    def in_thread(stream: c.c_void_p) -> int:
        told: list[int] = []

        def work() -> None:
            d.ok("cuCtxSetCurrent", d.ctx)
            told.append(d.call("cuStreamEndCapture", stream, c.byref(c.c_void_p())))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return told[0]

    stream = begin(d, GLOBAL)
    assert in_thread(stream) == WRONG_THREAD
    end(d, stream)
    assert in_thread(begin(d, RELAXED)) == 0


@case
def capture_state_is_told(d: Driver) -> None:
    bump = d.function(d.module(), "bump")
    stream = begin(d)
    d.fails(ILLEGAL_STATE, "cuStreamBeginCapture_v2", stream, GLOBAL)
    told, number, graph = c.c_int(), c.c_uint64(), c.c_void_p()
    deps, count = c.POINTER(c.c_void_p)(), c.c_size_t(9)

    def ask() -> list[int | None]:
        info = (c.byref(told), c.byref(number), c.byref(graph), c.byref(deps), c.byref(count))
        d.ok("cuStreamGetCaptureInfo_v2", stream, *info)
        return [deps[i] for i in range(count.value)]

    assert ask() == []
    assert told.value == 1
    d.launch(bump, Params(), stream=stream)
    first = ask()
    assert len(first) == 1
    number_before = number.value
    d.launch(bump, Params(), stream=stream)
    assert ask() != first
    # the next node shall follow the first one instead
    back = (c.c_void_p * 1)(*first)
    d.ok("cuStreamUpdateCaptureDependencies", stream, back, c.c_size_t(1), 1)
    assert ask() == first
    d.launch(bump, Params(), stream=stream)
    done = end(d, stream)
    assert done.value == graph.value
    assert edge_count(d, done) == 2
    d.fails(ILLEGAL_STATE, "cuStreamEndCapture", stream, c.byref(graph))
    d.ok("cuStreamBeginCapture_v2", stream, GLOBAL)
    ask()
    assert number.value != number_before
    end(d, stream)


@case
def graphs_are_captured_into_graphs(d: Driver) -> None:
    module = d.module()
    bump = d.function(module, "bump")
    stream = begin(d)
    d.launch(bump, Params(), stream=stream)
    executable = instantiate(d, end(d, stream))
    d.ok("cuStreamBeginCapture_v2", stream, GLOBAL)
    d.ok("cuGraphLaunch", executable, stream)
    d.launch(bump, Params(), stream=stream)
    outer = end(d, stream)
    assert kinds(d, outer) == [CHILD, KERNEL]
    d.ok("cuStreamBeginCaptureToGraph", stream, outer, None, None, c.c_size_t(0), RELAXED)
    d.launch(bump, Params(), stream=stream)
    assert end(d, stream).value == outer.value
    assert kinds(d, outer) == [CHILD, KERNEL, KERNEL]
    assert edge_count(d, outer) == 1
    d.ok("cuGraphLaunch", instantiate(d, outer), None)
    d.sync()
    assert d.down(d.global_of(module, "counter")[0], 1, "u4")[0] == 10


if __name__ == "__main__":
    main()
