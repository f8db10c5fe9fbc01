# SPDX-License-Identifier: Apache-2.0
"""The end beside programs: its socket, and programs and servers that leave it waiting."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from link_session import Near, alive, link_program, until
from ring_client import Ring
from shim_world import compile_c


@contextlib.contextmanager
def mute_server() -> Iterator[str]:
    """One that speaks HTTP/2, and answers no call; its address. Takes one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)

        def hear() -> None:
            peer, _ = listener.accept()
            with peer, contextlib.suppress(ConnectionResetError):
                peer.sendall(bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))  # SETTINGS
                peer.settimeout(100)
                while peer.recv(4096):
                    pass

        thread = threading.Thread(target=hear)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            thread.join()


def test_a_program_that_leaves_before_the_answer(native_dir: Path, tmp_path: Path) -> None:
    with (
        mute_server() as address,
        contextlib.closing(Near(native_dir, tmp_path, address)) as near,
    ):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(near.path))
            with pytest.raises(TimeoutError):
                Ring(sock, timeout_s=1)
            session = near.session()
            assert alive(session)
        until("the session's end", lambda: not alive(session))


@pytest.mark.slow
def test_a_server_that_does_not_answer(native_dir: Path, tmp_path: Path) -> None:
    with (
        mute_server() as address,
        contextlib.closing(Near(native_dir, tmp_path, address)) as near,
        socket.socket(socket.AF_UNIX) as sock,
    ):
        sock.connect(str(near.path))
        with pytest.raises(ConnectionRefusedError, match="not answered within 25 s; remedy"):
            Ring(sock, timeout_s=250)


def test_only_its_owner_may_connect(native_dir: Path, tmp_path: Path) -> None:
    with contextlib.closing(Near(native_dir, tmp_path, "127.0.0.1:1")) as near:
        assert near.path.stat().st_mode & 0o777 == 0o600


def test_a_killed_ones_socket_is_taken_over(native_dir: Path, tmp_path: Path) -> None:
    with contextlib.closing(Near(native_dir, tmp_path, "127.0.0.1:1")) as killed:
        killed.process.kill()
        killed.process.wait()
        assert killed.path.is_socket()
        with (
            contextlib.closing(Near(native_dir, tmp_path, "127.0.0.1:1")) as near,
            pytest.raises(ConnectionRefusedError, match="refused; remedy"),
        ):
            near.dial()


def test_a_living_ones_socket_is_not(native_dir: Path, tmp_path: Path) -> None:
    with contextlib.closing(Near(native_dir, tmp_path, "127.0.0.1:1")) as near:
        assert "in use" in cannot_listen(native_dir, near.path)
        with pytest.raises(ConnectionRefusedError, match="refused; remedy"):
            near.dial()


def test_nor_is_what_is_no_socket(native_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("somebody's")
    assert "in use" in cannot_listen(native_dir, file)
    assert file.read_text() == "somebody's"


def cannot_listen(native: Path, path: Path) -> str:
    """What it says then."""
    done = subprocess.run(
        [link_program(native), "near", "--socket", path, "--to", "127.0.0.1:1", "--session", "s"],
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == 1
    return done.stderr


def test_one_that_is_ended_leaves_no_socket(native_dir: Path, tmp_path: Path) -> None:
    with (
        mute_server() as address,
        contextlib.closing(Near(native_dir, tmp_path, address)) as near,
        socket.socket(socket.AF_UNIX) as sock,
    ):
        sock.connect(str(near.path))
        with pytest.raises(TimeoutError):
            Ring(sock, timeout_s=1)  # so that it has dialled
        session = near.session()
        os.kill(session, signal.SIGTERM)  # takes no more than itself away
        until("the session's end", lambda: not alive(session))
        assert near.path.is_socket()
        near.process.terminate()
        assert near.process.wait(timeout=20) == 0
        assert not near.path.exists()


def test_no_process_for_a_session(native_dir: Path, tmp_path: Path) -> None:
    source = tmp_path / "fork.c"
    source.write_text("#include <errno.h>\nint fork(void) { errno = EAGAIN; return -1; }\n")
    preload = compile_c(source, tmp_path / "fork.so", "-shared", "-fPIC")
    env = os.environ | {"LD_PRELOAD": str(preload)}
    with (
        contextlib.closing(Near(native_dir, tmp_path, "127.0.0.1:1", env=env)) as near,
        socket.socket(socket.AF_UNIX) as sock,
    ):
        sock.settimeout(20)
        sock.connect(str(near.path))
        assert b"no process for the session: Resource" in sock.recv(256, socket.MSG_WAITALL)
        assert "remedy" in near.log.read_text()
