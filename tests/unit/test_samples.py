# SPDX-License-Identifier: Apache-2.0
"""Watch: what is in a sample, and the call itself over its socket, of a harpd without devices."""

from __future__ import annotations

import asyncio
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from metrics_cases import GIB, device, tenant

from harp.api.v1 import control_pb2 as pb
from harp.api.v1 import control_pb2_grpc
from harp.client import Client
from harp.config import AdmissionConfig
from harp.daemon import samples
from harp.daemon.answers import Answers
from harp.daemon.book import Book
from harp.daemon.fanout import MOST_OF_A_USER, Given, Looked, Tick
from harp.daemon.picture import ArbiterDevice, ArbiterTenant, Hold, Picture
from harp.daemon.samples import Sampler, Watching
from harp.daemon.service import ControlService
from harp.daemon.web import Looker
from harp.errors import (
    ArbiterError,
    ConfigError,
    DaemonError,
    DaemonUnreachable,
    QuotaExceeded,
    Unauthenticated,
)
from harp.grants import Promise
from harp.model import Client as ArbiterClient
from harp.model import ClientState, Limits, Residency, ResidencyState, TenantClass, Use
from harp.rundir import RunDir

GPU, OTHER = device(), device(1)
LIMITS = Limits(2 * GIB, 250_000, 500_000, TenantClass.LATENCY, host_bytes=7 * GIB)


class _Arbiter:
    """Counts who asks it."""

    def __init__(self) -> None:
        self.devices = {GPU.uuid: GPU, OTHER.uuid: OTHER}
        self.looks = 0
        self.gone = False

    async def look(self) -> Picture:
        self.looks += 1
        if self.gone:
            raise ArbiterError("harp-arbiter did not answer")
        residency = Residency(ResidencyState.AWAY, swap_bytes=GIB, away_ns=5, swaps=2)
        return Picture(
            {GPU.uuid: ArbiterDevice(leased_bytes=GIB, holder=1)},
            {1: ArbiterTenant(1, "t1", 1000)},
            {
                (1, GPU.uuid): Use(leased_bytes=GIB, peak_bytes=2 * GIB, used_ns=11, launches=3),
                (1, OTHER.uuid): Use(leased_bytes=5, wait_ns=7, denials=2, residency=residency),
            },
            {
                1: ArbiterClient(1, 1, 101, ClientState.LIVE, "x"),
                2: ArbiterClient(2, 1, 102, ClientState.LIVE, "y"),
                3: ArbiterClient(3, 1, 103, ClientState.DRAINING, "z"),
            },
            {
                (1, GPU.uuid): Hold(overhead_bytes=10),
                (2, GPU.uuid): Hold(overhead_bytes=20),
                (2, OTHER.uuid): Hold(overhead_bytes=40),
                (9, GPU.uuid): Hold(overhead_bytes=80),  # of nobody who is known
            },
        )


class _Book(Book):
    """The real one, whose arbiter is none."""

    def __init__(self) -> None:
        nothing = cast("Any", None)
        super().__init__(nothing, nothing, Path("/"), AdmissionConfig())
        self.arbiter = _Arbiter()
        self._arbiter = cast("Any", self.arbiter)
        self.devices = self.arbiter.devices
        made = tenant(1, "t1", LIMITS, GPU, OTHER)
        self.tenants[1] = replace(made, created_s=5.0, suspended=True)


def _harpd() -> Any:
    return SimpleNamespace(
        used_bytes={GPU.uuid: 3 * GIB},
        physical_bytes=lambda _uuid: 9 * GIB,
        used_ratio=lambda _tenant, uuid: (0.25, 10.0) if uuid == GPU.uuid else (0.5, 4.0),
        evaders=SimpleNamespace(uncovered={}),
    )


