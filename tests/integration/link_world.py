# SPDX-License-Identifier: Apache-2.0
"""Both ends of a link in C without a session behind them, a small CA, and a stock gRPC server."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from harp.api.v1 import session_pb2 as pb
from harp.api.v1 import session_pb2_grpc as rpc

TOKEN, SESSION = "a-token-of-this-test", "session-1"


def echo_program(native: Path) -> Path:
    """harp-link-echo, or the test is skipped: the host may lack what it is built from."""
    program = native / "harp-link-echo"
    if not program.exists():
        pytest.skip("harp-link is not built: libnghttp2-dev or libssl-dev is missing")
    return program


@dataclass(frozen=True)
class Echo:
    """A server that gives frames back."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    def rss_kib(self) -> int:
        """The most it has ever had in memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0])

    def waits_for(self, text: str, seconds: float = 10) -> None:
        """Until its log says so."""
        end = time.monotonic() + seconds
        while text not in self.log.read_text():
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)


@contextlib.contextmanager
def echo_server(
    native: Path,
    folder: Path,
    *options: str,
    address: str = "127.0.0.1:0",
    dies: bool = False,
) -> Iterator[Echo]:
    """One that knows TOKEN and SESSION unless the options say otherwise."""
    log = folder / "echo.log"
    if "--token" not in options and "--no-token" not in options:
        options += ("--token", TOKEN)
    options = tuple(o for o in options if o != "--no-token")
    command = [str(echo_program(native)), "serve", address, "--session", SESSION, *options]
    with (
        log.open("w") as err,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            word, _, port = process.stdout.readline().partition(" ")
            assert word == "ready", log.read_text()
            yield Echo(process, int(port), log)
            assert dies or process.poll() is None, f"the server died: {log.read_text()}"
        finally:
            process.send_signal(signal.SIGKILL)


def echo_call(native: Path, address: str, *options: str, token: str = TOKEN) -> dict[str, Any]:
    """Our client: what it says about its calls."""
    command = [str(echo_program(native)), "call", address, "--session", SESSION]
    done = subprocess.run(
        [*command, "--token", token, *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if not done.stdout:
        return {"status": "NOT_STARTED", "text": done.stderr}
    answer: dict[str, Any] = json.loads(done.stdout)
    assert (done.returncode == 0) == (answer["status"] == "OK" and answer["wrong"] == 0)
    return answer


def own_table(native: Path, folder: Path) -> str:
    """The table of this build, as its server says it."""
    with echo_server(native, folder) as server:
        answer = echo_call(native, f"127.0.0.1:{server.port}")
        assert answer["status"] == "OK", answer
        return str(answer["table"])


class Authority:
    """A CA of two days, made by the openssl program."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        if shutil.which("openssl") is None:
            pytest.skip("no openssl program to make certificates with")
        self.folder = folder
        self.pem, self._key = folder / f"{name}.pem", folder / f"{name}.key"
        self._run(
            "req", "-x509", *self._new_key(self._key), "-out", self.pem, "-subj", f"/CN={name}",
            "-days", "2",
        )  # fmt: skip

    @staticmethod
    def _new_key(path: Path) -> list[str | Path]:
        return [
            "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", path
        ]  # fmt: skip

    @staticmethod
    def _run(*arguments: str | Path) -> None:
        subprocess.run(["openssl", *arguments], check=True, capture_output=True)

    def issue(
        self, name: str, san: str = "DNS:localhost,IP:127.0.0.1", days: int = 1
    ) -> tuple[Path, Path]:
        """Certificate and key; with negative days it has expired."""
        base = self.folder / f"{self.pem.stem}-{name}"
        request, certificate = base.with_suffix(".csr"), base.with_suffix(".crt")
        key, extension = base.with_suffix(".key"), base.with_suffix(".ext")
        extension.write_text(f"subjectAltName={san}\n")
        self._run("req", *self._new_key(key), "-out", request, "-subj", f"/CN={name}")
        self._run(
            "x509", "-req", "-in", request, "-CA", self.pem, "-CAkey", self._key,
            "-CAcreateserial", "-days", str(days), "-extfile", extension, "-out", certificate,
        )  # fmt: skip
        return certificate, key


class _Stock(rpc.GpuSessionServicer):
    """Gives frames back, as the C server does."""

    def __init__(self, status: grpc.StatusCode, details: str) -> None:
        self.status, self.details = status, details

    def _run(self, frames: Iterator[pb.Frame], context: grpc.ServicerContext) -> Iterator[pb.Frame]:
        told = dict(context.invocation_metadata())
        context.send_initial_metadata((("harp-table", "their table"),))
        if told.get("authorization") != f"Bearer {TOKEN}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "bad token")
        for seq, frame in enumerate(frames, 1):
            if self.status != grpc.StatusCode.OK:
                context.abort(self.status, self.details)
            yield pb.Frame(
                seq=seq,
                ack=frame.seq,
                op=frame.op,
                flags=frame.flags | pb.FRAME_FLAG_REPLY,
                lane=frame.lane,
                body=frame.body,
            )

    Session = _run
    Bulk = _run


@contextlib.contextmanager
def stock_server(
    credentials: grpc.ServerCredentials | None = None,
    status: grpc.StatusCode = grpc.StatusCode.OK,
    details: str = "",
) -> Iterator[int]:
    """grpcio's own server with this service; its port."""
    server = grpc.server(ThreadPoolExecutor(8))
    rpc.add_GpuSessionServicer_to_server(_Stock(status, details), server)
    port = (
        server.add_insecure_port("127.0.0.1:0")
        if credentials is None
        else server.add_secure_port("localhost:0", credentials)
    )
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()
