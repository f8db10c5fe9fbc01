# SPDX-License-Identifier: Apache-2.0
"""Another harp-link in the place of one that runs, under a program that computes."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest
from link_session import Far, Near, alive, children, link_program, until
from ring_client import Client
from test_link_offers import Offering
from test_link_resume import Program, World


def inode(process: subprocess.Popen[str]) -> int:
    """Of the program that a process runs."""
    return Path(f"/proc/{process.pid}/exe").stat().st_ino


class Installed:
    """A folder of programs, in which harp-link can be replaced."""

    def __init__(self, native: Path, folder: Path) -> None:
        self.native, self.folder = native, folder / "lib"
        self.folder.mkdir()
        for name in ("harp-worker", "soft"):
            (self.folder / name).symlink_to(native / name)
        self.path = self.folder / "harp-link"
        shutil.copy(link_program(native), self.path)

    def replace(self, by: Path | None = None) -> int:
        """As an installation does; the new one's inode."""
        new = self.folder / "new"
        shutil.copy(by or link_program(self.native), new)
        new.rename(self.path)
        return self.path.stat().st_ino

    def replace_slowly(self) -> Path:
        """By one that reads a line of the fifo before it comes up, each time; starts no process."""
        go, real, new = (self.folder / name for name in ("go", "real", "new"))
        os.mkfifo(go)
        shutil.copy(link_program(self.native), real)
        # No shell: it would take in children that it has not started.
        lines = ("import os, sys", f"open({str(go)!r}).readline()")
        run = f"os.execv({str(real)!r}, sys.argv)"
        new.write_text("\n".join((f"#!{sys.executable} -IS", *lines, run, "")))
        new.chmod(0o755)
        new.rename(self.path)
        return go


@pytest.fixture
def installed(native_dir: Path, tmp_path: Path) -> Installed:
    return Installed(native_dir, tmp_path)


@pytest.fixture
def world(installed: Installed, tmp_path: Path, soft_env: dict[str, str]) -> Iterator[World]:
    with contextlib.closing(World(installed.folder, tmp_path, soft_env)) as made:
        yield made