def test_a_sample_says_what_the_state_says() -> None:
    book, harpd = _Book(), _harpd()
    sample = asyncio.run(Sampler(book, harpd).sample())
    assert sample.problem == ""
    assert abs(sample.now_s - time.time()) < 60
    assert 0 <= time.monotonic_ns() - sample.at_ns < 60 * 10**9
    answers = Answers(book, harpd)
    assert list(sample.devices) == [answers.device(d, book.picture) for d in (GPU, OTHER)]
    (seen,) = sample.tenants
    state = answers.tenant(book.tenants[1], book.picture)
    for name in pb.TenantSample.DESCRIPTOR.fields_by_name:
        if name != "processes":
            assert getattr(seen, name) == getattr(state, name), name
    assert seen.processes == 2
    assert [use.overhead_bytes for use in seen.uses] == [30, 40]
    assert seen.uses[1].residency.swaps == 2
    assert seen.window_s == 4


def test_a_user_s_name_is_looked_up_once_while_he_has_tenants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    book, asked = _Book(), list[int]()

    def named(uid: int) -> str:
        asked.append(uid)
        return f"u{len(asked)}"

    monkeypatch.setattr(samples, "user_name", named)
    sampler = Sampler(book, _harpd())
    assert [asyncio.run(sampler.sample()).tenants[0].user for _ in range(3)] == ["u1"] * 3
    gone = book.tenants.pop(1)
    asyncio.run(sampler.sample())
    book.tenants[1] = gone
    assert asyncio.run(sampler.sample()).tenants[0].user == "u2"
    assert asked == [gone.uid] * 2


def test_the_page_s_look_asks_once_for_what_is_the_same_for_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    book, harpd = _Book(), _harpd()
    for number in range(2, 40):
        book.tenants[number] = replace(book.tenants[1], tenant_id=number, name=f"t{number}")
    asked: list[object] = []
    promises = book.promises

    def counted(picture: Picture, without: int = 0) -> dict[str, list[Promise]]:
        asked.append("promises")
        return promises(picture, without)

    def named(uid: int) -> str:
        asked.append(uid)
        return "ann"

    monkeypatch.setattr(book, "promises", counted)
    monkeypatch.setattr("harp.daemon.web.user_name", named)
    monkeypatch.setattr("harp.daemon.answers.user_name", named)
    look = Looker(book, harpd)
    told = asyncio.run(look())
    uid = book.tenants[1].uid
    assert asked == ["promises", uid]
    assert asyncio.run(look()).tenants == told.tenants
    assert asked == ["promises", uid, "promises"]
    answers = Answers(book, harpd)
    assert list(told.devices) == [answers.device(d, book.picture) for d in (GPU, OTHER)]
    assert list(told.tenants) == [answers.tenant(t, book.picture) for t in book.tenants.values()]
    assert len(told.tenants[0].clients) == 3
    assert not told.tenants[1].clients


def test_an_arbiter_that_is_away_is_said_and_what_was_known_stays() -> None:
    book = _Book()
    sampler = Sampler(book, _harpd())

    async def two() -> tuple[pb.Sample, pb.Sample]:
        before = await sampler.sample()
        book.arbiter.gone = True
        return before, await sampler.sample()

    before, after = asyncio.run(two())
    assert after.problem == "harp-arbiter did not answer"
    assert after.tenants == before.tenants
    assert after.at_ns > before.at_ns


class _Harpd:
    """The control API of a daemon, in a thread."""

    def __init__(self, run_dir: RunDir, look: Callable[[], Any] | None = None) -> None:
        self.book = _Book()
        self.watching = Watching(look or Sampler(self.book, _harpd()).sample)
        self.token = "t"
        self._run_dir = run_dir
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._ready.wait(10)

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        service = ControlService.__new__(ControlService)
        service._watching = self.watching
        service._auth = cast("Any", SimpleNamespace(uid_of=self._uid_of))
        server = grpc.aio.server()
        control_pb2_grpc.add_ControlServicer_to_server(service, server)
        server.add_insecure_port(f"unix:{self._run_dir.control}")
        await server.start()
        keeping = asyncio.create_task(self.watching.keep())
        self._ready.set()
        await self._end.wait()
        keeping.cancel()
        await asyncio.wait([keeping])
        await server.stop(30)  # streams that do not end by themselves are heard of

    def _uid_of(self, token: str) -> int:
        if token != self.token:
            raise Unauthenticated("unknown token")
        return 1000

    def watchers(self) -> int:
        return len(self.watching._state.watchers)

    def seats(self) -> int:
        return len(self.watching._seats)

    def stop(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(20)
        assert not self._thread.is_alive(), "a stream did not end"


@contextmanager
def _serving(look: Callable[[], Any] | None = None) -> Iterator[tuple[_Harpd, RunDir]]:
    with tempfile.TemporaryDirectory(prefix="hs-") as folder:
        run_dir = RunDir(Path(folder))
        harpd = _Harpd(run_dir, look)
        try:
            yield harpd, run_dir
        finally:
            harpd.stop()


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "_ask", lambda *_: {"token": "t"})


