# SPDX-License-Identifier: Apache-2.0
"""Host bytes spread over several connections: all of them arrive, whichever connections break."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from link_proxy import FINISH, HALF, RESET
from link_session import alive, children, until
from ring_client import WANTED, Client
from test_link_resume import MIB, Program, World

PIECE = 4 * MIB  # a fourth of the bulk area: what libharp makes of a larger copy
AT_ONCE = 4


def spread(others: int) -> list[str]:
    return ["--bulk-streams", str(others)]


@contextlib.contextmanager
def linked(
    native: Path, folder: Path, env: dict[str, str], others: int, **how: object
) -> Iterator[World]:
    """Near, a proxy, far: `others` connections beside that of the session."""
    with contextlib.closing(World(native, folder, env, options=spread(others), **how)) as world:
        world.others = others
        yield world


def copy_there(client: Client, at: int, data: bytes) -> None:
    """As libharp does it: pieces, several of them under way, and only the last is waited for."""
    moving = []
    for start in range(0, len(data), PIECE):
        if len(moving) == AT_ONCE:
            client.done(moving.pop(0))
        part = data[start : start + PIECE]
        transfer, _ = client.announce(len(part), part)
        last = start + PIECE >= len(data)
        client.send(
            "cuMemcpyHtoD_v2",
            how=WANTED if last else 0,
            dstDevice=at + start,
            srcHost=transfer,
            ByteCount=len(part),
        )
        moving.append(transfer)
    for transfer in moving:
        client.done(transfer)


def copy_back(client: Client, at: int, size: int) -> bytes:
    got, moving = bytearray(size), []

    def take() -> None:
        start, length, transfer, offset = moving.pop(0)
        client.done(transfer)
        got[start : start + length] = client.bulk(offset, length)

    for start in range(0, size, PIECE):
        if len(moving) == AT_ONCE:
            take()
        length = min(PIECE, size - start)
        transfer, offset = client.announce(length)
        client.send("cuMemcpyDtoH_v2", dstHost=transfer, srcDevice=at + start, ByteCount=length)
        moving.append((start, length, transfer, offset))
    while moving:
        take()
    return bytes(got)


def alloc(program: Program, size: int) -> int:
    return int(program.client.must("cuMemAlloc_v2", dptr=1, bytesize=size)["dptr"])


def ready(world: World, program: Program) -> None:
    """All connections are there, and in use."""
    data = bytes(PIECE)
    end = time.monotonic() + 20
    while world.proxy.connections <= world.others or min(world.proxy.carried()) < MIB:
        assert program.copy(data) == data
        assert time.monotonic() < end, world.proxy.carried()


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("others", [0, 2, 4])
def test_copies_arrive_whole(
    native_dir: Path, tmp_path: Path, soft_env: dict[str, str], others: int, tls: bool
) -> None:
    with linked(native_dir, tmp_path, soft_env, others, tls=tls) as world:
        program = Program(world.near().dial())
        ready(world, program)
        data = random.Random(others).randbytes(64 * MIB)
        at = alloc(program, len(data))
        before = world.proxy.carried()
        copy_there(program.client, at, data)
        there = [n - was for n, was in zip(world.proxy.carried(), before, strict=True)]
        assert copy_back(program.client, at, len(data)) == data
        both = [n - was for n, was in zip(world.proxy.carried(), before, strict=True)]
        back = [n - was for n, was in zip(both, there, strict=True)]
        for way in (there, back):
            print("MiB by connection:", [n // MIB for n in way])
            assert 64 * MIB <= sum(way) < 66 * MIB  # each byte once
            assert len(way) == 1 + others
            assert all(n > MIB for n in way)
        # More than may be under way: what was taken in is said.
        assert others == 0 or sum(there[1:]) + sum(back[1:]) > 2 * 17 * MIB


def both_ways(program: Program, data: bytes) -> None:
    """There and back, in pieces."""
    at = alloc(program, len(data))
    copy_there(program.client, at, data)
    assert copy_back(program.client, at, len(data)) == data
    program.client.must("cuMemFree_v2", dptr=at)


@pytest.mark.slow
@pytest.mark.parametrize("way", [RESET, FINISH, HALF])
def test_the_session_goes_on_without_them(
    native_dir: Path, tmp_path: Path, soft_env: dict[str, str], way: str
) -> None:
    """And has no need to resume for that: it is not even allowed to."""
    with linked(native_dir, tmp_path, soft_env, 3, resume_s=0) as world:
        # One breaks when the first bytes go there, one on the way back, one does not begin.
        lasts = iter([None, 3 * MIB, 25 * MIB, 300])
        world.proxy.budget, world.proxy.way = lambda: next(lasts), lambda: way
        near = world.near()
        program = Program(near.dial())
        until("all of them", lambda: world.proxy.connections == 4)
        for _ in range(3):
            both_ways(program, random.randbytes(64 * MIB))
        assert world.proxy.cuts >= 3
        assert near.log.read_text().count("a stream of Bulk has ended") >= 2
        assert "host bytes go on 1 now" in near.log.read_text()
        assert program.counted() == 0
        until("far's end of them", lambda: len(children(world.far.process.pid)) == 1)


@pytest.mark.slow
def test_one_after_the_other_is_killed(
    native_dir: Path, tmp_path: Path, soft_env: dict[str, str]
) -> None:
    """Processes that relay, at either end, while bytes go through them."""
    with linked(native_dir, tmp_path, soft_env, 4) as world:
        near = world.near()
        program = Program(near.dial())
        ready(world, program)
        _, session = world.worker()
        at = alloc(program, 16 * MIB)
        for left in (3, 2, 1, 0):
            ours, theirs = children(near.session()), world.relays(session)
            assert len(ours) == len(theirs) == left + 1
            data = random.randbytes(16 * MIB)
            moving = program.client.announce(PIECE, data[:PIECE])[0]
            program.client.send("cuMemcpyHtoD_v2", dstDevice=at, srcHost=moving, ByteCount=PIECE)
            os.kill(ours[0] if left % 2 else theirs[0], signal.SIGKILL)
            program.client.done(moving)
            assert copy_back(program.client, at, PIECE) == data[:PIECE]
            copy_there(program.client, at, data)
            assert copy_back(program.client, at, len(data)) == data
            until("its other end", lambda n=left: len(children(near.session())) == n)
            until("its other end", lambda n=left: len(world.relays(session)) == n)
        assert world.worker()[1] == session
        assert "host bytes go on 1 now" in near.log.read_text()


@pytest.mark.parametrize("victim", ["program", "near", "far"])
def test_nothing_is_left_of_them(
    native_dir: Path, tmp_path: Path, soft_env: dict[str, str], victim: str
) -> None:
    with linked(native_dir, tmp_path, soft_env, 2, resume_s=1) as world:
        near = world.near()
        program = Program(near.dial())
        ready(world, program)
        mine = near.session()
        relays = children(mine)
        _, session = world.worker()
        assert len(relays) == 2
        if victim == "program":
            program.client.close()
        else:
            os.kill(mine if victim == "near" else session, signal.SIGKILL)
        until("near's end", lambda: not any(map(alive, [mine, *relays])))
        until("far's end", world.gone)


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_the_session_is_cut_while_bytes_are_spread(
    native_dir: Path, tmp_path: Path, soft_env: dict[str, str], tls: bool
) -> None:
    """Everything is done once: launches that count, among copies that go on other connections."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with linked(native_dir, tmp_path, soft_env, 2, tls=tls) as world:
        come = itertools.count()
        world.proxy.budget = lambda: None if next(come) < 3 else int(10 ** rng.uniform(3.5, 7))
        world.proxy.way = lambda: rng.choice((RESET, FINISH, HALF))
        program = Program(world.near().dial())
        ready(world, program)
        worker = world.worker()
        at = alloc(program, 24 * MIB)
        world.proxy.cut_one(0)
        end = time.monotonic() + 60
        while world.proxy.cuts < 15 or min(world.proxy.carried()[1:3]) < 10 * MIB:
            assert time.monotonic() < end, world.proxy.carried()[:3]
            data = rng.randbytes(rng.choice((MIB, 5 * MIB, 24 * MIB)))
            program.launch(rng.randrange(1, 100))
            copy_there(program.client, at, data)
            program.launch(rng.randrange(1, 100))
            assert copy_back(program.client, at, len(data)) == data
            assert program.counted() == program.launched
        assert world.worker() == worker
        program.client.close()
        until("the session's end", world.gone)


@pytest.mark.slow
def test_any_of_them_is_cut(native_dir: Path, tmp_path: Path, soft_env: dict[str, str]) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with linked(native_dir, tmp_path, soft_env, 4, resume_s=60) as world:
        world.proxy.budget = lambda: int(10 ** rng.uniform(5.5, 7.5))
        world.proxy.way = lambda: rng.choice((RESET, FINISH, HALF))
        program = Program(world.near().dial())
        for _ in range(3):
            both_ways(program, rng.randbytes(40 * MIB))
            program.launch(10)
            assert program.counted() == program.launched
        assert world.proxy.cuts >= 5