def hears(process: subprocess.Popen[str]) -> bool:
    """Whether it has come up, so far that it can be asked."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return bool(int(status.split("SigCgt:")[1].split()[0], 16) >> signal.SIGUSR2 - 1 & 1)


def upgrade(installed: Installed, *processes: subprocess.Popen[str]) -> None:
    """Both run the new one, and are who they were."""
    for process in processes:
        until("it hears", lambda p=process: hears(p))
    new = installed.replace()
    for process in processes:
        assert inode(process) != new
        process.send_signal(signal.SIGUSR2)
    for process in processes:
        until("the new one", lambda p=process: inode(p) == new)
        assert process.poll() is None


def upgrade_meanwhile(
    installed: Installed, process: subprocess.Popen[str], ends: Callable[[], object]
) -> None:
    """Something ends while another is tried, and no child does once that one is there."""
    until("it hears", lambda: hears(process))
    go, before = installed.replace_slowly(), children(process.pid)

    def come_up() -> bool:
        try:
            fd = os.open(go, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads it yet
            return False
        os.write(fd, b"\n")
        os.close(fd)
        return True

    process.send_signal(signal.SIGUSR2)
    until("the trial", lambda: len(children(process.pid)) > len(before))
    ends()
    until("its end", lambda: not any(alive(pid) for pid in before))
    until("a trial that waits", come_up)
    until("the trial's end", lambda: not any(alive(pid) for pid in children(process.pid)))
    until("another that waits", come_up)
    real = (installed.folder / "real").stat().st_ino
    until("the new one", lambda: inode(process) == real)


def said(stream: IO[str]) -> str:
    """The next line; there may be none for good."""
    assert select.select([stream], [], [], 20)[0], "nothing is said"
    return stream.readline()


def test_a_program_goes_on(installed: Installed, world: World) -> None:
    near = world.near()
    program = Program(near.dial())
    worker, session, mine = *world.worker(), near.session()
    for _ in range(2):
        program.launch(50)
        upgrade(installed, near.process, world.far.process)
        program.launch(50)
        assert program.counted() == program.launched
        world.proxy.cut()  # the new one accepts what goes on, and finds whose it is
        program.launch(50)
        assert program.counted() == program.launched
    assert (*world.worker(), near.session()) == (worker, session, mine)
    (world.sessions / "two").write_text("token-two\nWHOSE=two\n")
    with contextlib.closing(world.near("token-two", "two")) as other:
        client: Client = other.dial()
        client.context()
        assert len([pid for pid in children(world.far.process.pid) if children(pid)]) == 2
        client.close()
    program.client.close()
    until("the ends", world.gone)
    until("and near's", lambda: not alive(mine))
    Program(near.dial())  # its file is free again


BECOME = """
import os, signal, sys
if sys.argv[2] == "early":
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    os.kill(os.getpid(), signal.SIGUSR2)
os.execv(f"/proc/self/fd/{sys.argv[1]}", sys.argv[3:])
"""


@pytest.mark.parametrize("asked", ["early", "later"])
def test_one_that_was_replaced_before_it_looked_becomes_the_new_one(
    installed: Installed, tmp_path: Path, asked: str
) -> None:
    """`early`: it is asked before it hears, and not again."""
    old = os.open(installed.path, os.O_RDONLY)
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    new = installed.replace()
    far = subprocess.Popen(
        [
            *(sys.executable, "-c", BECOME, str(old), asked),
            *(installed.path, "far", "--listen", "127.0.0.1:0"),
            *("--sessions", sessions, "--", "true"),
        ],
        pass_fds=[old],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert far.stdout is not None
    with far.stdout:
        try:
            assert far.stdout.readline().startswith("ready ")
            if asked == "later":
                assert inode(far) == os.fstat(old).st_ino != new
                far.send_signal(signal.SIGUSR2)
            until("the new one", lambda: inode(far) == new)
        finally:
            far.kill()
            far.wait()
            os.close(old)


@pytest.mark.parametrize("what", ["/bin/false", "nothing"])
def test_one_that_does_not_come_up_is_not_become(
    installed: Installed, world: World, what: str
) -> None:
    near = world.near()
    program = Program(near.dial())
    before = inode(near.process), inode(world.far.process)
    if what == "nothing":
        installed.path.unlink()
    else:
        installed.replace(Path(what))
    for process, log in ((near.process, near.log), (world.far.process, world.far.log)):
        process.send_signal(signal.SIGUSR2)
        until("a word", lambda path=log: "all stays as it is; remedy" in path.read_text())
    assert (inode(near.process), inode(world.far.process)) == before
    program.launch(50)
    world.proxy.cut()
    assert program.counted() == program.launched
    program.client.close()
    until("the ends", world.gone)
    Program(near.dial())
    upgrade(installed, near.process, world.far.process)  # and a later one is


def test_a_session_is_none_that_accepts(installed: Installed, world: World) -> None:
    near = world.near()
    program = Program(near.dial())
    worker, session = world.worker()
    installed.replace()
    for pid in (near.session(), session):
        os.kill(pid, signal.SIGUSR2)
    program.launch(50)
    assert program.counted() == program.launched
    at = struct.pack("<Q", program.counter)
    assert program.copy(at) == at
    assert world.worker() == (worker, session)


def test_one_that_cannot_is_not_ended_by_it(
    installed: Installed, tmp_path: Path, soft_env: dict[str, str]
) -> None:
    with contextlib.closing(Far(installed.folder, tmp_path, soft_env)) as far:
        before = inode(far.process)
        installed.replace()
        far.process.send_signal(signal.SIGUSR2)
        options = ("--token-file", str(far.token))
        with contextlib.closing(Near(installed.folder, tmp_path, far.address, *options)) as near:
            program = Program(near.dial())
            program.launch(50)
            assert program.counted() == program.launched
        assert inode(far.process) == before


def test_what_is_offered_goes_on(
    installed: Installed, tmp_path: Path, soft_env: dict[str, str]
) -> None:
    folder = tmp_path / "sessions"
    folder.mkdir()
    for name in ("one", "two"):
        (folder / name).write_text(f"token-{name}\n")
    with (
        contextlib.closing(Far(installed.folder, tmp_path, soft_env, sessions=folder)) as far,
        contextlib.closing(Offering(installed.folder, tmp_path, far)) as near,
    ):
        near.offer("one")
        program = Program(near.dial())
        assert near.says() == "taken one"
        upgrade(installed, near.process)
        program.launch(50)
        assert program.counted() == program.launched
        near.hang_up()
        assert near.says() == "ended one"
        near.offer("two")
        Program(near.dial())
        assert near.says() == "taken two"
        upgrade_meanwhile(installed, near.process, near.hang_up)
        assert near.process.stdout is not None
        assert said(near.process.stdout) == "ended two\n"


def test_who_attends_hears_of_no_change(
    installed: Installed, tmp_path: Path, soft_env: dict[str, str]
) -> None:
    folder = tmp_path / "sessions"
    folder.mkdir()
    (folder / "one").write_text("token-one\n")
    (tmp_path / "token").write_text("token-one\n")
    driver = installed.folder / "soft" / "libcuda.so.1"
    far = subprocess.Popen(
        [
            *(installed.path, "far", "--listen", "127.0.0.1:0", "--sessions", folder),
            *("--attended", "--", installed.folder / "harp-worker", "--driver", driver),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=soft_env,
    )
    assert far.stdin is not None
    assert far.stdout is not None
    with far.stdin, far.stdout:
        try:
            word, port = far.stdout.readline().split()
            assert word == "ready"
            options = ("--token-file", str(tmp_path / "token"))
            address = f"127.0.0.1:{port}"
            with contextlib.closing(
                Near(installed.folder, tmp_path, address, *options, session="one")
            ) as near:
                for _ in range(2):
                    program = Program(near.dial())
                    assert far.stdout.readline().startswith("began one ")
                    upgrade(installed, far)
                    program.launch(50)
                    assert program.counted() == program.launched
                    program.client.close()
                    assert far.stdout.readline() == "ended one\n"
                program = Program(near.dial())
                assert far.stdout.readline().startswith("began one ")
                upgrade_meanwhile(installed, far, program.client.close)
                assert said(far.stdout) == "ended one\n"
            far.stdin.close()
            assert far.wait(timeout=20) == 0
        finally:
            far.kill()
            far.wait()
