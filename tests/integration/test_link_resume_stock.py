# SPDX-License-Identifier: Apache-2.0
"""A stock gRPC client goes on after a broken connection: who may, and from where."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from link_proxy import HALF, Cutting
from link_session import Far, alive, children, until
from ring_client import table_text
from stock_calls import TAKEN, call_frame, reply_of

from harp.api.v1 import session_pb2 as pb
from harp.api.v1 import session_pb2_grpc as rpc
from harp.wire import Transfer

KEY, OTHER = "0123456789abcdef" * 2, "f" * 32
MIB = 1 << 20
CALL = "cuCtxSynchronize"


class Connection:
    """One, with the one call on it."""

    def __init__(self, address: str, resume: str, token: str = "token-one") -> None:
        self.channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        self.frames: queue.Queue[pb.Frame | None] = queue.Queue()
        metadata = [
            ("authorization", f"Bearer {token}"),
            ("harp-session", "one"),
            ("harp-table", table_text()),
            ("harp-resume", resume),
        ]
        stub = rpc.GpuSessionStub(self.channel)
        self.call = stub.Session(iter(self.frames.get, None), metadata=metadata, timeout=60)

    def answer(self) -> str:
        """What is said of resuming; RpcError: it is refused."""
        told = dict(self.call.initial_metadata())
        if "harp-resume" not in told:
            next(self.call)  # raises
        return str(told["harp-resume"])

    def send(self, seq: int, name: str = CALL, **values: Any) -> None:
        self.frames.put(call_frame(seq, name, values))

    def ask(self, seq: int, name: str, **values: Any) -> dict[str, Any]:
        """A call and what its reply says."""
        self.send(seq, name, **values)
        return reply_of(self.call, seq, name, values)

    def acks(self, count: int) -> list[int]:
        """Of so many replies."""
        found: list[int] = []
        while len(found) < count:
            frame = next(self.call)
            if frame.op != TAKEN:
                found.append(frame.ack)
        return found

    def close(self) -> None:
        self.frames.put(None)
        self.channel.close()


class World:
    def __init__(self, native: Path, folder: Path, env: dict[str, str]) -> None:
        sessions = folder / "sessions"
        sessions.mkdir()
        (sessions / "one").write_text("token-one\nresume_s=20\n")
        self.far = Far(native, folder, env, sessions=sessions)
        self.proxy = Cutting(self.far.address)
        self.open: list[Connection] = []

    def dial(self, resume: str, token: str = "token-one") -> Connection:
        self.open.append(Connection(self.proxy.address, resume, token))
        return self.open[-1]

    def refused(self, resume: str, token: str = "token-one") -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            self.dial(resume, token).answer()
        return caught.value.code(), caught.value.details()

    def sessions(self) -> list[int]:
        """Processes with a worker."""
        return [pid for pid in children(self.far.process.pid) if children(pid)]

    def close(self) -> None:
        for connection in self.open:
            connection.close()
        self.far.close()
        self.proxy.close()


@pytest.fixture
def world(native_dir: Path, tmp_path: Path, soft_env: dict[str, str]) -> Iterator[World]:
    with contextlib.closing(World(native_dir, tmp_path, soft_env)) as made:
        yield made


def begin(world: World) -> Connection:
    """Four calls, and their replies."""
    first = world.dial(f"{KEY} 0 0")
    assert first.answer() == "0 20000"
    for seq in (1, 2, 3, 4):
        first.send(seq)
    assert first.acks(4) == [1, 2, 3, 4]
    return first


def test_each_side_goes_on_where_the_other_was(world: World) -> None:
    begin(world)
    world.proxy.cut()
    # Two replies were not taken: they come again. A call that was taken is not to be sent again.
    second = world.dial(f"{KEY} 1 2")
    assert second.answer() == "4 20000"
    assert second.acks(2) == [3, 4]
    second.send(5)
    assert second.acks(1) == [5]
    world.proxy.cut(HALF)
    third = world.dial(f"{KEY} 7 5")
    assert third.answer() == "5 20000"
    third.send(6)
    assert third.acks(1) == [6]
    third.frames.put(None)
    assert all(frame.op == TAKEN for frame in third.call)
    assert third.call.code() == grpc.StatusCode.OK
    until("all ends", lambda: not children(world.far.process.pid))


def test_what_comes_ahead_of_the_answer_waits_for_it(world: World) -> None:
    begin(world)
    world.proxy.cut()
    (session,) = world.sessions()
    os.kill(session, signal.SIGSTOP)
    try:
        second = world.dial(f"{KEY} 1 4")
        second.send(5)
        until("a relay", lambda: len(children(world.far.process.pid)) == 2)
        time.sleep(0.5)  # the call is there, and so is its first message
    finally:
        os.kill(session, signal.SIGCONT)
    assert second.acks(1) == [5]


def test_who_may_not_go_on(world: World) -> None:
    begin(world)
    world.proxy.cut(HALF)
    (session,) = world.sessions()
    code = grpc.StatusCode
    for resume, token, status, says in (
        (f"{KEY} 1 4", "token-two", code.UNAUTHENTICATED, "token is not this session's"),
        (f"{OTHER} 1 4", "token-one", code.RESOURCE_EXHAUSTED, "in use; remedy"),
        (f"{OTHER} 0 0", "token-one", code.RESOURCE_EXHAUSTED, "in use; remedy"),
        (f"{KEY} 0 0", "token-one", code.RESOURCE_EXHAUSTED, "in use; remedy"),
        (f"{KEY[1:]} 1 4", "token-one", code.INVALID_ARGUMENT, "harp-resume"),
        (f"{KEY} 1 x", "token-one", code.INVALID_ARGUMENT, "harp-resume"),
    ):
        told, text = world.refused(resume, token)
        assert told == status
        assert says in text
    second = world.dial(f"{KEY} 3 4")
    assert second.answer() == "4 20000"
    assert world.refused(f"{KEY} 3 4")[0] == code.ABORTED
    assert world.refused(f"{KEY} 2 4")[0] == code.ABORTED
    second.send(5)
    assert second.acks(1) == [5]
    assert world.sessions() == [session]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("taken", "told", "says"),
    [(5, 0, "more than was sent"), (2, 3, "no longer kept")],
    ids=["too many", "too few"],
)
def test_what_cannot_be_gone_on_with_ends(world: World, taken: int, told: int, says: str) -> None:
    first = begin(world)
    if told:
        first.frames.put(pb.Frame(op=TAKEN, ack=told))
        first.send(5)
        assert first.acks(1) == [5]
    (session,) = world.sessions()
    (worker,) = children(session)
    world.proxy.cut()
    code, text = world.refused(f"{KEY} 1 {taken}")
    assert code == grpc.StatusCode.UNAVAILABLE
    assert says in text
    until("memory back", lambda: not alive(worker))
    until("all ends", lambda: not children(world.far.process.pid))
    code, text = world.refused(f"{KEY} 2 4")
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "here no more" in text


def test_what_was_not_sent_is_not_acknowledged(world: World) -> None:
    first = begin(world)
    first.frames.put(pb.Frame(op=TAKEN, ack=5))
    with pytest.raises(grpc.RpcError) as caught:
        list(first.call)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_the_later_of_two_that_race_has_it(world: World) -> None:
    begin(world)
    seq, attempt = 4, 0
    for _ in range(10):
        world.proxy.cut()
        resumes = [f"{KEY} {attempt + 1} {seq}", f"{KEY} {attempt + 2} {seq}"]
        with ThreadPoolExecutor(2) as pool:
            older, newer = pool.map(world.dial, resumes)
        assert newer.answer() == f"{seq} 20000"
        newer.send(seq + 1)
        assert newer.acks(1) == [seq + 1]
        with pytest.raises(grpc.RpcError) as caught:  # refused, or its place was taken
            list(older.call)
        assert caught.value.code() in (grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE)
        seq, attempt = seq + 1, attempt + 2
    assert len(world.sessions()) == 1


def test_a_client_that_does_not_ask_for_it_has_none(world: World) -> None:
    first = world.dial("")
    assert "harp-resume" not in dict(first.call.initial_metadata())
    first.send(1)
    assert first.acks(1) == [1]
    world.proxy.cut()
    until("all ends", lambda: not children(world.far.process.pid))


def pull(connection: Connection, seq: int, at: int, size: int) -> None:
    """A copy from the device by a transfer; all of it is read, nothing acknowledged."""
    told = pb.Frame(
        flags=pb.FRAME_FLAG_BULK | pb.FRAME_FLAG_REVERSE | pb.FRAME_FLAG_END,
        lane=1,
        ack=seq,
        body=size.to_bytes(8, "little"),
    )
    connection.frames.put(told)
    connection.send(seq, "cuMemcpyDtoH_v2", dstHost=Transfer(seq), srcDevice=at, ByteCount=size)
    got, replied = 0, False
    while got < size or not replied:
        frame = next(connection.call)
        got += len(frame.body) if frame.flags & pb.FRAME_FLAG_BULK else 0
        replied |= bool(frame.flags & pb.FRAME_FLAG_REPLY)


def test_who_acknowledges_nothing_has_room_and_no_second_connection(world: World) -> None:
    size = 4 * MIB
    first = world.dial(f"{KEY} 0 0")
    first.ask(1, "harpSession", devices=1, driver_version=1, loading_mode=1)
    context = first.ask(2, "cuDevicePrimaryCtxRetain", pctx=1, dev=0)["pctx"]
    first.ask(3, "cuCtxSetCurrent", ctx=context)
    at, seq = first.ask(4, "cuMemAlloc_v2", dptr=1, bytesize=size)["dptr"], 4
    for _ in range(7):  # 28 MiB are kept, in regions of the worker's area of 64 MiB
        seq += 1
        pull(first, seq, at, size)
    # What is coming for these needs what those hold: a word for it would be behind this one.
    for transfer in (100, 101, 102):
        first.frames.put(
            pb.Frame(
                flags=pb.FRAME_FLAG_BULK | pb.FRAME_FLAG_REVERSE,
                lane=1,
                ack=transfer,
                body=(16 * MIB).to_bytes(8, "little"),
            )
        )
    first.send(seq + 1)
    assert first.acks(1) == [seq + 1]
    seq += 1
    for _ in range(3):  # and this is more than is kept
        seq += 1
        pull(first, seq, at, size)
    world.proxy.cut()
    code, text = world.refused(f"{KEY} 1 4")
    assert code == grpc.StatusCode.UNAVAILABLE
    assert "no longer kept" in text
