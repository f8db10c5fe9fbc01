# SPDX-License-Identifier: Apache-2.0
"""gRPC's own C++ library makes CUDA calls through harp-link, and answers it: as grpcio does."""

from __future__ import annotations

import contextlib
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from link_session import Far, alive
from link_world import SESSION, TOKEN, Authority, echo_call
from ring_client import NUMBERS, table_text

from harp.api.v1 import session_pb2 as pb
from harp.wire import Transfer, decode_reply, encode_request
from tests.integration.shim_world import ROOT

pytestmark = pytest.mark.slow  # half a minute of a compiler's time

WANTED, REVERSE = pb.FRAME_FLAG_WANTED, pb.FRAME_FLAG_REVERSE
BULK, END, REPLY = pb.FRAME_FLAG_BULK, pb.FRAME_FLAG_END, pb.FRAME_FLAG_REPLY
PACKAGES = "libgrpc++-dev libprotobuf-dev protobuf-compiler-grpc"
LAST = 0xFFFFFFFF
SIZE = 1 << 20


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """link_stock.cpp against this host's library, or a skip."""
    folder = tmp_path_factory.mktemp("cpp")
    plugin = shutil.which("grpc_cpp_plugin")
    include = "#include <grpcpp/grpcpp.h>\n#include <google/protobuf/message.h>\n"
    there = plugin and shutil.which("protoc") and shutil.which("g++")
    if there:
        check = ["g++", "-std=c++17", "-E", "-x", "c++", "-"]
        done = subprocess.run(check, input=include, text=True, capture_output=True, check=False)
        there = done.returncode == 0
    if not there:
        pytest.skip(f"no gRPC for C++ here; remedy: apt-get install g++ {PACKAGES}")
    proto = "harp/api/v1/session.proto"
    out = [f"--cpp_out={folder}", f"--grpc_out={folder}", f"--plugin=protoc-gen-grpc={plugin}"]
    subprocess.run(["protoc", "-I.", *out, proto], cwd=ROOT, check=True)
    made = sorted((folder / proto).parent.glob("*.cc"))
    built = folder / "link_stock"
    source = Path(__file__).with_name("link_stock.cpp")
    libraries = ["-Wl,--copy-dt-needed-entries", "-lgrpc++", "-lprotobuf", "-lpthread"]
    command = ["g++", "-std=c++17", f"-I{folder}", source, *made, "-o", built, *libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return built


class Stock:
    """One session of the C++ program; frames go through its stdin and stdout."""

    def __init__(self, program: Path, address: str, *ca: str, token: str = TOKEN) -> None:
        command = [program, "call", address, token, SESSION, table_text(), *ca]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.seq = 0
        #: set by the last thing that it says
        self.status: tuple[grpc.StatusCode, str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def put(self, frame: pb.Frame) -> None:
        data = frame.SerializeToString()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then it says how its call has ended
            self.process.stdin.write(struct.pack("<I", len(data)) + data)
            self.process.stdin.flush()

    def frames(self) -> Iterator[pb.Frame]:
        """Until the call's end."""
        out = self.process.stdout
        assert out is not None
        while (size := struct.unpack("<I", out.read(4))[0]) != LAST:
            yield pb.Frame.FromString(out.read(size))
        code, size = struct.unpack("<II", out.read(8))
        codes = {one.value[0]: one for one in grpc.StatusCode}
        self.status = codes[code], out.read(size).decode()

    def call(self, name: str, **values: Any) -> None:
        self.seq += 1
        op = NUMBERS[name]
        body = encode_request(op, values)
        self.put(pb.Frame(seq=self.seq, op=op, flags=WANTED, lane=1, body=body))

    def ask(self, name: str, **values: Any) -> dict[str, Any]:
        """A call and its reply."""
        self.call(name, **values)
        frame = next(frame for frame in self.frames() if not frame.flags & BULK)
        assert (frame.op, frame.ack, frame.lane) == (NUMBERS[name], self.seq, 1)
        if len(frame.body) == 4:
            assert frame.body == bytes(4), name
            return values
        result, answer = decode_reply(NUMBERS[name], values, frame.body)
        assert result == 0, name
        return answer

    def chunk(self, transfer: int, body: bytes, flags: int = END) -> None:
        self.put(pb.Frame(flags=BULK | flags, lane=1, ack=transfer, body=body))

    def end(self) -> tuple[grpc.StatusCode, str]:
        """No more frames: the call's status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert not any(frame.flags & REPLY for frame in self.frames())
        assert self.status is not None
        self.process.wait(timeout=30)
        self.process.stdin = None
        return self.status


@pytest.fixture(params=["plain", "tls"])
def far(
    native_dir: Path, tmp_path: Path, soft_env: dict[str, str], request: pytest.FixtureRequest
) -> Iterator[tuple[Far, tuple[str, ...]]]:
    """A worker's end, for one session; and what a client needs for it."""
    options: tuple[str, ...] = ()
    ca: tuple[str, ...] = ()
    if request.param == "tls":
        authority = Authority(tmp_path)
        certificate, key = authority.issue("server")
        options, ca = ("--cert", str(certificate), "--key", str(key)), (str(authority.pem),)
    with contextlib.closing(Far(native_dir, tmp_path, soft_env, *options)) as end:
        yield end, ca


def begin(client: Stock) -> None:
    client.ask("harpSession", devices=1, driver_version=1, loading_mode=1)
    context = client.ask("cuDevicePrimaryCtxRetain", pctx=1, dev=0)["pctx"]
    client.ask("cuCtxSetCurrent", ctx=context)


def test_calls_and_bytes_both_ways(program: Path, far: tuple[Far, tuple[str, ...]]) -> None:
    end, ca = far
    with Stock(program, end.address, *ca) as client:
        begin(client)
        at = client.ask("cuMemAlloc_v2", dptr=1, bytesize=SIZE)["dptr"]
        data = bytes(i % 253 for i in range(SIZE))
        client.chunk(7, data[: SIZE // 2], 0)
        client.chunk(7, data[SIZE // 2 :])
        client.ask("cuMemcpyHtoD_v2", dstDevice=at, srcHost=Transfer(7), ByteCount=SIZE)
        client.chunk(8, SIZE.to_bytes(8, "little"), END | REVERSE)
        client.call("cuMemcpyDtoH_v2", dstHost=Transfer(8), srcDevice=at, ByteCount=SIZE)
        back = b""
        for frame in client.frames():
            if frame.flags & REPLY:
                break
            if frame.ack == 8:
                back += frame.body
        assert back == data
        assert client.end() == (grpc.StatusCode.OK, "")
    assert end.ends() == 0


def test_many_calls_in_their_order(program: Path, far: tuple[Far, tuple[str, ...]]) -> None:
    """More than both windows hold, before anything is read."""
    end, ca = far
    with Stock(program, end.address, *ca) as client:
        begin(client)
        at = client.ask("cuMemAlloc_v2", dptr=1, bytesize=SIZE)["dptr"]
        piece, count = bytes(50_000), 300
        first = client.seq + 1
        for number in range(count):
            body = number.to_bytes(4, "little") + piece
            client.call("cuMemcpyHtoD_v2", dstDevice=at, srcHost=body, ByteCount=len(body))
        replies = (frame for frame in client.frames() if frame.flags & REPLY)
        assert [next(replies).ack for _ in range(count)] == list(range(first, first + count))
        client.call("cuMemcpyDtoH_v2", dstHost=b"", srcDevice=at, ByteCount=4)
        frame = next(replies)
        assert frame.body.endswith((count - 1).to_bytes(4, "little"))
        assert client.end() == (grpc.StatusCode.OK, "")


def test_what_is_refused_is_said(program: Path, far: tuple[Far, tuple[str, ...]]) -> None:
    end, ca = far
    with Stock(program, end.address, *ca, token="another") as client:
        code, text = client.end()
        assert code == grpc.StatusCode.UNAUTHENTICATED, text
    with Stock(program, end.address, *ca) as client:
        client.ask("harpSession", devices=1, driver_version=1, loading_mode=1)
        worker = end.worker()
        client.put(pb.Frame(seq=9, op=NUMBERS["cuCtxSynchronize"], flags=WANTED, lane=1))  # a gap
        code, text = client.end()
        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert "no frame" in text
    end.process.wait(timeout=20)
    assert not alive(worker)


def test_our_client_on_its_server(program: Path, native_dir: Path) -> None:
    command = [program, "serve", TOKEN]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        port = server.stdout.readline().split()[1]
        for options in ([], ["--frames", "50", "--bytes", "1000000"]):
            answer = echo_call(native_dir, f"127.0.0.1:{port}", *options)
            assert (answer["status"], answer["wrong"]) == ("OK", 0), answer
        answer = echo_call(native_dir, f"127.0.0.1:{port}", token="another")
        assert (answer["status"], answer["text"]) == ("UNAUTHENTICATED", "bad token")
        assert server.stdin is not None
        server.stdin.close()
        assert server.wait(timeout=30) == 0
