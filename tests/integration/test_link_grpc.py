# SPDX-License-Identifier: Apache-2.0
"""The link's transport against stock gRPC, plain: our server, our client, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from link_session import until
from link_world import (
    SESSION,
    TOKEN,
    Echo,
    echo_call,
    echo_program,
    echo_server,
    own_table,
    stock_server,
)

from harp.api.v1 import session_pb2 as pb
from harp.api.v1 import session_pb2_grpc as rpc

MIB = 1 << 20
WANTED = pb.FRAME_FLAG_WANTED


@pytest.fixture(scope="module")
def table(native_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """harp-table of this build."""
    echo_program(native_dir)
    return own_table(native_dir, tmp_path_factory.mktemp("table"))


@pytest.fixture(scope="module")
def server(native_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Echo]:
    """One for all tests that leave it as they found it; it must survive all of them."""
    with echo_server(native_dir, tmp_path_factory.mktemp("echo")) as echo:
        yield echo


@pytest.fixture
def stub(server: Echo) -> Iterator[rpc.GpuSessionStub]:
    """grpcio's own client."""
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield rpc.GpuSessionStub(channel)


def metadata(table: str, **changed: str | None) -> list[tuple[str, str]]:
    """What a call must bring, with some of it changed or (None) left out."""
    words: dict[str, str | None] = {
        "authorization": f"Bearer {TOKEN}",
        "harp-session": SESSION,
        "harp-table": table,
    }
    words |= {key.replace("_", "-"): value for key, value in changed.items()}
    return [(key, value) for key, value in words.items() if value is not None]


def frames(count: int, body: bytes = b"", start: int = 1) -> list[pb.Frame]:
    """As a client numbers them."""
    return [
        pb.Frame(seq=seq, op=70, flags=WANTED, lane=seq % 5, body=body)
        for seq in range(start, start + count)
    ]


