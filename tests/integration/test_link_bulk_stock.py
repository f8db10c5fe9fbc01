# SPDX-License-Identifier: Apache-2.0
"""A stock gRPC client spreads host bytes over streams of Bulk: what it may, and what ends it."""

from __future__ import annotations

import contextlib
import itertools
import queue
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from link_session import Far, children, until
from ring_client import NUMBERS, table_text
from stock_calls import TAKEN, call_frame, reply_of
from test_link_bulk import linked, spread
from test_link_resume import MIB

from harp.api.v1 import session_pb2 as pb
from harp.api.v1 import session_pb2_grpc as rpc
from harp.wire import Transfer

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
CHUNK = 256 << 10


class Stock:
    """A gRPC client that spreads what it sends, chunk by chunk as a test wants it."""

    def __init__(self, address: str, *, bulk: str = "2", resume: str = "") -> None:
        self.address = address
        self.frames: dict[str, queue.Queue[pb.Frame | None]] = {}
        self.channels: list[grpc.Channel] = []
        self.calls: list[Any] = []  # one that nobody has any more is taken back
        said = [("harp-bulk", bulk)] + ([("harp-resume", resume)] if resume else [])
        self.own = self.channel()
        self.session = self.call(self.own, "Session", "session", said)
        self.seq = 0

    def channel(self) -> grpc.Channel:
        """A connection of its own."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channels.append(grpc.insecure_channel(self.address, options))
        return self.channels[-1]

    def call(
        self, on: grpc.Channel, method: str, name: str, said: list[tuple[str, str]], token: str = ""
    ) -> Any:
        self.frames[name] = queue.Queue()
        metadata = [
            ("authorization", f"Bearer {token or 'token-one'}"),
            ("harp-session", "one"),
            ("harp-table", table_text()),
            *said,
        ]
        made = getattr(rpc.GpuSessionStub(on), method)
        self.calls.append(made(iter(self.frames[name].get, None), metadata=metadata, timeout=20))
        return self.calls[-1]

    def bulk(self, number: int, **how: str) -> Any:
        """A stream of Bulk: 0 beside the session, else on another connection."""
        said = [("harp-bulk", str(number))] if number else []
        on = self.channel() if number else self.own
        return self.call(on, "Bulk", f"bulk {number}", said, **how)

    def send(self, name: str, **values: Any) -> None:
        self.seq += 1
        self.frames["session"].put(call_frame(self.seq, name, values))

    def ask(self, name: str, **values: Any) -> dict[str, Any]:
        """A call, and what its reply says."""
        self.send(name, **values)
        return reply_of(self.session, self.seq, name, values)

    def close(self) -> None:
        for frames in self.frames.values():
            frames.put(None)
        for channel in self.channels:
            channel.close()


@pytest.fixture
def far(native_dir: Path, tmp_path: Path, soft_env: dict[str, str]) -> Iterator[Far]:
    """With a session, and two more connections for each."""
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    (sessions / "one").write_text("token-one\n")
    with contextlib.closing(
        Far(native_dir, tmp_path, soft_env, *spread(2), sessions=sessions)
    ) as end:
        yield end


@pytest.fixture
def stock(far: Far) -> Iterator[Stock]:
    with contextlib.closing(Stock(far.address)) as client:
        assert dict(client.session.initial_metadata())["harp-bulk"] == "2"
        yield client


def chunk(number: int, transfer: int, at: int, data: bytes, **how: Any) -> pb.Frame:
    values = {"at": at, "of": len(data), "body": data[at : at + CHUNK]} | how
    return pb.Frame(seq=number, flags=pb.FRAME_FLAG_BULK, ack=transfer, **values)


def stands_for(transfer: int, size: int) -> pb.Frame:
    flags = pb.FRAME_FLAG_BULK | pb.FRAME_FLAG_END
    return pb.Frame(flags=flags, lane=1, ack=transfer, of=size)


def refused(call: Any) -> tuple[grpc.StatusCode, str]:
    """How it ends, before anything comes by it."""
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    return caught.value.code(), caught.value.details()


def test_chunks_in_any_order_and_twice(stock: Stock) -> None:
    client = stock
    beside, other = client.bulk(0), client.bulk(2)
    assert client.ask("harpSession", devices=1, driver_version=1, loading_mode=1)["devices"] == 1
    context = client.ask("cuDevicePrimaryCtxRetain", pctx=1, dev=0)["pctx"]
    client.ask("cuCtxSetCurrent", ctx=context)
    data = random.Random(4).randbytes(2 * MIB + 5)
    at = client.ask("cuMemAlloc_v2", dptr=1, bytesize=len(data))["dptr"]
    for number, last in ((1, 90), (2, 91)):  # the second one's bytes come first
        client.frames["session"].put(stands_for(last, len(data)))
        client.send("cuMemcpyHtoD_v2", dstDevice=at, srcHost=Transfer(last), ByteCount=len(data))
        del number
    starts = list(range(0, len(data), CHUNK))
    random.Random(5).shuffle(starts)
    for number, sent in ((2, data), (1, data[::-1])):
        for n, start in enumerate(starts + starts[:3]):
            name = "bulk 2" if n % 2 else "bulk 0"
            client.frames[name].put(chunk(number, 89 + number, start, sent))
    # What is taken in is said on either, and dones and replies come by the session.
    done = [frame.ack for frame in itertools.islice(client.session, 4) if frame.op == 0]
    assert done == [90, 91]
    told = next(call for call in (beside, other) if call)
    while next(told).ack != 2:
        pass
    client.frames["bulk 0"].put(chunk(1, 90, 0, bytes(len(data))))  # late, and passed over
    back = client.ask("cuMemcpyDtoH_v2", dstHost=1, srcDevice=at, ByteCount=60_000)
    assert bytes(back["dstHost"]) == data[:60_000]


def read_all(*calls: Any) -> queue.Queue[pb.Frame]:
    """What comes by any of them, as it comes, until they end."""
    came: queue.Queue[pb.Frame] = queue.Queue()

    def read(call: Any) -> None:
        with contextlib.suppress(grpc.RpcError):
            for frame in call:
                came.put(frame)

    for call in calls:
        threading.Thread(target=read, args=[call], daemon=True).start()
    return came


def test_what_is_not_taken_in_does_not_keep_others_out(stock: Stock) -> None:
    """All of far's bulk area is given out, a fourth of it to what is on its way and nobody has
    acknowledged: what comes next has room, or the acknowledgement could be behind it."""
    calls = stock.bulk(0), stock.bulk(1)
    for call in calls:
        call.initial_metadata()
    came = read_all(*calls)
    stock.ask("harpSession", devices=1, driver_version=1, loading_mode=1)
    context = stock.ask("cuDevicePrimaryCtxRetain", pctx=1, dev=0)["pctx"]
    stock.ask("cuCtxSetCurrent", ctx=context)
    size, data = 2 * MIB, random.Random(7).randbytes(2 * MIB)
    at = stock.ask("cuMemAlloc_v2", dptr=1, bytesize=size)["dptr"]
    stock.ask("cuMemsetD8_v2", dstDevice=at, uc=7, N=size)
    asks = pb.FRAME_FLAG_BULK | pb.FRAME_FLAG_REVERSE | pb.FRAME_FLAG_END
    for transfer in range(100, 108):
        body = size.to_bytes(8, "little")
        stock.frames["session"].put(pb.Frame(flags=asks, lane=1, ack=transfer, body=body))
        stock.ask("cuMemcpyDtoH_v2", dstHost=Transfer(transfer), srcDevice=at, ByteCount=size)
    chunks = 8 * size // CHUNK
    while chunks != 0:
        frame = came.get(timeout=20)
        if frame.op != TAKEN:
            assert (frame.of, frame.body) == (size, bytes([7]) * CHUNK)
            chunks -= 1
    for transfer in (200, 201, 202):
        body = (16 * MIB).to_bytes(8, "little")
        stock.frames["session"].put(pb.Frame(flags=asks, lane=2, ack=transfer, body=body))
    for start in range(0, size, CHUNK):
        stock.frames["bulk 1"].put(chunk(1, 300, start, data))
    stock.frames["session"].put(stands_for(300, size))
    stock.ask("cuMemcpyHtoD_v2", dstDevice=at, srcHost=Transfer(300), ByteCount=size)
    stock.frames["bulk 1"].put(pb.Frame(op=TAKEN, ack=8))
    back = stock.ask("cuMemcpyDtoH_v2", dstHost=1, srcDevice=at, ByteCount=60_000)
    assert bytes(back["dstHost"]) == data[:60_000]


def test_who_may_add_a_stream(far: Far, stock: Stock) -> None:
    code, text = refused(stock.bulk(1, token="another"))
    assert (code, "the token is not this session's" in text) == (UNAUTHENTICATED, True)
    for there in (stock.bulk(0), stock.bulk(1)):
        there.initial_metadata()  # each comes by a connection of its own, in any order
    for number in (3, 9, 1):
        code, text = refused(stock.bulk(number))
        assert code == INVALID_ARGUMENT
        assert "harp-bulk is not 1 to 2, each once" in text
    assert stock.ask("harpSession", devices=1, driver_version=1, loading_mode=1)["devices"] == 1
    stock.frames["session"].put(None)
    until("the worker's end", lambda: not any(map(children, children(far.process.pid))))
    with contextlib.closing(Stock(far.address, bulk="9")) as late:
        assert refused(late.session) == (INVALID_ARGUMENT, "harp-bulk is not 1 to 8")
        code, text = refused(late.bulk(1))
        assert (code, "is here no more" in text) == (FAILED_PRECONDITION, True)


def test_a_stream_that_is_lost_at_one_end_is_given_up(stock: Stock) -> None:
    """And what went there is asked for elsewhere: a connection may be dead one way only."""
    beside, other = stock.bulk(0), stock.bulk(1)
    other.initial_metadata()  # it is there
    first = next(beside)  # what is there of what was spread: nothing
    assert (first.op, first.flags, first.ack) == (TAKEN, pb.FRAME_FLAG_END, 0)
    stock.frames["bulk 1"].put(chunk(1, 90, 2 * CHUNK, bytes(2 * MIB)))
    stock.frames["bulk 0"].put(chunk(1, 90, 0, bytes(2 * MIB)))
    stock.frames["bulk 0"].put(pb.Frame(op=TAKEN, at=1 << 1))
    assert other.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
    states = [first]
    while not (states[-1].at == 1 << 1 and states[-1].flags == pb.FRAME_FLAG_END):
        states.append(next(beside))
    there = states[-2]
    assert (there.flags, there.seq) == (pb.FRAME_FLAG_BULK, 1)
    assert there.ack in (0b001, 0b101)  # the other one may not have come
    assert refused(stock.bulk(1))[0] == INVALID_ARGUMENT  # a number is used once


def test_where_none_is_agreed(native_dir: Path, tmp_path: Path, soft_env: dict[str, str]) -> None:
    with linked(native_dir, tmp_path, soft_env, 0) as world:
        for bulk in ("2", ""):
            with contextlib.closing(Stock(world.far.address, bulk=bulk)) as client:
                assert "harp-bulk" not in dict(client.session.initial_metadata())
                code, _ = refused(client.bulk(0))
                assert code == grpc.StatusCode.UNIMPLEMENTED
                client.frames["session"].put(stands_for(90, 2 * MIB))
                assert refused(client.session)[0] == INVALID_ARGUMENT
            until("the session's end", world.gone)


SIZE = 2 * MIB
DATA = bytes(SIZE)
BAD = {
    "a part of a chunk": chunk(1, 90, 0, DATA, body=bytes(CHUNK - 1)),
    "no multiple": chunk(1, 90, 1, DATA),
    "beyond the end": chunk(1, 90, SIZE, DATA, body=bytes(CHUNK)),
    "far beyond": chunk(1, 90, 1 << 63, DATA, body=bytes(CHUNK)),
    "too small a transfer": chunk(1, 90, 0, DATA, of=SIZE - 1),
    "too large": chunk(1, 90, 0, DATA, of=16 * MIB + 1),
    "much too large": chunk(1, 90, 0, DATA, of=(1 << 64) - 1),
    "no transfer": chunk(1, 0, 0, DATA),
    "the worker's": chunk(1, 1 << 63, 0, DATA),
    "no number": chunk(0, 90, 0, DATA),
    "too far ahead": chunk(9, 90, 0, DATA),
    "a call": pb.Frame(seq=1, op=NUMBERS["cuCtxSynchronize"], lane=1),
    "taken, and never sent": pb.Frame(op=2, ack=1),
    "there, and never sent": pb.Frame(op=2, flags=pb.FRAME_FLAG_BULK, seq=1, ack=1),
}


@pytest.mark.parametrize("what", BAD)
def test_nonsense_ends_the_session(far: Far, stock: Stock, what: str) -> None:
    stock.bulk(0)
    stock.bulk(1)
    stock.frames["bulk 1"].put(BAD[what])
    code, text = refused(stock.session)
    assert code == INVALID_ARGUMENT
    assert "is no chunk of a transfer that there can be, or one too many" in text
    until("the session's end", lambda: not children(far.process.pid))


AGAINST_EACH_OTHER = {
    "two sizes": [chunk(1, 90, 0, DATA), chunk(1, 90, CHUNK, DATA + b"1")],
    "two ids": [chunk(1, 90, 0, DATA), chunk(1, 91, CHUNK, DATA)],
    "two numbers": [chunk(1, 90, 0, DATA), chunk(2, 90, 0, DATA)],
    "more than 16 MiB": [chunk(n, 89 + n, 0, bytes(6 * MIB)) for n in (1, 2, 3)],
    "more than eight": [chunk(n, 89 + n, 0, DATA) for n in range(1, 10)],
}


@pytest.mark.parametrize("what", AGAINST_EACH_OTHER)
def test_what_does_not_go_together_ends_the_session(far: Far, stock: Stock, what: str) -> None:
    stock.bulk(0)
    for frame in AGAINST_EACH_OTHER[what]:
        stock.frames["bulk 0"].put(frame)
    assert refused(stock.session)[0] == INVALID_ARGUMENT
    until("the session's end", lambda: not children(far.process.pid))


def test_a_frame_that_is_not_for_its_transfer(far: Far, stock: Stock) -> None:
    stock.bulk(0)
    stock.frames["bulk 0"].put(chunk(1, 90, 0, DATA))
    stock.frames["session"].put(stands_for(91, SIZE))
    # It may be there first: then the chunk is what does not fit.
    assert refused(stock.session)[0] == INVALID_ARGUMENT
    until("the session's end", lambda: not children(far.process.pid))
