# SPDX-License-Identifier: Apache-2.0
"""Sessions that outlive their connections: everything is done once, and in order."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from link_proxy import FINISH, HALF, RESET, Cutting
from link_session import Far, Near, alive, children, until
from link_world import Authority
from ring_client import REPLY, WANTED, Client, WorkerGoneError

MIB = 1 << 20
COUNT = b""".version 7.0
.target sm_70
.address_size 64
.visible .entry count(.param .u64 at)
{
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [at];
    ld.global.u64 %rd2, [%rd1];
    add.s64 %rd3, %rd2, 1;
    st.global.u64 [%rd1], %rd3;
    ret;
}
"""


class World:
    """Near, a proxy that cuts, far with session files, the software GPU."""

    def __init__(
        self,
        native: Path,
        folder: Path,
        env: dict[str, str],
        *,
        resume_s: float | str = 20,
        tls: bool = False,
        options: Sequence[str] = (),
    ) -> None:
        self.native, self.folder = native, folder
        self.sessions = folder / "sessions"
        self.sessions.mkdir()
        self.file = self.sessions / "one"
        self.file.write_text(f"token-one\nresume_s={resume_s}\nWHOSE=one\n")
        far_options, self.near_options = list(options), list(options)
        if tls:
            authority = Authority(folder)
            certificate, key = authority.issue("server")
            far_options += ["--cert", str(certificate), "--key", str(key)]
            self.near_options += ["--ca", str(authority.pem)]
        self.far = Far(native, folder, env, *far_options, sessions=self.sessions)
        self.proxy = Cutting(self.far.address)
        self.nears: list[Near] = []
        self.others = 0

    def near(self, token: str = "token-one", session: str = "one") -> Near:
        """Another end beside programs."""
        place = self.folder / f"near-{len(self.nears)}"
        place.mkdir()
        (place / "token").write_text(token)
        options = ["--token-file", str(place / "token"), *self.near_options]
        near = Near(self.native, place, self.proxy.address, *options, session=session)
        self.nears.append(near)
        return near

    def worker(self) -> tuple[int, int]:
        """The one worker there is, and its session's process."""
        (found,) = [
            (pid, session)
            for session in children(self.far.process.pid)
            for pid in children(session)
        ]
        return found

    def relays(self, session: int) -> list[int]:
        """Processes of connections that are not the session's first."""
        return [pid for pid in children(self.far.process.pid) if pid != session]

    def gone(self) -> bool:
        """Nothing is left of any session."""
        return not children(self.far.process.pid)

    def close(self) -> None:
        for near in self.nears:
            near.close()
        self.far.close()
        self.proxy.close()


@pytest.fixture
def world(native_dir: Path, tmp_path: Path, soft_env: dict[str, str]) -> Iterator[World]:
    with contextlib.closing(World(native_dir, tmp_path, soft_env)) as made:
        yield made


class Program:
    """Launches that count, and bytes there and back."""

    def __init__(self, client: Client) -> None:
        self.client = client
        client.context()
        self.at = int(client.must("cuMemAlloc_v2", dptr=1, bytesize=8 * MIB)["dptr"])
        self.counter = int(client.must("cuMemAlloc_v2", dptr=1, bytesize=8)["dptr"])
        client.must("cuMemsetD8_v2", dstDevice=self.counter, uc=0, N=8)
        self.count = client.function(COUNT, "count")
        self.launched = 0

    def launch(self, times: int) -> None:
        """Nobody waits for any of them."""
        for _ in range(times):
            self.client.launch(self.count, struct.pack("<Q", self.counter), blocks=1, threads=1)
        self.launched += times

    def counted(self) -> int:
        answer = self.client.must("cuMemcpyDtoH_v2", dstHost=1, srcDevice=self.counter, ByteCount=8)
        return int.from_bytes(answer["dstHost"], "little")

    def copy(self, data: bytes) -> bytes:
        """To the device and back, through regions or in bodies."""
        client, size = self.client, len(data)
        if size <= 64 << 10:
            client.must("cuMemcpyHtoD_v2", dstDevice=self.at, srcHost=data, ByteCount=size)
            got = client.must("cuMemcpyDtoH_v2", dstHost=1, srcDevice=self.at, ByteCount=size)
            return bytes(got["dstHost"])
        there, _ = client.announce(size, data)
        client.must("cuMemcpyHtoD_v2", dstDevice=self.at, srcHost=there, ByteCount=size)
        client.done(there)
        back, offset = client.announce(size)
        client.must("cuMemcpyDtoH_v2", dstHost=back, srcDevice=self.at, ByteCount=size)
        client.done(back)
        return client.bulk(offset, size)


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_cut_anywhere(
    native_dir: Path, tmp_path: Path, soft_env: dict[str, str], tls: bool
) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    with contextlib.closing(World(native_dir, tmp_path, soft_env, tls=tls)) as world:
        program = Program(world.near().dial())
        worker = world.worker()
        # Some do not live to say hello, some break in the middle of what is sent again.
        world.proxy.budget = lambda: int(10 ** rng.uniform(2, 6.6))
        world.proxy.way = lambda: rng.choice((RESET, FINISH, HALF))
        world.proxy.cut()
        rounds = 0
        end = time.monotonic() + 60
        while world.proxy.cuts < 25 and time.monotonic() < end:
            rounds += 1
            program.launch(rng.randrange(1, 400))
            data = rng.randbytes(rng.choice((100, 60_000, MIB, 4 * MIB)))
            assert program.copy(data) == data
            assert program.counted() == program.launched
            # Replies in the order in which they were asked for, whatever breaks between them.
            seqs = [
                program.client.send(
                    "cuDeviceGetName", how=WANTED, lane=1 + n % 3, name=1, len=700, dev=0
                )
                for n in range(200)
            ]
            acks = [program.client.until(lambda r: r.flags & REPLY) for _ in seqs]
            assert sorted(record.ack for record in acks) == seqs
            for lane in (1, 2, 3):
                mine = [record.ack for record in acks if record.lane == lane]
                assert mine == sorted(mine)
        print(f"{world.proxy.cuts} cuts in {rounds} rounds")
        assert world.proxy.cuts >= 20
        assert world.worker() == worker
        program.client.close()
        until("the session's end", world.gone)
        assert world.far.process.poll() is None


