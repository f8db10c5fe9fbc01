# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN001, ANN202
"""cuda-python: streams, events, functions of the host, graphs."""

from __future__ import annotations

import ctypes

import numpy as np
from bindings_machine import OK, U32, U64, Machine, do, fails, launch
from cuda.bindings import driver as cu


def case_streams() -> None:
    machine = Machine()
    sleep, chain = machine.kernel("sleep"), machine.kernel("chain")
    one = do(cu.cuStreamCreate(cu.CUstream_flags.CU_STREAM_NON_BLOCKING))
    two = do(cu.cuStreamCreateWithPriority(cu.CUstream_flags.CU_STREAM_NON_BLOCKING, 0))
    cell = machine.array(np.ones(1, np.uint32))
    with machine.watch() as watch:
        launch(sleep, (1,), (1,), (300,), (U32,), stream=one)  # 30 ms
        assert cu.cuStreamQuery(one)[0] == cu.CUresult.CUDA_ERROR_NOT_READY
        assert cu.cuStreamQuery(two)[0] == OK
        launch(chain, (1,), (1,), (cell, 2, 3), (U64, U32, U32), stream=one)  # 5
        event = do(cu.cuEventCreate(0))
        do(cu.cuEventRecord(event, one))
        assert cu.cuEventQuery(event)[0] == cu.CUresult.CUDA_ERROR_NOT_READY
        do(cu.cuStreamWaitEvent(two, event, 0))
        launch(chain, (1,), (1,), (cell, 10, 1), (U64, U32, U32), stream=two)  # 51
        do(cu.cuStreamSynchronize(two))
        assert cu.cuEventQuery(event)[0] == OK
        assert cu.cuStreamQuery(one)[0] == OK
        watch.launched("sleep", 1, 1)
        watch.launched("chain", 1, 1, times=2)
    assert machine.read(cell, np.zeros(1, np.uint32))[0] == 51

    # An asynchronous copy waits for its stream; pinned memory must be intact until then.
    host = int(do(cu.cuMemHostAlloc(4, 0)))
    value = ctypes.c_uint32.from_address(host)
    value.value = 1000
    launch(sleep, (1,), (1,), (200,), (U32,), stream=one)
    do(cu.cuMemcpyHtoDAsync(cell, host, 4, one))
    value_seen_before = machine.read(cell, np.zeros(1, np.uint32))[0]
    assert value_seen_before == 51  # `one` is non-blocking: the legacy stream does not wait
    launch(chain, (1,), (1,), (cell, 1, 1), (U64, U32, U32), stream=one)
    do(cu.cuStreamSynchronize(one))
    assert machine.read(cell, np.zeros(1, np.uint32))[0] == 1001

    # The legacy stream waits for blocking streams, and they for it.
    three = do(cu.cuStreamCreate(0))
    launch(sleep, (1,), (1,), (200,), (U32,), stream=three)
    launch(chain, (1,), (1,), (cell, 0, 4), (U64, U32, U32), stream=three)
    launch(chain, (1,), (1,), (cell, 2, 0), (U64, U32, U32))
    launch(chain, (1,), (1,), (cell, 3, 1), (U64, U32, U32), stream=three)
    do(cu.cuStreamSynchronize(three))
    assert machine.read(cell, np.zeros(1, np.uint32))[0] == 25
    for stream in (one, two, three):
        do(cu.cuStreamDestroy(stream))


def case_events() -> None:
    machine = Machine()
    sleep = machine.kernel("sleep")
    launch(sleep, (1,), (1,), (1,), (U32,))  # compiled now, not between the events
    start, stop = do(cu.cuEventCreate(0)), do(cu.cuEventCreate(0))
    untimed = do(cu.cuEventCreate(cu.CUevent_flags.CU_EVENT_DISABLE_TIMING))
    fails(cu.cuEventElapsedTime(start, stop), "INVALID_HANDLE")  # never recorded
    do(cu.cuEventRecord(start, 0))
    launch(sleep, (1,), (1,), (250,), (U32,))  # 25 ms of device time
    do(cu.cuEventRecord(stop, 0))
    do(cu.cuEventRecord(untimed, 0))
    fails(cu.cuEventElapsedTime(start, stop), "NOT_READY")
    do(cu.cuEventSynchronize(stop))
    elapsed_ms = do(cu.cuEventElapsedTime(start, stop))
    assert 25 <= elapsed_ms < 200, elapsed_ms
    do(cu.cuEventSynchronize(untimed))
    fails(cu.cuEventElapsedTime(start, untimed), "INVALID_HANDLE")
    for event in (start, stop, untimed):
        do(cu.cuEventDestroy(event))


def case_host_function() -> None:
    machine = Machine()
    sleep = machine.kernel("sleep")
    seen = []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def note(data):
        seen.append(data)

    address = ctypes.cast(note, ctypes.c_void_p).value
    stream = do(cu.cuStreamCreate(1))
    launch(sleep, (1,), (1,), (200,), (U32,), stream=stream)
    do(cu.cuLaunchHostFunc(stream, cu.CUhostFn(address), 77))
    do(cu.cuLaunchHostFunc(stream, cu.CUhostFn(address), 78))
    assert seen == []
    do(cu.cuStreamSynchronize(stream))
    assert seen == [77, 78]


