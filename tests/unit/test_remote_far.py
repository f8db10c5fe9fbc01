# SPDX-License-Identifier: Apache-2.0
"""The data side's process as its keeper hears it; sessions' files and locks. A program plays it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest

from harp.errors import DaemonError, DaemonUnreachable
from harp.metrics import Carried
from harp.remote import far as module
from harp.remote import workers as workers_module
from harp.remote.events import Lease, Session
from harp.remote.far import Far, FarOptions
from harp.remote.traffic import Traffic
from harp.remote.workers import Workers

#: says what FOLDER/say holds, once it is there; dies with 3 where FOLDER/die is; writes its argv
PROGRAM = """#!{python}
import os, select, signal, sys, time
folder = {folder!r}
signal.signal(signal.SIGUSR2, lambda *_: open(folder + "/read", "a").close())
with open(folder + "/argv", "a") as out:
    print(*sys.argv[1:], file=out)
if os.path.exists(folder + "/mute"):
    sys.exit(1)
print("ready", 4711, flush=True)
while not select.select([0], [], [], 0.02)[0]:
    for name in ("say", "die"):
        path = folder + "/" + name
        if os.path.exists(path):
            print(open(path).read(), end="", flush=True)
            os.remove(path)
            if name == "die":
                sys.exit(3)
with open(folder + "/orderly", "w"):
    pass