def test_a_peer_that_is_half_dead_is_replaced(world: World) -> None:
    program = Program(world.near().dial())
    for _ in range(3):
        program.launch(20)
        world.proxy.cut(HALF)  # far hears nothing of it
        program.launch(20)
        assert program.counted() == program.launched
    # The session, and one relay.
    until("earlier ones' ends", lambda: len(children(world.far.process.pid)) == 2)


def test_too_long_without_a_connection(
    native_dir: Path, tmp_path: Path, soft_env: dict[str, str]
) -> None:
    with contextlib.closing(World(native_dir, tmp_path, soft_env, resume_s=1)) as world:
        near = world.near()
        program = Program(near.dial())
        worker, _ = world.worker()
        world.proxy.budget = lambda: 0
        world.proxy.cut()
        program.launch(3)
        assert alive(worker)
        with pytest.raises(WorkerGoneError):
            program.client.until(lambda record: record.op == "none", 20)
        until("memory back", lambda: not alive(worker))
        until("the session's end", world.gone)
        assert "no connection for 1000 ms" in world.far.log.read_text()
        assert "no connection for 1000 ms" in near.log.read_text()


@pytest.mark.parametrize("resume_s", [0, "-1", "3601", "nan", "2 s", ""])
def test_without_a_window_a_connection_is_all(
    native_dir: Path, tmp_path: Path, soft_env: dict[str, str], resume_s: float | str
) -> None:
    with contextlib.closing(World(native_dir, tmp_path, soft_env, resume_s=resume_s)) as world:
        program = Program(world.near().dial())
        environ = Path(f"/proc/{world.worker()[0]}/environ").read_bytes().split(b"\0")
        assert b"WHOSE=one" in environ
        assert not any(word.startswith(b"resume_s") for word in environ)
        world.proxy.cut()
        with pytest.raises(WorkerGoneError):
            program.client.until(lambda record: record.op == "none", 20)
        until("the session's end", world.gone)
        said = f"resume_s={resume_s} of session one is not 0 to 3600" in world.far.log.read_text()
        assert said == (resume_s != 0)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["near", "far", "worker"])
def test_a_death_is_no_broken_connection(
    native_dir: Path, tmp_path: Path, soft_env: dict[str, str], victim: str
) -> None:
    with contextlib.closing(World(native_dir, tmp_path, soft_env, resume_s=2)) as world:
        near = world.near()
        program = Program(near.dial())
        world.proxy.cut()
        assert program.counted() == 0  # by a relay now
        worker, session = world.worker()
        os.kill({"near": near.session(), "far": session, "worker": worker}[victim], signal.SIGKILL)
        with pytest.raises(WorkerGoneError):
            program.client.until(lambda record: record.op == "none", 20)
        until("memory back", lambda: not alive(worker))
        until("the session's end", world.gone)
        said = {"near": "", "far": "the session is here no more", "worker": "the worker has ended"}
        assert said[victim] in near.log.read_text()