def check(sent: list[pb.Frame], back: list[pb.Frame]) -> None:
    """All of them, in order, with their bodies."""
    assert len(back) == len(sent)
    for seq, (a, b) in enumerate(zip(sent, back, strict=True), 1):
        assert (b.seq, b.ack, b.op, b.lane) == (seq, a.seq, a.op, a.lane)
        assert b.flags == WANTED | pb.FRAME_FLAG_REPLY
        assert b.body == a.body


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "size"),
    [(1, 0), (1, 64), (10_000, 60), (50, MIB), (3, 2047), (3, 2048), (300, 16_384)],
)
@pytest.mark.parametrize("method", ["Session", "Bulk"])
def test_stock_client(
    stub: rpc.GpuSessionStub, table: str, count: int, size: int, method: str
) -> None:
    sent = frames(count, bytes(i % 251 for i in range(256)) * (size // 256) + b"x" * (size % 256))
    call = getattr(stub, method)(iter(sent), metadata=metadata(table), timeout=60)
    check(sent, list(call))
    assert call.code() == grpc.StatusCode.OK
    assert dict(call.initial_metadata())["harp-table"] == table


def test_stock_client_without_a_frame(stub: rpc.GpuSessionStub, table: str) -> None:
    assert list(stub.Session(iter(()), metadata=metadata(table), timeout=20)) == []


def test_stock_aio_client(server: Echo, table: str) -> None:
    async def ping_pong() -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            call = rpc.GpuSessionStub(channel).Session(metadata=metadata(table), timeout=60)
            for frame in frames(500, b"abc"):
                await call.write(frame)
                reply = await call.read()
                assert (reply.ack, reply.body) == (frame.seq, b"abc")
            await call.done_writing()
            assert await call.read() == grpc.aio.EOF
            assert await call.code() == grpc.StatusCode.OK

    async def several() -> None:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            stub = rpc.GpuSessionStub(channel)

            async def one(body: bytes) -> None:
                sent = frames(40, body)
                call = stub.Bulk(iter(sent), metadata=metadata(table), timeout=60)
                check(sent, [reply async for reply in call])

            await asyncio.gather(*(one(bytes([i]) * 100_000) for i in range(6)))

    asyncio.run(ping_pong())
    asyncio.run(several())


def other_table(table: str) -> str:
    """The table of a HARP 9.8.7, which describes calls differently."""
    form, cuda, digest, _ = table.split()
    return f"{form} {cuda} {'0' * len(digest)} 9.8.7"


@pytest.mark.parametrize(
    ("changed", "status", "says"),
    [
        ({"authorization": None}, "UNAUTHENTICATED", ["no token", "remedy"]),
        ({"authorization": "Bearer wrong"}, "UNAUTHENTICATED", ["not this session's", "remedy"]),
        ({"authorization": f"Basic {TOKEN}"}, "UNAUTHENTICATED", ["no token"]),
        ({"authorization": f"Bearer {TOKEN}x"}, "UNAUTHENTICATED", ["not this session's"]),
        ({"authorization": "Bearer " + "x" * 4000}, "UNAUTHENTICATED", []),
        ({"harp_session": "session-2"}, "INVALID_ARGUMENT", ["harp-session"]),
        ({"harp_session": None}, "INVALID_ARGUMENT", ["harp-session"]),
        ({"harp_table": None}, "INVALID_ARGUMENT", ["harp-table"]),
        ({"harp_table": "nonsense"}, "INVALID_ARGUMENT", ["harp-table"]),
        ({"harp_table": "OTHER"}, "FAILED_PRECONDITION", ["HARP 0.1.0", "HARP 9.8.7", "remedy"]),
    ],
)
def test_what_a_call_must_bring(
    stub: rpc.GpuSessionStub,
    table: str,
    changed: dict[str, str | None],
    status: str,
    says: list[str],
) -> None:
    if changed.get("harp_table") == "OTHER":
        changed = {"harp_table": other_table(table)}
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.Session(iter(frames(3)), metadata=metadata(table, **changed), timeout=20))
    assert caught.value.code().name == status
    for word in says:
        assert word in caught.value.details()


def test_an_unknown_method(server: Echo, table: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = channel.unary_unary("/harp.api.v1.Control/Lease")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"", metadata=metadata(table), timeout=20)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "GpuSession" in caught.value.details()


@pytest.mark.parametrize(
    ("frame", "status"),
    [
        (pb.Frame(seq=1, body=bytes(MIB + 1)), "RESOURCE_EXHAUSTED"),
        (pb.Frame(seq=1, body=bytes(3 * MIB)), "RESOURCE_EXHAUSTED"),
        (pb.Frame(seq=1, body=bytes(MIB)), None),
    ],
)
def test_large_messages(
    stub: rpc.GpuSessionStub, table: str, frame: pb.Frame, status: str | None
) -> None:
    call = stub.Session(iter([frame]), metadata=metadata(table), timeout=20)
    if status is None:
        assert len(list(call)) == 1
        return
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code().name == status


def test_what_is_no_frame(server: Echo, table: str) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        method = channel.stream_stream("/harp.api.v1.GpuSession/Session")
        with pytest.raises(grpc.RpcError) as caught:
            list(method(iter([b"\x0b\xff\xff"]), metadata=metadata(table), timeout=20))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_compressed_messages_are_refused(stub: rpc.GpuSessionStub, table: str) -> None:
    call = stub.Session(
        iter(frames(1, bytes(10_000))),
        metadata=metadata(table),
        timeout=20,
        compression=grpc.Compression.Gzip,
    )
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "grpc-encoding" in caught.value.details()


def test_a_cancelled_call_harms_no_other(stub: rpc.GpuSessionStub, table: str) -> None:
    stay = stub.Session(slowly(frames(20, b"stay")), metadata=metadata(table), timeout=60)
    for _ in range(10):
        call = stub.Bulk(slowly(frames(100, bytes(MIB))), metadata=metadata(table))
        next(call)
        call.cancel()
    check(frames(20, b"stay"), list(stay))


def slowly(sent: list[pb.Frame]) -> Iterator[pb.Frame]:
    """A frame each 10 ms."""
    for frame in sent:
        time.sleep(0.01)
        yield frame


@pytest.mark.slow
def test_who_does_not_read_is_held_back(native_dir: Path, tmp_path: Path, table: str) -> None:
    sent = 0

    def endless() -> Iterator[pb.Frame]:
        nonlocal sent
        for seq in itertools.count(1):
            sent += 1
            yield pb.Frame(seq=seq, op=70, flags=WANTED, body=bytes(MIB))
            if seq == 400:
                return

    with (
        echo_server(native_dir, tmp_path, "--window", str(2 * MIB)) as server,
        grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        idle = server.rss_kib()
        stub = rpc.GpuSessionStub(channel)
        call = stub.Session(endless(), metadata=metadata(table), timeout=120)
        before = -1
        while before != sent:  # until nothing moves any more
            before = sent
            time.sleep(0.5)
        assert sent < 100, "a server that takes what nobody fetches"
        # Its queue, its window, and a message each: 6 MiB and what malloc makes of them.
        assert server.rss_kib() - idle < 24 * 1024
        # Another call of the same connection goes on meanwhile.
        check(frames(50, b"y"), list(stub.Bulk(iter(frames(50, b"y")), metadata=metadata(table))))
        assert sum(len(frame.body) for frame in call) == 400 * MIB
        assert server.rss_kib() - idle < 24 * 1024


@pytest.mark.parametrize(
    "options",
    [
        ["--frames", "1", "--bytes", "0"],
        ["--frames", "10000", "--bytes", "60"],
        ["--frames", "50", "--bytes", str(MIB)],
        ["--frames", "50", "--bytes", "100000", "--streams", "4", "--bulk"],
    ],
)
def test_our_client_on_a_stock_server(native_dir: Path, options: list[str]) -> None:
    echo_program(native_dir)
    with stock_server() as port:
        answer = echo_call(native_dir, f"127.0.0.1:{port}", *options)
    assert answer["status"] == "OK", answer
    assert answer["wrong"] == 0
    assert answer["back"] == answer["sent"] > 0
    assert answer["table"] == "their table"


@pytest.mark.parametrize(
    "options",
    [
        ["--frames", "100000", "--bytes", "64"],
        ["--frames", "200", "--bytes", str(MIB)],
        ["--frames", "40", "--bytes", "300000", "--streams", "8"],
    ],
)
def test_our_client_on_our_server(native_dir: Path, server: Echo, options: list[str]) -> None:
    answer = echo_call(native_dir, f"127.0.0.1:{server.port}", *options)
    assert answer["status"] == "OK", answer
    assert (answer["wrong"], answer["back"]) == (0, answer["sent"])


def test_statuses_of_a_stock_server(native_dir: Path) -> None:
    echo_program(native_dir)
    with stock_server() as port:
        answer = echo_call(native_dir, f"127.0.0.1:{port}", token="wrong")
    assert (answer["status"], answer["text"]) == ("UNAUTHENTICATED", "bad token")
    details = "100 % äöü: nicht mehr"
    with stock_server(status=grpc.StatusCode.RESOURCE_EXHAUSTED, details=details) as port:
        answer = echo_call(native_dir, f"127.0.0.1:{port}", "--frames", "3")
    assert (answer["status"], answer["text"]) == ("RESOURCE_EXHAUSTED", details)


def test_a_peer_with_large_windows_that_reads_late(native_dir: Path) -> None:
    """What waits then is TCP alone: nothing comes that would set writing going again."""
    echo_program(native_dir)
    count, got = 24, 0
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def read() -> None:
            nonlocal got
            peer, _ = listener.accept()
            with peer:
                windows = struct.pack(">HIHI", 4, (1 << 31) - 1, 5, 1 << 20)
                peer.sendall(b"\0\0\x0c\4\0\0\0\0\0" + windows)  # SETTINGS
                peer.sendall(b"\0\0\4\x08\0\0\0\0\0" + struct.pack(">I", (1 << 31) - 1 - 65535))
                time.sleep(0.5)
                peer.settimeout(10)
                while got < count * MIB:
                    piece = peer.recv(1 << 20)
                    assert piece, "the client has gone"
                    got += len(piece)

        thread = threading.Thread(target=read)
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        answer = echo_call(native_dir, address, "--frames", str(count), "--bytes", str(MIB))
        thread.join()
    assert got >= count * MIB
    assert answer["status"] == "UNAVAILABLE"  # it never answered


def test_nobody_there(native_dir: Path) -> None:
    echo_program(native_dir)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        port = taken.getsockname()[1]
        answer = echo_call(native_dir, f"127.0.0.1:{port}")
    assert answer["status"] == "UNAVAILABLE"
    assert "refused" in answer["text"]
    assert "remedy" in answer["text"]


def test_another_kind_of_server(native_dir: Path) -> None:
    echo_program(native_dir)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def speak() -> None:
            peer, _ = listener.accept()
            with peer:
                peer.sendall(b"220 mail.example ESMTP\r\n" * 10)
                while peer.recv(4096):
                    pass

        thread = threading.Thread(target=speak)
        thread.start()
        answer = echo_call(native_dir, f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert answer["status"] == "UNAVAILABLE"
    assert "HTTP/2" in answer["text"]


def test_a_server_that_dies(native_dir: Path, tmp_path: Path) -> None:
    with echo_server(native_dir, tmp_path, dies=True) as server:
        idle = server.rss_kib()

        def kill() -> None:
            until("a message at the server", lambda: server.rss_kib() - idle > 1024)
            server.process.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        answer = echo_call(
            native_dir, f"127.0.0.1:{server.port}", "--frames", "100000", "--bytes", str(MIB)
        )
        killer.join()
        assert answer["status"] == "UNAVAILABLE"
        assert "connection broke" in answer["text"]
        assert answer["wrong"] == 0


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_plain_only_at_home(native_dir: Path, tmp_path: Path, address: str) -> None:
    with (
        pytest.raises(AssertionError, match="unencrypted"),
        echo_server(native_dir, tmp_path, address=address),
    ):
        pass
    answer = echo_call(native_dir, "192.0.2.1:7400")
    assert answer["status"] == "UNAVAILABLE"
    assert "unencrypted" in answer["text"]
    assert "remedy" in answer["text"]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:", ":7400", "::1:7400", "a:b:c"])
def test_what_is_no_address(native_dir: Path, address: str) -> None:
    answer = echo_call(native_dir, address)
    assert answer["status"] == "NOT_STARTED"
    assert "remedy" in answer["text"] or "looked up" in answer["text"]


@pytest.mark.slow
def test_who_makes_no_call_is_sent_away(server: Echo) -> None:
    hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
    half = bytes([0, 0, 1, 1, 0, 0, 0, 0, 1, 0x83])  # HEADERS (:method POST), and more to come
    with contextlib.ExitStack() as stack:
        peers = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(3)
        ]
        for peer, says in zip(peers, (b"", hello, hello + half), strict=True):
            peer.sendall(says)
        for peer in peers:
            peer.settimeout(100)  # 10 s are meant
            while peer.recv(4096):
                pass