def _until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_however_many_watch_the_arbiter_is_asked_once() -> None:
    with _serving() as (harpd, run_dir), Client(run_dir) as client:
        watches = [client.watch(50) for _ in range(5)]
        assert all(next(watch).sample.tenants[0].name == "t1" for watch in watches)
        before, begun_s, of = harpd.book.arbiter.looks, time.monotonic(), Counter[int]()
        for _ in range(8):
            of.update(next(watch).sample.at_ns for watch in watches)
        looks, took_s = harpd.book.arbiter.looks - before, time.monotonic() - begun_s
        # Each look is told apart by its time. Five that looked for themselves would make 40, in as
        # long; on a slow machine each may miss others.
        assert looks <= took_s / 0.050 + 2
        assert max(of.values()) > 1
        for watch in watches:
            watch.close()
        _until(lambda: harpd.watchers() == 0)
        _until(lambda: harpd.seats() == 0)
        still = harpd.book.arbiter.looks
        time.sleep(0.2)
        assert harpd.book.arbiter.looks == still


def test_a_slow_reader_gets_what_is_new_and_is_told_what_it_missed() -> None:
    with _serving() as (harpd, run_dir), Client(run_dir) as client:
        watch = client.watch(10)
        next(watch)
        time.sleep(1.0)
        next(watch)  # was on its way all the while
        late = next(watch)
        assert time.monotonic_ns() - late.sample.at_ns < 500_000_000
        assert 20 <= late.dropped <= harpd.book.arbiter.looks
        time.sleep(0.2)  # it is being written to again
        watch.close()
        _until(lambda: harpd.seats() == 0)


def test_an_interval_out_of_range_is_refused_over_the_wire() -> None:
    with _serving() as (_, run_dir), Client(run_dir) as client:
        with pytest.raises(ConfigError, match="5 ms is not one of 10 to 1000 ms"):
            next(client.watch(5))
        assert next(client.watch()).dropped == 0


def test_who_goes_makes_room_for_another() -> None:
    with _serving() as (harpd, run_dir), Client(run_dir) as client:
        watches = [client.watch(1000) for _ in range(MOST_OF_A_USER)]
        for watch in watches:
            next(watch)
        with pytest.raises(QuotaExceeded, match="of uid 1000") as error:
            next(client.watch(1000))
        assert error.value.hint
        watches[3].close()
        _until(lambda: harpd.watchers() == MOST_OF_A_USER - 1)
        next(client.watch(1000))


def test_streams_end_when_harpd_does() -> None:
    with _serving() as (harpd, run_dir), Client(run_dir) as client:
        watch = client.watch(10)
        next(watch)
        stopping = threading.Thread(target=harpd.stop)
        stopping.start()
        assert len(list(watch)) < 100  # and it is no error
        stopping.join()


@pytest.mark.parametrize("turns", range(6))
def test_streams_end_although_somebody_goes_that_moment(turns: int) -> None:
    async def run() -> None:
        watching = Watching(Sampler(_Book(), _harpd()).sample)
        stays, goes = watching.join(1000, 1000), watching.join(1000, 1000)
        keeping = asyncio.create_task(watching.keep())
        await anext(stays)  # and it waits for the next beat
        await asyncio.sleep(0.01)
        goes.leave()
        for _ in range(turns):
            await asyncio.sleep(0)
        keeping.cancel()
        ended, _ = await asyncio.wait([keeping], timeout=10)
        assert ended == {keeping}
        with pytest.raises(StopAsyncIteration):
            await anext(stays)

    asyncio.run(run())


