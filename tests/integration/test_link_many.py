# SPDX-License-Identifier: Apache-2.0
"""Several sessions behind one port: whose is whose, and none is another's peril."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from link_session import Far, Near, alive, children, link_program, until
from ring_client import WorkerGoneError

from harp.procs import read

NOBODY = "the token is not this session's, or no longer; remedy"


@contextlib.contextmanager
def two_sessions(native: Path, folder: Path, env: dict[str, str]) -> Iterator[Far]:
    """Serves `one` and `two`."""
    sessions = folder / "sessions"
    sessions.mkdir()
    for name in ("one", "two"):
        (sessions / name).write_text(f"token-{name}\nWHOSE={name}\nno variable\n")
    with contextlib.closing(Far(native, folder, env, sessions=sessions)) as far:
        yield far


@pytest.fixture
def far(native_dir: Path, tmp_path: Path, soft_env: dict[str, str]) -> Iterator[Far]:
    """It survives whatever is done to its sessions."""
    with two_sessions(native_dir, tmp_path, soft_env) as found:
        yield found
        assert found.process.poll() is None, found.log.read_text()


@contextlib.contextmanager
def near(far: Far, native: Path, folder: Path, name: str, token: str = "") -> Iterator[Near]:
    """The end of a session's programs."""
    place = folder / f"near-{len(list(folder.iterdir()))}"
    place.mkdir()
    (place / "token").write_text(token or f"token-{name}")
    options = ("--token-file", str(place / "token"))
    with contextlib.closing(Near(native, place, far.address, *options, session=name)) as made:
        yield made


def workers(far: Far) -> dict[str, int]:
    """Of sessions, by what their files put into the workers' environment."""
    found = {}
    for session in children(far.process.pid):
        for pid in children(session):
            environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            (whose,) = (word[6:].decode() for word in environ if word.startswith(b"WHOSE="))
            found[whose] = pid
    return found


def parent(pid: int) -> int:
    found = read(pid)
    assert found
    return found.ppid


def test_one_that_dies_harms_no_other(far: Far, native_dir: Path, tmp_path: Path) -> None:
    with (
        near(far, native_dir, tmp_path, "one") as first,
        near(far, native_dir, tmp_path, "two") as second,
    ):
        one, two = first.dial(), second.dial()
        one.context()
        two.context()
        pids = workers(far)
        assert set(pids) == {"one", "two"}
        with pytest.raises(ConnectionRefusedError, match="in use; remedy"):
            first.dial()
        os.kill(pids["one"], signal.SIGKILL)
        with pytest.raises(WorkerGoneError):
            one.until(lambda record: record.op == "none", 10)
        two.must("cuCtxSynchronize")
        until("the session's end", lambda: len(children(far.process.pid)) == 1)
        again = first.dial()
        again.context()
        two.must("cuCtxSynchronize")
        assert workers(far)["two"] == pids["two"]


def test_whose_token_it_is_not_learns_nothing(far: Far, native_dir: Path, tmp_path: Path) -> None:
    with near(far, native_dir, tmp_path, "two") as second:
        two = second.dial()
        for name, token in (
            ("one", "token-two"),
            ("two", "token-one"),
            ("three", "token-one"),
            ("../token", "a-token-of-this-test"),
            (".", "x"),
            ("sessions", "x"),
        ):
            with (
                near(far, native_dir, tmp_path, name, token) as other,
                pytest.raises(ConnectionRefusedError, match=NOBODY),
            ):
                other.dial()
        two.context()


def test_what_is_taken_back_ends(far: Far, native_dir: Path, tmp_path: Path) -> None:
    with (
        near(far, native_dir, tmp_path, "one") as first,
        near(far, native_dir, tmp_path, "two") as second,
    ):
        one, two = first.dial(), second.dial()
        one.context()
        two.context()
        pids = workers(far)
        (tmp_path / "sessions" / "one").unlink()
        with pytest.raises(WorkerGoneError):
            one.until(lambda record: record.op == "none", 10)
        assert "taken back; remedy" in first.log.read_text()
        until("the worker's end", lambda: not alive(pids["one"]))
        with pytest.raises(ConnectionRefusedError, match=NOBODY):
            first.dial()
        two.must("cuCtxSynchronize")


