# SPDX-License-Identifier: Apache-2.0
"""Several sessions behind one port: whose is whose, and none is another's peril."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from link_session import Far, Near, alive, children, until
from ring_client import WorkerGoneError

NOBODY = "the token is not this session's, or no longer; remedy"


@pytest.fixture
def far(native_dir: Path, tmp_path: Path, soft_env: dict[str, str]) -> Iterator[Far]:
    """Serves `one` and `two`."""
    folder = tmp_path / "sessions"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / name).write_text(f"token-{name}\nWHOSE={name}\nno variable\n")
    with contextlib.closing(Far(native_dir, tmp_path, soft_env, sessions=folder)) as far:
        yield far
        assert far.process.poll() is None, far.log.read_text()


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