def test_closing_the_client_ends_a_watch_in_another_thread() -> None:
    with _serving() as (_, run_dir):
        client = Client(run_dir)
        with futures.ThreadPoolExecutor(1) as pool:
            begun = threading.Event()

            def read() -> None:
                for _ in client.watch(1000):
                    begun.set()

            reading = pool.submit(read)
            assert begun.wait(10)
            client.close()
            with pytest.raises(DaemonUnreachable):
                reading.result(10)


def test_a_token_of_the_harpd_before_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    with _serving() as (harpd, run_dir), Client(run_dir) as client:
        harpd.token = "new"
        with pytest.raises(Unauthenticated):
            next(client.watch())
        monkeypatch.setattr(Client, "_ask", lambda *_: {"token": "new"})
        next(client.watch())


def test_a_sample_that_cannot_be_made_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "_log", SimpleNamespace(exception=lambda _event: None))
    looks = 0

    async def look() -> pb.Sample:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise ZeroDivisionError("of ours")
        return pb.Sample(at_ns=looks)

    with _serving(look) as (_, run_dir), Client(run_dir) as client:
        watch = client.watch(10)
        found = [next(watch).sample for _ in range(3)]
    assert [sample.problem for sample in found] == [
        "",
        "harpd failed: ZeroDivisionError: of ours",
        "",
    ]


def test_an_older_harpd_says_so() -> None:
    with tempfile.TemporaryDirectory(prefix="hs-") as folder:
        run_dir = RunDir(Path(folder))
        server = grpc.server(futures.ThreadPoolExecutor(1))
        control_pb2_grpc.add_ControlServicer_to_server(control_pb2_grpc.ControlServicer(), server)
        server.add_insecure_port(f"unix:{run_dir.control}")
        server.start()
        try:
            with Client(run_dir) as client, pytest.raises(DaemonError, match="older") as error:
                next(client.watch())
            assert "harp daemon --upgrade" in error.value.hint
        finally:
            server.stop(None).wait()


def test_what_is_written_between_two_looks_counts_as_well() -> None:
    clock_ns = 1_000_000_000
    watching = Watching(Sampler(_Book(), _harpd()).sample, lambda: clock_ns)

    async def run() -> None:
        nonlocal clock_ns
        seat = watching.join(1000, 10)
        first = asyncio.create_task(anext(seat))
        await asyncio.sleep(0)
        for _ in range(2):  # it takes the first, and the other waits for it
            clock_ns += 10_000_000
            assert watching.step(Tick())
            watching.step(Looked(pb.WatchSamplesReply(sample=pb.Sample())))
            watching.step(Given())
            await asyncio.sleep(0)
        assert first.done()
        clock_ns += 1_000_000
        await anext(seat)
        clock_ns += 7_000_000  # it writes
        await asyncio.sleep(0)
        assert watching._state.rest_ns == clock_ns + 3 * 7_000_000

    asyncio.run(run())


def test_what_writing_takes_counts_as_looking_does() -> None:
    """However many read as fast as they can, harpd has three quarters of its time for others."""
    watching = Watching(Sampler(_Book(), _harpd()).sample)
    begun: list[float] = []
    enough = asyncio.Event()

    async def read(seat: samples.Seat) -> None:
        async for _ in seat:
            time.sleep(0.005)  # noqa: ASYNC251 - as long as a large message takes to be written

    async def run() -> None:
        look = watching._look

        async def looked() -> pb.Sample:
            begun.append(time.monotonic())
            if len(begun) == 6:
                enough.set()
            return await look()

        watching._look = looked
        readers = [asyncio.create_task(read(watching.join(1000, 10))) for _ in range(4)]
        await asyncio.sleep(0)
        keeping = asyncio.create_task(watching.keep())
        await enough.wait()
        keeping.cancel()
        await asyncio.wait([keeping, *readers])

    asyncio.run(run())
    # Four times what the readers take, and those of the last look are not counted.
    assert begun[5] - begun[0] >= 5 * 4 * 0.020
