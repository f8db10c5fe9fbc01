# SPDX-License-Identifier: Apache-2.0
"""Sessions that a folder offers to programs: who gets which, and what is said of it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from link_session import Far, alive, children, link_program, until
from ring_client import Client, WorkerGoneError


class Offering:
    """A far end with sessions `one` and `two`, and a near end that takes what is offered."""

    def __init__(self, native: Path, folder: Path, far: Far) -> None:
        self.far = far
        self.offers, self.path, self.log = folder / "offers", folder / "near.sock", folder / "log"
        self.offers.mkdir()
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [link_program(native), "near", "--socket", self.path, "--sessions", self.offers],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.says() == "ready"
        self.sockets: list[socket.socket] = []

    def offer(self, name: str, token: str = "") -> None:
        scratch = self.offers / f".new.{name}"
        scratch.write_text(f"{token or f'token-{name}'}\nto={self.far.address}\n")
        scratch.rename(self.offers / name)

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def dial(self) -> Client:
        sock = socket.socket(socket.AF_UNIX)
        self.sockets.append(sock)
        sock.connect(str(self.path))
        return Client(sock)

    def hang_up(self) -> None:
        self.sockets.pop(0).close()

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def offering(native_dir: Path, tmp_path: Path, soft_env: dict[str, str]) -> Iterator[Offering]:
    folder = tmp_path / "sessions"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / name).write_text(f"token-{name}\n")
    with (
        contextlib.closing(Far(native_dir, tmp_path, soft_env, sessions=folder)) as far,
        contextlib.closing(Offering(native_dir, tmp_path, far)) as made,
    ):
        yield made


def test_each_program_gets_one_and_its_end_is_said(offering: Offering) -> None:
    offering.offer("one")
    first = offering.dial()
    assert offering.says() == "taken one"
    offering.offer("two")
    second = offering.dial()
    assert offering.says() == "taken two"
    first.context()
    second.context()
    assert sorted(p.name for p in offering.offers.iterdir()) == [".one", ".two"]
    offering.hang_up()
    assert offering.says() == "ended one"
    assert [p.name for p in offering.offers.iterdir()] == [".two"]
    (session,) = children(offering.process.pid)
    os.kill(session, signal.SIGKILL)
    assert offering.says() == "ended two"
    assert list(offering.offers.iterdir()) == []


def test_a_program_waits_for_one(offering: Offering) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(offering.path))
        until("its process", lambda: children(offering.process.pid))
        offering.offer("one")
        Client(sock).context()


def test_why_there_is_none_is_passed_on(offering: Offering) -> None:
    (offering.offers / ".refused").write_text("the lease is over; remedy: another\nno more\n")
    with pytest.raises(ConnectionRefusedError, match=r"^the lease is over; remedy: another$"):
        offering.dial()
    assert offering.log.read_text() == "harp-link: the lease is over; remedy: another\n"
    offering.offer("one")
    offering.dial().context()


@pytest.mark.slow
def test_nobody_waits_for_ever(offering: Offering) -> None:
    with pytest.raises(ConnectionRefusedError, match="no session was offered within 10 s; remedy"):
        offering.dial()


def test_what_is_taken_back_ends(offering: Offering) -> None:
    offering.offer("one")
    client = offering.dial()
    client.context()
    assert offering.says() == "taken one"
    (offering.offers / ".one").unlink()
    with pytest.raises(WorkerGoneError):
        client.until(lambda record: record.op == "none", 10)
    assert offering.says() == "ended one"


def test_how_the_session_of_a_gone_program_ends_is_not_said(offering: Offering) -> None:
    """Whoever held the program takes it back, and near hears of that with the program's end."""
    offering.offer("one")
    offering.dial().context()
    assert offering.says() == "taken one"
    (session,) = children(offering.process.pid)
    os.kill(session, signal.SIGSTOP)
    offering.hang_up()
    (offering.offers.parent / "sessions" / "one").unlink()
    (offering.offers / ".one").unlink()
    until("the other side's end of it", lambda: not children(offering.far.process.pid))
    os.kill(session, signal.SIGCONT)
    assert offering.says() == "ended one"
    assert offering.log.read_text() == ""


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the offered session bad cannot be read"),
        ("t\n", "session bad names no host"),
        ("t\nto=nowhere\n", "nowhere"),
        (f"{'t' * 600}\nto=localhost:1\n", "the offered session bad cannot be read"),
        ("t\nto=192.0.2.1:1\n", "192.0.2.1"),
    ],
)
def test_an_offer_that_is_none(offering: Offering, text: str, why: str) -> None:
    (offering.offers / "bad").write_text(text)
    with pytest.raises(ConnectionRefusedError, match=why):
        offering.dial()
    assert [offering.says(), offering.says()] == ["taken bad", "ended bad"]


def test_it_ends_with_who_reads_and_takes_its_sessions_along(offering: Offering) -> None:
    offering.offer("one")
    offering.dial().context()
    assert offering.says() == "taken one"
    (session,) = children(offering.process.pid)
    assert offering.process.stdout is not None
    offering.process.stdout.close()
    offering.process.wait(timeout=20)
    until("the session's end", lambda: not alive(session))
    assert not offering.path.exists()
