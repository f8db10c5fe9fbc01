# SPDX-License-Identifier: Apache-2.0
"""Threads of a program, and functions of its that a stream calls, by what SESSION.md says."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from ring_client import (
    WANTED,
    Client,
    WorkerGoneError,
)
from shim_world import World
from worker_world import (
    INVALID_VALUE,
    PTX,
    SUCCESS,
    alloc,
    fill,
    number,
    session,
    start,
    stream,
    sync,
    tenants,
    zero,
)


@pytest.fixture(scope="module")
def world(native_dir: Path) -> Iterator[World]:
    with tenants(native_dir) as made:
        yield made


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    with session(world) as made:
        yield made


# --- threads, and functions of the client's -------------------------------------------------------


def test_lanes_keep_the_programs_order(client: Client) -> None:
    """What is sent without waiting, by whatever thread, is made in the order of sending."""
    at, on = alloc(client), stream(client)
    for lane in (2, 3):
        client.send("cuCtxSetCurrent", ctx=client.current, lane=lane)
    for i in range(600):
        made = client.new()
        client.send("cuEventCreate", phEvent=made, Flags=2, lane=1 + i % 3)
        fill(client, at, i, on, lane=1 + (i + 1) % 3)
        client.send("cuEventRecord", hEvent=made, hStream=on, lane=1 + (i + 2) % 3)
        if i % 100 == 99:
            assert client.ask("cuEventSynchronize", hEvent=made, lane=1 + i % 3)[0] == SUCCESS
            assert number(client, at) == i


def test_a_thread_that_waits_keeps_no_other_from_calling(client: Client) -> None:
    flag, on, other = zero(client), stream(client), stream(client)
    client.send("cuCtxSetCurrent", ctx=client.current, lane=2)
    for turn in range(1, 21):
        client.send("cuStreamWaitValue32_v2", stream=on, addr=flag, value=turn, flags=0)  # >=
        asked = client.send("cuStreamSynchronize", how=WANTED, hStream=on)
        assert client.ask("cuStreamQuery", hStream=on, lane=2)[0] == 600, turn  # NOT_READY
        fill(client, flag, turn, other, lane=2)
        assert client.reply(asked, "cuStreamSynchronize", {})[0] == SUCCESS


@pytest.mark.slow
def test_calls_that_wait_for_a_busy_lane_are_bounded(world: World) -> None:
    """12 MiB are answered once it goes on; more than 16 MiB end the session with a sentence."""
    size = 60 << 10
    with start(world) as worker:
        c = worker.dial()
        c.context()
        flag, at, on, other = zero(c), alloc(c, size), stream(c), stream(c)
        c.send("cuCtxSetCurrent", ctx=c.current, lane=2)
        copy = {"dstDevice": at, "srcHost": bytes(size), "ByteCount": size, "hStream": other}
        name = "cuMemcpyHtoDAsync_v2"

        def ask(count: int, turn: int) -> int:
            c.send("cuStreamWaitValue32_v2", stream=on, addr=flag, value=turn, flags=0)  # >=
            c.send("cuStreamSynchronize", how=WANTED, hStream=on, lane=2)
            asked = [c.send(name, how=WANTED, lane=2, **copy) for _ in range(count)]
            fill(c, flag, turn, other)
            return c.reply(asked[-1], name, {})[0]

        assert ask(205, 1) == SUCCESS
        with pytest.raises(WorkerGoneError):
            ask(300, 2)
        assert worker.ended() == 2
        assert "more than 16 MiB of calls wait" in worker.words()


@pytest.mark.slow
def test_a_host_function_holds_its_stream_up(client: Client) -> None:
    at, on, ran = alloc(client), stream(client), []
    twice = client.function(PTX, "twice")

    def function(asked: dict[str, int]) -> None:
        ran.append((asked["ticket"], asked["status"]))

    client.functions[77] = client.functions[78] = function
    client.send("cuCtxSetCurrent", ctx=client.current, lane=2)
    fill(client, at, 1, on)
    client.send("cuLaunchHostFunc", hStream=on, fn=77, userData=None)
    # More than a stream has room for: the worker's thread blocks in a launch, and the answer comes
    # after the calls that are behind it.
    for _ in range(5000):
        client.launch(twice, struct.pack("<Q", at), blocks=1, threads=1, stream=on)
    fill(client, at, 9, on, lane=2)
    client.send("cuStreamAddCallback", hStream=on, callback=78, userData=None, flags=0)
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    assert ran == [(77, SUCCESS), (78, SUCCESS)]
    assert number(client, at) == 9


@pytest.mark.slow
def test_a_host_functions_answer_is_read_behind_many_calls(client: Client) -> None:
    """The worker's thread blocks in a launch, and more calls are behind it than are held back."""
    size = 60 << 10
    at, to, on, ran = alloc(client), alloc(client, size), stream(client), []
    twice = client.function(PTX, "twice")
    copy = {"dstDevice": to, "srcHost": bytes(size), "ByteCount": size, "hStream": on}

    def function(asked: dict[str, int]) -> None:
        for _ in range(290):  # 17 MiB; another thread of a program does that
            client.send("cuMemcpyHtoDAsync_v2", lane=2, **copy)
        ran.append(asked["ticket"])

    client.functions[77] = function
    client.send("cuCtxSetCurrent", ctx=client.current, lane=2)
    client.send("cuLaunchHostFunc", hStream=on, fn=77, userData=None)
    for _ in range(5000):  # more than a stream has room for
        client.launch(twice, struct.pack("<Q", at), blocks=1, threads=1, stream=on)
    fill(client, at, 9, on, lane=2)
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    assert ran == [77]
    assert number(client, at) == 9


