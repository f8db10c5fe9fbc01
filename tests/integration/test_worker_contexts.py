# SPDX-License-Identifier: Apache-2.0
"""A context is not ended under a call that has it current: a driver frees what the call goes on in.

The software GPU does, too: ASan sees it in worker_frames_fuzz, now and then. Here it is seen by who
waits for whom.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ring_client import WANTED, Client, Worker
from shim_world import MIB, World, soft_world
from worker_world import INVALID_CONTEXT, INVALID_HANDLE, SUCCESS, stream, zero

CONTEXT_IS_DESTROYED = 709


@pytest.fixture(scope="module")
def world(native_dir: Path) -> Iterator[World]:
    with soft_world(native_dir) as made:
        made.tenant("remote", mem=512 * MIB)
        yield made


@pytest.fixture(params=[(), ("--no-wipe",)], ids=["wiping", "not wiping"])
def worker(world: World, request: pytest.FixtureRequest) -> Iterator[Worker]:
    env = world.env("remote")
    del env["LD_PRELOAD"]
    driver = world.native / "soft" / "libcuda.so.1"  # libharp's own waits would hide others
    with Worker(world.native, driver, env, options=request.param) as made:
        yield made


@pytest.fixture
def client(worker: Worker) -> Client:
    made = worker.dial()
    made.context()
    for lane in (2, 3):
        made.send("cuCtxSetCurrent", ctx=made.current, lane=lane)
    return made


def taken(c: Client, name: str, **handle: int) -> bool:
    """Whether an id stands for nothing any more, as a call that ends what it was has begun."""
    return c.ask(name, lane=4, **handle)[0] in {INVALID_HANDLE, INVALID_CONTEXT}


def test_nothing_begins_in_a_context_that_is_ended(client: Client) -> None:
    context, on, allocated = client.new(), client.new(), []
    client.must("cuCtxCreate_v2", pctx=context, flags=0, dev=0, lane=2)
    client.must("cuStreamCreate", phStream=on, Flags=0, lane=2)
    client.send("cuCtxSetCurrent", ctx=context, lane=3)

    def function(_: dict[str, int]) -> None:
        """The end of the context waits for it."""
        ended.append(client.send("cuCtxDestroy_v2", lane=2, how=WANTED, ctx=context))
        while not taken(client, "cuCtxGetApiVersion", ctx=context, version=1):
            time.sleep(0.01)
        time.sleep(0.2)  # nobody can see that it has looked who else is there
        allocated.append(client.send("cuMemAlloc_v2", lane=3, how=WANTED, dptr=1, bytesize=64))
        time.sleep(0.2)

    ended: list[int] = []
    client.functions[77] = function
    client.send("cuLaunchHostFunc", hStream=on, fn=77, userData=None, lane=2)
    client.ask("cuDriverGetVersion", driverVersion=1)
    end = time.monotonic() + 30
    while not allocated and time.monotonic() < end:
        client.pump()
    assert client.reply(ended[0], "cuCtxDestroy_v2", {})[0] == SUCCESS
    result, _ = client.reply(allocated[0], "cuMemAlloc_v2", {"dptr": 1, "bytesize": 64})
    assert result == CONTEXT_IS_DESTROYED


@pytest.mark.slow
def test_a_session_ends_while_calls_wait_for_each_other(worker: Worker, client: Client) -> None:
    on = stream(client)
    wait = {"stream": on, "addr": zero(client), "value": 1, "flags": 0}
    client.send("cuStreamWaitValue32_v2", **wait)
    client.send("cuStreamSynchronize", how=WANTED, hStream=on)
    time.sleep(0.2)  # until it has begun, which nobody can know
    client.send("cuStreamDestroy_v2", lane=2, how=WANTED, hStream=on)
    while not taken(client, "cuStreamGetId", hStream=on, streamId=1):
        time.sleep(0.01)
    client.close()
    assert worker.process.wait(30) == 0
