# SPDX-License-Identifier: Apache-2.0
"""The program's end of streams of Bulk, and a server that sends on them what nobody asked for."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from link_session import Near, alive, children, until
from ring_client import NUMBERS, WANTED, WorkerGoneError

from harp.api.v1 import session_pb2 as pb
from harp.api.v1 import session_pb2_grpc as rpc

MIB, CHUNK = 1 << 20, 256 << 10


class Server(rpc.GpuSessionServicer):
    """Answers calls with 0; on Bulk it sends what `frames` has."""

    def __init__(self, others: str) -> None:
        self.others = others
        self.frames: queue.Queue[pb.Frame | None] = queue.Queue()
        self.told: list[dict[str, str]] = []

    def Session(
        self, frames: Iterator[pb.Frame], context: grpc.ServicerContext
    ) -> Iterator[pb.Frame]:
        context.send_initial_metadata((("harp-bulk", self.others),))
        seq = 0
        for frame in frames:
            if frame.flags & pb.FRAME_FLAG_WANTED:
                seq += 1
                flags = pb.FRAME_FLAG_REPLY
                yield pb.Frame(
                    seq=seq, ack=frame.seq, op=frame.op, flags=flags, lane=1, body=bytes(4)
                )

    def Bulk(self, _: Iterator[pb.Frame], context: grpc.ServicerContext) -> Iterator[pb.Frame]:
        self.told.append({str(name): str(value) for name, value in context.invocation_metadata()})
        context.send_initial_metadata(())
        yield from iter(self.frames.get, None)


@contextlib.contextmanager
def served(native: Path, folder: Path, others: str) -> Iterator[tuple[Server, Near]]:
    servicer, server = Server(others), grpc.server(ThreadPoolExecutor(8))
    rpc.add_GpuSessionServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    (folder / "token").write_text("token-one")
    options = ["--token-file", str(folder / "token"), "--bulk-streams", "2"]
    try:
        with contextlib.closing(Near(native, folder, f"127.0.0.1:{port}", *options)) as near:
            yield servicer, near
    finally:
        for _ in range(8):
            servicer.frames.put(None)
        server.stop(None).wait()


@pytest.mark.parametrize("others", ["3", "9", "-1", "x"])
def test_more_than_was_asked_for_is_none(native_dir: Path, tmp_path: Path, others: str) -> None:
    with served(native_dir, tmp_path, others) as (server, near):
        client = near.dial()
        seq = client.send("cuCtxSynchronize", how=WANTED)
        client.until(lambda record: record.ack == seq)
        assert server.told == []
        assert children(near.session()) == []


NONSENSE = {
    "not announced": pb.Frame(seq=1, flags=16, ack=900, of=2 * MIB, body=bytes(CHUNK)),
    "of another size": pb.Frame(seq=1, flags=16, ack=0, of=2 * MIB, body=bytes(CHUNK)),
    "a call": pb.Frame(seq=1, op=NUMBERS["cuCtxSynchronize"]),
    "taken, and never sent": pb.Frame(op=2, ack=1),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_what_nobody_asked_for_ends_the_session(
    native_dir: Path, tmp_path: Path, what: str
) -> None:
    with served(native_dir, tmp_path, "2") as (server, near):
        client = near.dial()
        until("all streams", lambda: len(server.told) == 3)
        assert sorted(told.get("harp-bulk", "") for told in server.told) == ["", "1", "2"]
        assert {told["authorization"] for told in server.told} == {"Bearer token-one"}
        mine = near.session()
        frame = pb.Frame.FromString(NONSENSE[what].SerializeToString())
        if frame.ack == 0:  # of what was asked for
            transfer, _ = client.announce(4 * MIB)
            client.send(
                "cuMemcpyDtoH_v2",
                how=WANTED,
                dstHost=transfer,
                srcDevice=1 << 40,
                ByteCount=4 * MIB,
            )
            client.until(lambda record: record.op == NUMBERS["cuMemcpyDtoH_v2"])
            frame.ack = transfer.id
        server.frames.put(frame)
        with pytest.raises(WorkerGoneError):
            client.until(lambda record: record.op == "none", 20)
        until("near's end", lambda: not alive(mine))
        assert "is no chunk of a transfer that there can be" in near.log.read_text()