def _kernel_params(kernel, packed) -> cu.CUDA_KERNEL_NODE_PARAMS:
    params = cu.CUDA_KERNEL_NODE_PARAMS()
    params.func = kernel
    params.gridDimX = params.gridDimY = params.gridDimZ = 1
    params.blockDimX = params.blockDimY = params.blockDimZ = 1
    params.kernelParams = packed
    return params


def case_graph_explicit() -> None:
    machine = Machine()
    cell = machine.array(np.ones(1, np.uint32))
    other = machine.array(np.zeros(1, np.uint32))
    chain = machine.kernel("chain")
    types = (U64, U32, U32)
    graph = do(cu.cuGraphCreate(0))
    times3 = _kernel_params(chain, ((cell, 3, 0), types))
    first = do(cu.cuGraphAddKernelNode(graph, [], 0, times3))
    plus5 = _kernel_params(chain, ((cell, 1, 5), types))
    second = do(cu.cuGraphAddKernelNode(graph, [first], 1, plus5))
    copy = cu.CUDA_MEMCPY3D()
    copy.srcMemoryType = copy.dstMemoryType = cu.CUmemorytype.CU_MEMORYTYPE_DEVICE
    copy.srcDevice, copy.dstDevice = cell, other
    copy.WidthInBytes, copy.Height, copy.Depth = 4, 1, 1
    third = do(cu.cuGraphAddMemcpyNode(graph, [second], 1, copy, machine.context))
    memset = cu.CUDA_MEMSET_NODE_PARAMS()
    memset.dst, memset.value, memset.elementSize = cell, 100, 4
    memset.width, memset.height = 1, 1
    fourth = do(cu.cuGraphAddMemsetNode(graph, [third], 1, memset, machine.context))
    do(cu.cuGraphAddEmptyNode(graph, [fourth], 1))
    _, count = do(cu.cuGraphGetNodes(graph, 10))
    assert count == 5
    ready = do(cu.cuGraphInstantiate(graph, 0))
    with machine.watch() as watch:
        do(cu.cuGraphLaunch(ready, 0))
        watch.launched("chain", 1, 1, times=2)
    assert machine.read(other, np.zeros(1, np.uint32))[0] == 8
    assert machine.read(cell, np.zeros(1, np.uint32))[0] == 100

    stream = do(cu.cuStreamCreate(1))
    with machine.watch() as watch:
        for _ in range(5):
            do(cu.cuGraphLaunch(ready, stream))
        watch.launched("chain", 1, 1, times=10)
    assert machine.read(other, np.zeros(1, np.uint32))[0] == 305

    plus7 = _kernel_params(chain, ((cell, 1, 7), types))
    do(cu.cuGraphExecKernelNodeSetParams(ready, second, plus7))
    with machine.watch() as watch:
        do(cu.cuGraphLaunch(ready, stream))
        watch.launched("chain", 1, 1, times=2)
    assert machine.read(other, np.zeros(1, np.uint32))[0] == 307
    do(cu.cuGraphExecDestroy(ready))
    do(cu.cuGraphDestroy(graph))


def case_graph_captured() -> None:
    machine = Machine()
    cell = machine.array(np.ones(1, np.uint32))
    side = machine.array(np.ones(1, np.uint32))
    out = np.zeros(2, np.uint32)
    chain = machine.kernel("chain")
    types = (U64, U32, U32)
    stream, fork = do(cu.cuStreamCreate(1)), do(cu.cuStreamCreate(1))
    forked, joined = do(cu.cuEventCreate(2)), do(cu.cuEventCreate(2))
    mode = cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL
    with machine.watch() as watch:
        do(cu.cuStreamBeginCapture(stream, mode))
        launch(chain, (1,), (1,), (cell, 2, 1), types, stream=stream)
        do(cu.cuEventRecord(forked, stream))
        do(cu.cuStreamWaitEvent(fork, forked, 0))
        launch(chain, (1,), (1,), (side, 10, 0), types, stream=fork)
        do(cu.cuEventRecord(joined, fork))
        launch(chain, (1,), (1,), (cell, 1, 1), types, stream=stream)
        do(cu.cuStreamWaitEvent(stream, joined, 0))
        do(cu.cuMemcpyDtoDAsync(cu.CUdeviceptr(int(cell)), side, 4, stream))
        capturing = cu.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE
        assert do(cu.cuStreamIsCapturing(stream)) == capturing
        graph = do(cu.cuStreamEndCapture(stream))
    # Nothing ran while it was captured.
    assert machine.read(cell, out[:1])[0] == 1
    _, count = do(cu.cuGraphGetNodes(graph, 10))
    assert count == 4
    ready = do(cu.cuGraphInstantiate(graph, 0))
    with machine.watch() as watch:
        for _ in range(3):
            do(cu.cuGraphLaunch(ready, stream))
        watch.launched("chain", 1, 1, times=9)
    assert machine.read(side, out[:1])[0] == 1000
    assert machine.read(cell, out[:1])[0] == 1000
    do(cu.cuGraphExecDestroy(ready))
    do(cu.cuGraphDestroy(graph))
    # What may not be done while capturing spoils the capture.
    do(cu.cuStreamBeginCapture(stream, mode))
    fails(cu.cuStreamSynchronize(stream), "STREAM_CAPTURE_UNSUPPORTED")
    fails(cu.cuStreamEndCapture(stream), "STREAM_CAPTURE_INVALIDATED")
