# SPDX-License-Identifier: Apache-2.0
"""A stock gRPC client makes CUDA calls: harp-link beside a worker is all that it needs."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from link_session import Far, alive
from link_world import SESSION, TOKEN
from ring_client import NUMBERS, table_text

from harp.api.v1 import session_pb2 as pb
from harp.api.v1 import session_pb2_grpc as rpc
from harp.wire import Transfer, decode_reply, encode_request

WANTED, REVERSE = pb.FRAME_FLAG_WANTED, pb.FRAME_FLAG_REVERSE
BULK, END = pb.FRAME_FLAG_BULK, pb.FRAME_FLAG_END


class Stock:
    """One session; frames are written as they are asked for."""

    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.frames: queue.Queue[pb.Frame | None] = queue.Queue()
        metadata = [
            ("authorization", f"Bearer {TOKEN}"),
            ("harp-session", SESSION),
            ("harp-table", table_text()),
        ]
        stub = rpc.GpuSessionStub(self.channel)
        self.call = stub.Session(iter(self.frames.get, None), metadata=metadata, timeout=60)
        self.seq = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.frames.put(None)
        self.channel.close()

    def ask(self, name: str, **values: Any) -> dict[str, Any]:
        """A call, and its reply: the next frame that is none of a transfer."""
        self.seq += 1
        op = NUMBERS[name]
        body = encode_request(op, values)
        self.frames.put(pb.Frame(seq=self.seq, op=op, flags=WANTED, lane=1, body=body))
        frame = next(self.call)
        while frame.flags & BULK:
            frame = next(self.call)
        assert (frame.op, frame.ack, frame.lane) == (op, self.seq, 1)
        if len(frame.body) == 4:
            assert frame.body == bytes(4), name
            return values
        result, answer = decode_reply(op, values, frame.body)
        assert result == 0, name
        return answer

    def chunk(self, transfer: int, body: bytes, flags: int = END) -> None:
        self.frames.put(pb.Frame(flags=BULK | flags, lane=1, ack=transfer, body=body))


@pytest.fixture
def far(native_dir: Path, tmp_path: Path, soft_env: dict[str, str]) -> Iterator[Far]:
    """A worker's end, for one session."""
    end = Far(native_dir, tmp_path, soft_env)
    try:
        yield end
    finally:
        end.close()


def test_calls_and_bytes_both_ways(far: Far) -> None:
    size = 1 << 20
    with Stock(far.address) as client:
        client.ask("harpSession", devices=1, driver_version=1, loading_mode=1)
        context = client.ask("cuDevicePrimaryCtxRetain", pctx=1, dev=0)["pctx"]
        client.ask("cuCtxSetCurrent", ctx=context)
        at = client.ask("cuMemAlloc_v2", dptr=1, bytesize=size)["dptr"]
        data = bytes(i % 253 for i in range(size))
        client.chunk(7, data[: size // 2], 0)
        client.chunk(7, data[size // 2 :])
        client.ask("cuMemcpyHtoD_v2", dstDevice=at, srcHost=Transfer(7), ByteCount=size)
        client.chunk(8, size.to_bytes(8, "little"), END | REVERSE)
        client.seq += 1
        op = NUMBERS["cuMemcpyDtoH_v2"]
        body = encode_request(op, {"dstHost": Transfer(8), "srcDevice": at, "ByteCount": size})
        client.frames.put(pb.Frame(seq=client.seq, op=op, flags=WANTED, lane=1, body=body))
        back = b""
        while not (frame := next(client.call)).flags & pb.FRAME_FLAG_REPLY:
            if frame.ack == 8:
                back += frame.body
        assert back == data
        client.frames.put(None)
        assert not any(frame.flags & pb.FRAME_FLAG_REPLY for frame in client.call)
        assert client.call.code() == grpc.StatusCode.OK
    assert far.ends() == 0


@pytest.mark.parametrize(
    "frame",
    [
        pb.Frame(seq=3, op=NUMBERS["cuCtxSynchronize"], flags=WANTED, lane=1),  # a gap
        pb.Frame(seq=1, op=NUMBERS["cuCtxSynchronize"], flags=WANTED, lane=1),  # once more
        pb.Frame(seq=2, op=0xFFFFFFFF, flags=WANTED, lane=1),  # what a ring skips
        pb.Frame(seq=2, op=NUMBERS["cuCtxSynchronize"], flags=WANTED | 64, lane=1),
        pb.Frame(flags=BULK | END, lane=1, ack=1 << 63, body=b"x"),  # the worker's id
        pb.Frame(flags=BULK | END, lane=1, body=b"x"),  # of no transfer
        pb.Frame(flags=BULK | END, lane=1, ack=9),  # no bytes
        pb.Frame(flags=BULK | END | REVERSE, lane=1, ack=9, body=bytes(8)),
        pb.Frame(flags=BULK | END | REVERSE, lane=1, ack=9, body=b"\xff" * 8),
        pb.Frame(flags=BULK | END | REVERSE, lane=1, ack=9, body=b"\1"),
    ],
)
def test_what_is_no_frame(far: Far, frame: pb.Frame) -> None:
    with Stock(far.address) as client:
        client.ask("harpSession", devices=1, driver_version=1, loading_mode=1)
        worker = far.worker()
        client.frames.put(frame)
        with pytest.raises(grpc.RpcError) as caught:
            list(client.call)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "no frame" in caught.value.details()
        far.process.wait(timeout=20)
        assert not alive(worker)