def test_no_session_outlives_the_data_side_and_no_worker_its_session(
    native_dir: Path, tmp_path: Path, soft_env: dict[str, str]
) -> None:
    """Nor one that is stopped, and so cannot see that its connection is closed."""
    with (
        two_sessions(native_dir, tmp_path, soft_env) as far,
        near(far, native_dir, tmp_path, "one") as first,
        near(far, native_dir, tmp_path, "two") as second,
    ):
        one = first.dial()
        one.context()
        second.dial().context()
        pids = workers(far)
        sessions = {name: parent(pid) for name, pid in pids.items()}
        os.kill(pids["one"], signal.SIGSTOP)
        os.kill(sessions["one"], signal.SIGKILL)
        until("the stopped worker's end", lambda: not alive(pids["one"]))
        assert alive(pids["two"])
        os.kill(pids["two"], signal.SIGSTOP)
        left = children(far.process.pid)
        again = first.dial()
        again.context()
        far.process.kill()
        everybody = [*left, *pids.values(), sessions["two"]]
        until("the ends of all", lambda: not any(map(alive, everybody)))
        with pytest.raises(WorkerGoneError):
            again.until(lambda record: record.op == "none", 10)


def test_who_attends_hears_of_sessions_and_ends_all_by_hanging_up(
    native_dir: Path, tmp_path: Path, soft_env: dict[str, str]
) -> None:
    folder = tmp_path / "sessions"
    folder.mkdir()
    (folder / "one").write_text("token-one\nWHOSE=one\n")
    worker = (native_dir / "harp-worker", "--driver", native_dir / "soft" / "libcuda.so.1")
    command = [link_program(native_dir), "far", "--listen", "127.0.0.1:0", "--sessions", folder]
    with subprocess.Popen(
        [*command, "--attended", "--", *worker],
        env=soft_env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ready, port = process.stdout.readline().split()
        assert ready == "ready"
        (tmp_path / "token").write_text("token-one")
        options = ("--token-file", str(tmp_path / "token"))
        address = f"localhost:{port}"
        with contextlib.closing(
            Near(native_dir, tmp_path, address, *options, session="one")
        ) as made:
            made.dial().context()
            (session,) = children(process.pid)
            assert process.stdout.readline() == f"began one {session}\n"
            os.kill(session, signal.SIGKILL)
            assert process.stdout.readline() == "ended one\n"
            made.dial().context()
            (session,) = children(process.pid)
            assert process.stdout.readline() == f"began one {session}\n"
            (pid,) = children(session)
            process.stdin.write("what is said is no order\n")
            process.stdin.flush()
            with pytest.raises(ConnectionRefusedError, match="in use; remedy"):
                made.dial()  # it hears, and stays
            process.stdin.close()
            assert process.wait(timeout=30) == 0
            until("the ends of all", lambda: not alive(session) and not alive(pid))
        assert process.stdout.read() == ""


def test_strangers_take_no_place_of_sessions(far: Far, native_dir: Path, tmp_path: Path) -> None:
    port = int(far.address.rpartition(":")[2])
    with near(far, native_dir, tmp_path, "one") as first:
        one = first.dial()
        one.context()
        with contextlib.ExitStack() as stack:
            for _ in range(80):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            until("strangers", lambda: len(children(far.process.pid)) == 1 + 64)
            one.must("cuCtxSynchronize")
        until("their ends", lambda: len(children(far.process.pid)) == 1)
        with near(far, native_dir, tmp_path, "two") as second:
            second.dial().context()
