# SPDX-License-Identifier: Apache-2.0
"""Which ends are for good, and which are a broken connection: of sessions with a window of 60 s, so
that whoever waits for it fails here."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from link_session import Far, alive, children, until
from ring_client import Client, WorkerGoneError
from test_link_offers import Offering
from test_link_resume import Program, World

WINDOW_S = 60


@pytest.fixture
def world(native_dir: Path, tmp_path: Path, soft_env: dict[str, str]) -> Iterator[World]:
    with contextlib.closing(World(native_dir, tmp_path, soft_env, resume_s=WINDOW_S)) as made:
        yield made


def fill(client: Client, at: int) -> None:
    """Send until nothing more goes, to a worker that is stopped."""
    client.timeout_s, data = 1, bytes(60_000)

    def send() -> None:
        while True:
            client.send("cuMemcpyHtoD_v2", dstDevice=at, srcHost=data, ByteCount=len(data))

    with pytest.raises(AssertionError, match="no room"):
        send()
    client.timeout_s = 30


@pytest.mark.slow
@pytest.mark.parametrize("relayed", [False, True], ids=["direct", "relayed"])
def test_an_end_overtakes_what_waits(world: World, relayed: bool) -> None:
    near = world.near()
    program = Program(near.dial())
    if relayed:
        world.proxy.cut()
        assert program.counted() == 0
    worker, _ = world.worker()
    os.kill(worker, signal.SIGSTOP)
    fill(program.client, program.at)
    os.kill(near.session(), signal.SIGTERM)
    until("memory back", lambda: not alive(worker))
    until("the session's end", world.gone)


def test_a_session_taken_back_ends_at_once_on_both_sides(
    native_dir: Path, tmp_path: Path, soft_env: dict[str, str]
) -> None:
    folder = tmp_path / "sessions"
    folder.mkdir()
    (folder / "one").write_text(f"token-one\nresume_s={WINDOW_S}\n")
    with (
        contextlib.closing(Far(native_dir, tmp_path, soft_env, sessions=folder)) as far,
        contextlib.closing(Offering(native_dir, tmp_path, far)) as near,
    ):
        near.offer("one")
        client = near.dial()
        client.context()
        (near.offers / ".one").unlink()
        with pytest.raises(WorkerGoneError):
            client.until(lambda record: record.op == "none", 20)
        until("the session's end", lambda: not children(far.process.pid))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_session_ends_with_its_process(world: World, number: signal.Signals) -> None:
    before = signal.signal(number, lambda *_: None)  # else it may be ignored, and stays so
    try:
        near = world.near()
    finally:
        signal.signal(number, before)
    program = Program(near.dial())
    assert program.counted() == 0
    os.kill(near.session(), number)
    with pytest.raises(WorkerGoneError):
        program.client.until(lambda record: record.op == "none", 20)
    until("the session's end", world.gone)
    assert near.process.poll() is None


def test_a_signal_that_is_ignored_stays_so(world: World) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        near = world.near()
    finally:
        signal.signal(signal.SIGHUP, before)
    program = Program(near.dial())
    for pid in (near.process.pid, near.session()):
        os.kill(pid, signal.SIGHUP)
    program.launch(50)
    assert program.counted() == program.launched


def test_no_session_outlives_near(world: World) -> None:
    near = world.near()
    program = Program(near.dial())
    session = near.session()
    near.process.kill()
    with pytest.raises(WorkerGoneError):
        program.client.until(lambda record: record.op == "none", 20)
    until("the process's end", lambda: not alive(session))
    until("the session's end", world.gone)


def test_near_ends_before_the_answer(
    native_dir: Path, tmp_path: Path, soft_env: dict[str, str]
) -> None:
    """While the worker opens its driver, which nobody can hurry."""
    slow = tmp_path / "slow"
    slow.mkdir()
    for name in ("harp-link", "soft"):
        (slow / name).symlink_to(native_dir / name)
    wait = slow / "wait"
    wait.touch()
    (slow / "harp-worker").write_text(
        f"#!/bin/sh\nwhile [ -e {wait} ]; do sleep 0.05; done\n"
        f'exec {native_dir / "harp-worker"} "$@"\n'
    )
    (slow / "harp-worker").chmod(0o755)
    with contextlib.closing(World(slow, tmp_path, soft_env, resume_s=WINDOW_S)) as world:
        near, told = world.near(), []

        def dial() -> None:
            with pytest.raises((ConnectionRefusedError, WorkerGoneError, EOFError)) as why:
                near.dial()
            told.append(why.value)

        thread = threading.Thread(target=dial)
        thread.start()
        until("a worker", lambda: any(children(pid) for pid in children(world.far.process.pid)))
        os.kill(near.session(), signal.SIGTERM)
        thread.join(timeout=20)
        assert told, "the program is not told"
        until("near's end", lambda: not children(near.process.pid))
        wait.unlink()
        until("the session's end", world.gone)
        assert Program(near.dial()).counted() == 0


def test_no_way_now_is_no_end(world: World) -> None:
    """The process that a connection comes to has no descriptor for the way to the session's."""
    program = Program(world.near().dial())
    _, session = world.worker()
    world.proxy.cut()
    assert program.counted() == 0
    (relay,) = world.relays(session)
    # Its last one is its end of the way; another that is made now numbers them as it did.
    last = max(int(fd.name) for fd in Path(f"/proc/{relay}/fd").iterdir())
    world.proxy.budget = lambda: 0
    world.proxy.cut()
    until("its end", lambda: not world.relays(session))
    far = world.far.process.pid
    limits = resource.prlimit(far, resource.RLIMIT_NOFILE)
    resource.prlimit(far, resource.RLIMIT_NOFILE, (last + 1, limits[1]))
    world.proxy.budget = lambda: None
    until("a word", lambda: "process now: Too many open files" in world.far.log.read_text())
    resource.prlimit(far, resource.RLIMIT_NOFILE, limits)
    program.launch(50)
    assert program.counted() == program.launched
    assert world.worker()[1] == session


@pytest.mark.slow
def test_connections_that_are_of_no_use_do_not_go_on_for_ever(
    native_dir: Path, tmp_path: Path, soft_env: dict[str, str]
) -> None:
    """Each is answered, and breaks before the message that waits is through."""
    with contextlib.closing(World(native_dir, tmp_path, soft_env, resume_s=1)) as world:
        near = world.near()
        program = Program(near.dial())
        assert program.counted() == 0
        world.proxy.budget = lambda: 5000
        world.proxy.cut()
        program.client.send(
            "cuMemcpyHtoD_v2", dstDevice=program.at, srcHost=bytes(60_000), ByteCount=60_000
        )
        with pytest.raises(WorkerGoneError):
            program.client.until(lambda record: record.op == "none", 30)
        assert "no connection for 1000 ms" in near.log.read_text()
        assert world.proxy.connections > 1
        world.proxy.budget = lambda: 0
        until("the session's end", world.gone)