def test_a_captured_host_function_is_run_by_each_launch(client: Client) -> None:
    on, graph, executable, ran = stream(client), client.new(), client.new(), []
    client.functions[6] = lambda asked: ran.append(asked["ticket"])
    client.must("cuStreamBeginCapture_v2", hStream=on, mode=2)
    client.send("cuLaunchHostFunc", hStream=on, fn=6, userData=None)
    client.must("cuStreamEndCapture", hStream=on, phGraph=graph)
    client.must("cuGraphInstantiateWithFlags", phGraphExec=executable, hGraph=graph, flags=0)
    for _ in range(5):
        client.send("cuGraphLaunch", hGraph=executable, hStream=on)
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    assert ran == [6] * 5
    client.send("cuGraphDestroy", hGraph=graph)  # what it was made into goes on
    for _ in range(2):
        client.send("cuGraphLaunch", hGraph=executable, hStream=on)
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    assert ran == [6] * 7


def test_a_host_function_goes_with_what_was_updated_by_its_graph(client: Client) -> None:
    on, executable, ran = stream(client), client.new(), []
    client.functions[5] = client.functions[6] = lambda asked: ran.append(asked["ticket"])

    def captured(ticket: int) -> int:
        graph = client.new()
        client.must("cuStreamBeginCapture_v2", hStream=on, mode=2)
        client.send("cuLaunchHostFunc", hStream=on, fn=ticket, userData=None)
        client.must("cuStreamEndCapture", hStream=on, phGraph=graph)
        return graph

    first, second = captured(5), captured(6)
    client.must("cuGraphInstantiateWithFlags", phGraphExec=executable, hGraph=first, flags=0)
    client.must("cuGraphExecUpdate_v2", hGraphExec=executable, hGraph=second, resultInfo=1)
    for graph in (first, second):
        client.send("cuGraphDestroy", hGraph=graph)
    for _ in range(2):
        client.send("cuGraphLaunch", hGraph=executable, hStream=on)
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    assert ran == [6] * 2


#: more host functions than a worker has tickets at a time
MANY = 66000


def test_a_host_function_that_is_refused_costs_nothing(client: Client) -> None:
    on, ran = stream(client), []
    client.functions[7] = lambda asked: ran.append(asked["ticket"])
    for _ in range(MANY):
        client.send("cuStreamAddCallback", hStream=on, callback=7, userData=None, flags=1)
    assert sync(client) == INVALID_VALUE
    client.send("cuStreamAddCallback", hStream=on, callback=7, userData=None, flags=0)
    assert sync(client) == SUCCESS
    assert ran == [7]


def host_node(c: Client, graph: int, ticket: int) -> int:
    node = c.new()
    none = {"dependencies": None, "numDependencies": 0}
    params = {"fn": ticket, "userData": None}
    c.send("cuGraphAddHostNode", phGraphNode=node, hGraph=graph, nodeParams=params, **none)
    return node


def test_host_functions_go_with_their_graph(client: Client) -> None:
    for _ in range(MANY // 1000):
        graph = client.new()
        client.send("cuGraphCreate", phGraph=graph, flags=0)
        for _ in range(1000):
            host_node(client, graph, 8)
        client.send("cuGraphDestroy", hGraph=graph)
        assert sync(client) == SUCCESS


def test_a_nodes_host_function_may_be_replaced_again_and_again(client: Client) -> None:
    on, graph, executable, ran = stream(client), 0, client.new(), []
    client.functions[8] = client.functions[9] = lambda asked: ran.append(asked["ticket"])
    for i in range(MANY - 6000):  # these are there to stay
        if i % 1000 == 0:
            graph = client.new()
            client.send("cuGraphCreate", phGraph=graph, flags=0)
        node = host_node(client, graph, 8)
    graph = client.new()
    client.send("cuGraphCreate", phGraph=graph, flags=0)
    node = host_node(client, graph, 8)
    client.must("cuGraphInstantiateWithFlags", phGraphExec=executable, hGraph=graph, flags=0)
    for i in range(6501):
        params = {"fn": 8 + i % 2, "userData": None}
        client.send(
            "cuGraphExecHostNodeSetParams", hGraphExec=executable, hNode=node, nodeParams=params
        )
        if i % 3000 == 9:
            client.send("cuGraphLaunch", hGraph=executable, hStream=on)
            assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    client.send("cuGraphLaunch", hGraph=executable, hStream=on)
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    assert ran == [9, 9, 9, 8]


def test_a_host_function_is_run_while_its_thread_waits(client: Client) -> None:
    on, ran = stream(client), []
    client.functions[5] = lambda asked: ran.append(asked["ticket"])
    for turn in range(30):
        client.send("cuLaunchHostFunc", hStream=on, fn=5, userData=None)
        assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
        assert len(ran) == turn + 1
