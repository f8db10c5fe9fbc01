# SPDX-License-Identifier: Apache-2.0
"""Tokens and tickets on the raw socket."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harp.daemon.auth import Auth
from harp.errors import Unauthenticated


def wait(seconds: float) -> None:
    threading.Event().wait(seconds)


def serve(tmp_path: Path, scenario: Callable[[Auth, Path], None], deposit_s: float = 5) -> None:
    """Run a scenario in a thread beside a serving Auth."""

    async def main() -> None:
        path = tmp_path / "auth.sock"
        auth = Auth(path, deposit_s)
        auth.listen()
        server = asyncio.create_task(auth.serve())
        try:
            await asyncio.wait_for(asyncio.to_thread(scenario, auth, path), 10)
        finally:
            server.cancel()
            await asyncio.gather(server, return_exceptions=True)
        assert not path.exists()

    asyncio.run(main())


def ask(path: Path, data: bytes, fds: list[int] | None = None) -> dict[str, str]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(5)
        sock.connect(str(path))
        socket.send_fds(sock, [data], fds or [])
        answer: dict[str, str] = json.loads(sock.recv(4096))
        return answer


def test_a_token_stands_for_the_uid_the_kernel_names(tmp_path: Path) -> None:
    def scenario(auth: Auth, path: Path) -> None:
        tokens = {ask(path, b'{"op": "token"}')["token"] for _ in range(3)}
        assert len(tokens) == 3
        assert {auth.uid_of(t) for t in tokens} == {os.getuid()}
        with pytest.raises(Unauthenticated):
            auth.uid_of("guess")
        with pytest.raises(Unauthenticated):
            auth.uid_of("")

    serve(tmp_path, scenario)


def test_a_listening_socket_is_taken_once(tmp_path: Path) -> None:
    def scenario(auth: Auth, path: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(str(tmp_path / "tenant.sock"))
            listening.listen()
            ticket = ask(path, b'{"op": "deposit"}', [listening.fileno()])["ticket"]
            inode = os.fstat(listening.fileno()).st_ino
        deposit = auth.redeem(ticket)
        assert deposit
        assert (deposit.caller.uid, deposit.caller.pid) == (os.getuid(), os.getpid())
        assert os.fstat(deposit.fd).st_ino == inode
        os.close(deposit.fd)
        assert auth.redeem(ticket) is None

    serve(tmp_path, scenario)


def test_what_is_no_listening_seqpacket_socket_is_refused_and_closed(tmp_path: Path) -> None:
    def scenario(_auth: Auth, path: Path) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        with (
            (tmp_path / "x").open("w") as file,
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as idle,
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream,
        ):
            stream.bind(str(tmp_path / "stream.sock"))
            stream.listen()
            for bad, says in ((file, "no socket"), (idle, "no listening"), (stream, "SEQPACKET")):
                assert says in ask(path, b'{"op": "deposit"}', [bad.fileno()])["error"]
            assert "error" in ask(path, b'{"op": "token"}', [file.fileno()])
            assert "error" in ask(path, b'{"op": "deposit"}', [file.fileno(), idle.fileno()])
        # the server closes its ends a moment after we closed ours
        for _ in range(100):
            if len(list(Path("/proc/self/fd").iterdir())) == before:
                return
            wait(0.02)
        pytest.fail("descriptors were kept")

    serve(tmp_path, scenario)


@pytest.mark.parametrize("data", [b"{", b"[]", b'"token"', b'{"op": 7}', b"\xff\xfe", b"{}"])
def test_nonsense_is_answered_not_believed(data: bytes, tmp_path: Path) -> None:
    def scenario(_auth: Auth, path: Path) -> None:
        assert "error" in ask(path, data)
        assert "token" in ask(path, b'{"op": "token"}')  # it still serves

    serve(tmp_path, scenario)


def test_a_deposit_nobody_redeems_is_dropped(tmp_path: Path) -> None:
    def scenario(auth: Auth, path: Path) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(str(tmp_path / "tenant.sock"))
            listening.listen()
            ticket = ask(path, b'{"op": "deposit"}', [listening.fileno()])["ticket"]
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as knock:
                knock.connect(str(tmp_path / "tenant.sock"))
        # Ours is closed; theirs keeps the address alive until it is dropped.
        for _ in range(100):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as knock:
                try:
                    knock.connect(str(tmp_path / "tenant.sock"))
                except ConnectionRefusedError:
                    break
            wait(0.05)
        else:
            pytest.fail("the socket was kept")
        assert auth.redeem(ticket) is None

    serve(tmp_path, scenario, deposit_s=0.2)