"""
ANN = Lease("l", "ann", b"", "", 60, 60, 4)


class NoTenants:
    """Of leases whose workers hold nothing."""

    def names(self) -> frozenset[str]:
        return frozenset({"train-l"})

    def name_of(self, _lease_id: str) -> str:
        return "train-l"

    def environment(self, lease_id: str) -> Mapping[str, str]:
        assert lease_id == "l"
        return {"HARP_GRANT": "/g"}

    async def clients(self, _lease_id: str) -> dict[int, int]:
        return {}

    async def all_clients(self) -> dict[int, int]:
        return {}


def session(name: str = "s", *, by_token: bool = False) -> Session:
    return Session(name, "l", b"", "p", 10, by_token)


def program(folder: Path) -> Path:
    path = folder / "far"
    path.write_text(PROGRAM.format(python=sys.executable, folder=str(folder)))
    path.chmod(0o700)
    return path


@contextlib.asynccontextmanager
async def kept(
    folder: Path, traffic: Traffic | None = None
) -> AsyncIterator[tuple[Far, list[str]]]:
    ended: list[str] = []
    sessions = folder / "sessions"
    sessions.mkdir()
    options = FarOptions(
        program(folder), ("worker",), sessions, "127.0.0.1", 0, {"cert": Path("/c")}, {"A": "1"}, 3
    )
    made = Far(options, ended.append, traffic or Traffic())
    await made.start()
    keeping = asyncio.create_task(made.keep())
    try:
        yield made, ended
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.01)


def test_it_is_told_to_read_its_certificate_again_and_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path) as (far, ended):
            pid = far.pid
            far.read_again()
            await until((tmp_path / "read").exists)
            (tmp_path / "say").write_text("ended a\n")
            await until(lambda: ended == ["a"])
            assert far.pid == pid
        far.read_again()  # there is none

    asyncio.run(main())


def test_it_says_who_came_and_who_is_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path) as (far, ended):
            assert (far.up, far.port) == (True, 4711)
            (tmp_path / "say").write_text("began a 12\nbegan b 13\nnonsense\nended a\n")
            await until(lambda: ended == ["a"])
            assert far.running == {"b": 13}
        await until((tmp_path / "orderly").exists)
        assert not far.up
        assert (tmp_path / "argv").read_text().split("\n")[0] == (
            f"far --listen 127.0.0.1:0 --sessions {tmp_path}/sessions --attended --traffic"
            " --bulk-streams 3 --cert /c -- worker"
        )

    asyncio.run(main())


def test_what_sessions_carry_is_counted_while_they_live_and_after(tmp_path: Path) -> None:
    async def main() -> None:
        traffic = Traffic()
        async with kept(tmp_path, traffic) as (far, ended):
            workers = Workers(NoTenants(), far, None, "n1", traffic)  # type: ignore[arg-type]
            await workers.start(ANN, session(), "token")
            said = "began s 12\ntraffic s 10 20 300\ntraffic s 15 50 0\ntraffic s x\nended s\n"
            (tmp_path / "say").write_text(said)
            await until(lambda: ended == ["s"])
            seen = traffic.seen({"train-l"})
            assert seen.carried == Carried(15, 50)
            assert seen.by_tenant == {"train-l": Carried(15, 50)}
            assert sum(seen.round_trips) == 1

    asyncio.run(main())


def test_its_death_ends_all_and_another_takes_its_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AGAIN_S", 0.01)

    async def main() -> None:
        async with kept(tmp_path) as (far, ended):
            first = far.pid
            (tmp_path / "mute").write_text("")  # nor does the next one begin
            (tmp_path / "die").write_text("began a 12\nbegan b 13\n")
            await until(lambda: sorted(ended) == ["a", "b"])
            assert far.running == {}
            await until(lambda: len((tmp_path / "argv").read_text().splitlines()) > 2)
            assert not far.up
            workers = Workers(NoTenants(), far, None, "n1", Traffic())  # type: ignore[arg-type]
            with pytest.raises(DaemonUnreachable, match="started again"):
                await workers.start(ANN, session(), "s.t")
            (tmp_path / "mute").unlink()
            await until(lambda: far.up)
            assert far.pid != first
            assert "--listen 127.0.0.1:4711" in (tmp_path / "argv").read_text().splitlines()[-1]

    asyncio.run(main())


def test_one_that_does_not_begin_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "mute").write_text("")
        options = FarOptions(program(tmp_path), ("worker",), tmp_path, "127.0.0.1", 7)
        with pytest.raises(DaemonError, match=r"does not listen at 127\.0\.0\.1:7"):
            await Far(options, lambda _session: None, Traffic()).start()

    asyncio.run(main())


def test_a_session_is_a_file_for_us_alone_that_goes_when_it_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path) as (far, _):
            workers = Workers(NoTenants(), far, None, "n1", Traffic())  # type: ignore[arg-type]
            worker = await workers.start(ANN, session(), "s.t")
            assert (worker.endpoint, worker.bulk_streams) == ("n1:4711", 3)
            assert "--bulk-streams 3 " in (tmp_path / "argv").read_text().splitlines()[-1]
            (path,) = far.options.sessions.iterdir()
            assert (path.name, path.read_text()) == ("s", "s.t\nresume_s=10.000\nHARP_GRANT=/g\n")
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert await workers.held() == {"s": 0}
            assert await workers.end(session(), "it was detached") == 0
            assert list(far.options.sessions.iterdir()) == []
            assert await workers.held() == {}

    asyncio.run(main())


def test_an_end_waits_for_who_serves_the_session_also_when_it_is_asked_twice(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with kept(tmp_path) as (far, _):
            workers = Workers(NoTenants(), far, None, "n1", Traffic())  # type: ignore[arg-type]
            await workers.start(ANN, session(), "s.t")
            fd = os.open(far.options.sessions / "s", os.O_RDONLY)
            fcntl.flock(fd, fcntl.LOCK_EX)
            first = asyncio.create_task(workers.end(session(), "x"))
            await until(lambda: not list(far.options.sessions.iterdir()))
            first.cancel()  # as Seats does when the node stops
            await asyncio.gather(first, return_exceptions=True)
            again = asyncio.create_task(workers.end(session(), "the node stops"))
            await asyncio.sleep(0.2)
            assert not again.done()
            os.close(fd)
            assert await again == 0
            assert await workers.end(session(), "x") == 0

    asyncio.run(main())


def test_a_harpd_that_hangs_does_not_keep_a_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "_ASK_S", 0.2)

    class Hanging(NoTenants):
        async def clients(self, _lease_id: str) -> dict[int, int]:
            await asyncio.Event().wait()
            return {}

    async def main() -> None:
        async with kept(tmp_path) as (far, _):
            workers = Workers(Hanging(), far, None, "n1", Traffic())  # type: ignore[arg-type]
            for cancelled in (False, True):
                await workers.start(ANN, session(), "s.t")
                far.running["s"] = 1
                end = asyncio.create_task(workers.end(session(), "x"))
                if cancelled:
                    await asyncio.sleep(0)
                    end.cancel()
                    await asyncio.gather(end, return_exceptions=True)
                    assert list(far.options.sessions.iterdir()) == []
                    end = asyncio.create_task(workers.end(session(), "x"))
                assert await asyncio.wait_for(end, 10) == 0
                assert list(far.options.sessions.iterdir()) == []

    asyncio.run(main())


def test_who_has_no_certificate_is_sent_to_a_port_of_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "other").mkdir()
        async with kept(tmp_path) as (far, _), kept(tmp_path / "other") as (token_far, _):
            token_far.port = 4712
            workers = Workers(NoTenants(), far, token_far, "[::1]", Traffic())  # type: ignore[arg-type]
            worker = await workers.start(ANN, session("t", by_token=True), "t.t")
            assert worker.endpoint == "[::1]:4712"
            assert [p.name for p in token_far.options.sessions.iterdir()] == ["t"]
            assert list(far.options.sessions.iterdir()) == []
            await workers.end(session("t"), "x")
            assert list(token_far.options.sessions.iterdir()) == []

    asyncio.run(main())