def test_an_end_on_purpose_is_no_broken_connection(world: World) -> None:
    """What near is told when whoever started it has gone: nobody comes back for the session."""
    near = world.near()
    program = Program(near.dial())
    assert program.counted() == 0
    worker, _ = world.worker()
    began_s = time.monotonic()
    os.kill(near.session(), signal.SIGTERM)
    with pytest.raises(WorkerGoneError):
        program.client.until(lambda record: record.op == "none", 20)
    until("memory back", lambda: not alive(worker))
    until("the session's end", world.gone)
    assert time.monotonic() - began_s < 10  # of a window of 20 s


@pytest.mark.slow
@pytest.mark.parametrize("back", [True, False], ids=["heard", "unheard"])
def test_a_program_that_ends_meanwhile(
    native_dir: Path, tmp_path: Path, soft_env: dict[str, str], back: bool
) -> None:
    resume_s = 60 if back else 3
    with contextlib.closing(World(native_dir, tmp_path, soft_env, resume_s=resume_s)) as world:
        near = world.near()
        program = Program(near.dial())
        mine = near.session()
        world.proxy.budget = lambda: 0
        world.proxy.cut()
        program.client.close()
        if back:
            world.proxy.budget = lambda: None
        until("near's end", lambda: not alive(mine))
        until("the session's end", world.gone)


def test_a_worker_that_ends_meanwhile(world: World) -> None:
    near = world.near()
    program = Program(near.dial())
    asked = program.client.send("cuCtxSynchronize", how=WANTED)
    world.proxy.budget = lambda: 0
    until("a reply", lambda: program.client.pump() is not None)
    world.proxy.cut()
    os.kill(world.worker()[0], signal.SIGKILL)
    world.proxy.budget = lambda: None
    with pytest.raises(WorkerGoneError):
        program.client.until(lambda record: record.op == "none", 20)
    assert any(record.ack == asked for record in program.client.got)
    assert "the worker has ended; remedy" in near.log.read_text()
    until("the session's end", world.gone)


def test_a_relay_is_no_more_than_a_connection(world: World) -> None:
    program = Program(world.near().dial())
    _, session = world.worker()
    for _ in range(3):
        world.proxy.cut()
        program.launch(50)
        assert program.counted() == program.launched
        until("an earlier one's end", lambda: len(world.relays(session)) == 1)
        os.kill(world.relays(session)[0], signal.SIGKILL)
        program.launch(50)
        assert program.counted() == program.launched
    assert world.worker()[1] == session


def test_one_session_without_a_folder(
    native_dir: Path, tmp_path: Path, soft_env: dict[str, str]
) -> None:
    with (
        contextlib.closing(Far(native_dir, tmp_path, soft_env, "--resume", "20")) as far,
        Cutting(far.address) as proxy,
        contextlib.closing(
            Near(native_dir, tmp_path, proxy.address, "--token-file", str(far.token))
        ) as near,
    ):
        program = Program(near.dial())
        for way in (RESET, HALF, FINISH):
            program.launch(50)
            proxy.cut(way)
            program.launch(50)
            assert program.counted() == program.launched
        program.client.close()
        assert far.ends() == 0


def test_a_session_taken_back_meanwhile_ends_at_once(world: World) -> None:
    near = world.near()
    program = Program(near.dial())
    worker, _ = world.worker()
    world.proxy.budget = lambda: 0
    world.proxy.cut()
    until("the loss", lambda: "connection" in world.far.log.read_text())
    world.file.unlink()
    until("memory back", lambda: not alive(worker), 10)
    until("the session's end", world.gone)
    world.proxy.budget = lambda: None
    with pytest.raises(WorkerGoneError):
        program.client.until(lambda record: record.op == "none", 20)
    assert "token is not this session's" in near.log.read_text()


@pytest.mark.slow
def test_more_than_is_kept_holds_the_program_back(world: World) -> None:
    program = Program(world.near().dial())
    client, size = program.client, 60_000
    world.proxy.budget = lambda: 0
    world.proxy.cut()
    client.timeout_s = 2
    sent = 0

    def fill() -> None:
        nonlocal sent
        while True:
            data = struct.pack("<I", sent) * (size // 4)
            client.send("cuMemcpyHtoD_v2", dstDevice=program.at, srcHost=data, ByteCount=size)
            sent += 1

    with pytest.raises(AssertionError, match="no room"):
        fill()
    assert 30 * MIB < sent * size < 40 * MIB
    client.timeout_s = 30
    world.proxy.budget = lambda: None
    got = client.must("cuMemcpyDtoH_v2", dstHost=1, srcDevice=program.at, ByteCount=size)
    assert bytes(got["dstHost"]) == struct.pack("<I", sent - 1) * (size // 4)
