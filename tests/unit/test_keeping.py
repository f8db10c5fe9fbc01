# SPDX-License-Identifier: Apache-2.0
"""Who keeps leases for containers, against a node in this process; programs play harp-link."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from remote_world import TABLE, World, node, now, pool, serving

from harp.cli.remote_keep import _pages
from harp.errors import ConfigError
from harp.keep_wire import (
    BOXES,
    SESSIONS,
    SOCKET,
    Held,
    Hold,
    Look,
    Looked,
    Refused,
    Release,
    Released,
)
from harp.metrics import Carried
from harp.model import Limits
from harp.native import NativeDir
from harp.procs import read
from harp.remote import authority, renewing
from harp.remote.certificate import Kind
from harp.remote.keeping import Keeper, Pool
from harp.remote.trust import load
from harp.remote.who import Who

#: writes into its sessions' folder that it was told to read its certificate again
LINK = """#!{python}
import os, signal, socket, sys
given = dict(zip(sys.argv[2::2], sys.argv[3::2]))
def again(*_):
    with open(given["--socket"] + ".read", "a") as out:
        print("again", file=out)
signal.signal(signal.SIGUSR2, again)
sock = socket.socket(socket.AF_UNIX)
sock.bind(given["--socket"])
os.write(1, b"ready\\n")
while True:
    signal.pause()
"""
#: has a session that says what it carried, and again when the listener has ended
CARRIES = LINK.replace(
    "while True:",
    """here = os.getpid()
if os.fork() == 0:
    os.write(1, b"traffic s 10 1 0\\n")
    while os.getppid() == here:
        time.sleep(0.01)
    time.sleep(0.2)
    os.write(1, b"traffic s 30 2 0\\n")
    sys.exit()
while True:""",
).replace("import os,", "import os, time,")
LIMITS = Limits(share_ppm=100_000, limit_ppm=100_000)


@dataclass
class There:
    keeper: Keeper
    world: World
    run_dir: Path
    running: contextlib.AsyncExitStack

    async def end(self) -> None:
        """End the keeper, and not its pool."""
        await self.running.aclose()

    def box(self, key: str) -> Path:
        (box := self.run_dir / BOXES / key).mkdir(parents=True, exist_ok=True)
        return box

    async def hold(self, key: str) -> Held | Refused:
        self.box(key)
        answer = await self.keeper.do(Hold(key, f"ns/{key}/main", 0, LIMITS))
        assert isinstance(answer, Held | Refused)
        return answer

    @property
    def links(self) -> list[int]:
        return [kept.link for kept in self.keeper._kept.values()]


@pytest.fixture(autouse=True)
def same_table(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("taking", "holder"):
        monkeypatch.setattr(f"harp.remote.{module}.own_table", lambda: TABLE)


@contextlib.asynccontextmanager
async def keeping(
    folder: Path, who: Who | None = None, base: Path | None = None, link: str = LINK
) -> AsyncIterator[There]:
    program = folder / "harp-link"
    program.write_text(link.format(python=sys.executable))
    program.chmod(0o700)
    run_dir = folder / "r"
    at = node(base) if base is not None else None
    async with serving(at, node_id="gpu-1") as world:
        client_dir = base / "client-ann" if base is not None else None
        where = Pool([world.endpoint], client_dir, who or Who(None, "", print))
        keeper = Keeper(run_dir, NativeDir(folder), where, os.environ)
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(keeper.running())
            yield There(keeper, world, run_dir, stack)


def told(folder: Path, ask: Callable[[There], Awaitable[None]], **more: Any) -> None:
    async def main() -> None:
        async with keeping(folder, **more) as there:
            await asyncio.wait_for(ask(there), 60)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0.01)


def test_of_what_was_given_back_nothing_is_left(tmp_path: Path) -> None:
    async def ask(there: There) -> None:
        assert isinstance(answer := await there.hold("a"), Held), answer
        (link,) = there.links
        assert await there.keeper.do(Release("a")) == Released(was=True)
        for number in range(50):  # whatever a plugin asks for
            assert await there.keeper.do(Release(f"b{number}")) == Released(was=False)
        assert len(there.keeper._turns) == 0
        assert await there.keeper.do(Look()) == Looked(())
        assert list((there.run_dir / SESSIONS).iterdir()) == []
        assert not read(link)
        assert there.world.room._held == {}

    told(tmp_path, ask)


def test_who_asks_twice_at_once_has_one_lease(tmp_path: Path) -> None:
    async def ask(there: There) -> None:
        one, other, gone = await asyncio.gather(
            there.hold("a"), there.hold("a"), there.keeper.do(Release("a"))
        )
        assert isinstance(one, Held)
        assert one.lease
        assert one == other
        assert gone == Released(was=True)
        assert len(there.keeper._turns) == 0
        assert there.world.room._held == {}

    told(tmp_path, ask)


def test_of_one_that_was_refused_nothing_is_left(tmp_path: Path) -> None:
    async def ask(there: There) -> None:
        there.world.room.devices = ()
        refused = await there.hold("a")
        assert isinstance(refused, Refused)
        no_box = await there.keeper.do(Hold("c", "n", 0, LIMITS))
        assert isinstance(no_box, Refused)
        assert "is not there" in no_box.error.message
        assert len(there.keeper._turns) == 0
        assert there.keeper._kept == {}
        assert list((there.run_dir / SESSIONS).iterdir()) == []

    told(tmp_path, ask)


def test_one_whose_harp_link_has_died_is_given_back(tmp_path: Path) -> None:
    async def ask(there: There) -> None:
        await there.hold("a")
        os.kill(there.links[0], signal.SIGKILL)
        await until(lambda: there.keeper._kept == {})
        assert list((there.run_dir / SESSIONS).iterdir()) == []
        await until(lambda: there.world.room._held == {})

    told(tmp_path, ask)


def test_what_a_session_says_as_it_ends_is_heard_and_then_it_is_forgotten(tmp_path: Path) -> None:
    async def ask(there: There) -> None:
        traffic = there.keeper.traffic
        await there.hold("a")
        await until(lambda: traffic.seen().carried == Carried(10, 1))
        assert await there.keeper.do(Release("a")) == Released(was=True)
        assert traffic.seen().carried == Carried(30, 2)
        assert traffic._sessions == {}, "nobody says any more that it has ended"

    told(tmp_path, ask, link=CARRIES)


def test_it_says_whether_it_can_be_asked(tmp_path: Path) -> None:
    def page(port: int) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as told:
                return told.status, told.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    async def ask(there: There) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        nobody = Who(None, "", print)
        async with _pages(there.keeper, nobody, "127.0.0.1", port):
            assert await asyncio.to_thread(page, port) == (200, "ok\n")
            path = there.run_dir / SOCKET
            path.rename(there.run_dir / "away")
            assert (await asyncio.to_thread(page, port))[0] == 503
            path.touch()
            assert await asyncio.to_thread(page, port) == (503, f"{path} is another's\n")
            with pytest.raises(ConfigError, match="--health"):
                async with _pages(there.keeper, nobody, "127.0.0.1", port):
                    pass

    told(tmp_path, ask)


def test_a_certificate_that_was_renewed_is_everybodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """harp-link is told twice, a lease has another connection; a look may fail."""
    base, looks = pool(tmp_path / "p"), 0
    folder = base / "client-ann"

    def found() -> Any:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise KeyError("odd")
        return load(folder, Kind.CLIENT, now())

    monkeypatch.setattr(renewing.again_and_again, "__defaults__", (renewing._logged, 0.02))

    async def ask(there: There) -> None:
        assert isinstance(answer := await there.hold("a"), Held), answer
        (kept,) = there.keeper._kept.values()
        assert kept.holder._held is not None
        before = kept.holder._held.channel
        (certificate,) = (c for c in authority.found(base) if c.name == "ann")
        authority.renew(base, certificate, now(), 30)
        await until(lambda: kept.holder._held is not None and kept.holder._held.channel != before)
        heard = there.box("a") / "near.sock.read"
        await until(lambda: heard.exists() and heard.read_text() == "again\nagain\n")
        looked = looks
        await until(lambda: looks > looked + 3)
        assert heard.read_text() == "again\nagain\n"
        assert isinstance(await there.keeper.do(Look()), Looked)

    with structlog.testing.capture_logs() as logs:
        told(tmp_path, ask, who=Who(found, "", print), base=base)
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["look_failed"]


def test_as_it_ends_nothing_is_begun_and_all_is_given_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            there = await stack.enter_async_context(keeping(tmp_path))
            assert isinstance(await there.hold("a"), Held)
            there.world.room.go.clear()
            asked = len(there.world.room.asked)
            waits = asyncio.create_task(there.hold("b"))
            await until(lambda: len(there.world.room.asked) > asked)
            await there.end()
            there.world.room.go.set()
            for refused in (await waits, await there.hold("c")):
                assert isinstance(refused, Refused)
                assert refused.error.message == "harp remote keep ends"
            assert there.keeper._kept == {}
            assert list((there.run_dir / SESSIONS).iterdir()) == []
            assert not (there.run_dir / SOCKET).exists()
            await until(lambda: there.world.room._held == {})

    asyncio.run(asyncio.wait_for(main(), 60))


def test_another_ones_socket_stays(tmp_path: Path) -> None:
    async def ask(there: There) -> None:
        (there.run_dir / SOCKET).unlink()
        (there.run_dir / SOCKET).touch()

    told(tmp_path, ask)
    assert (tmp_path / "r" / SOCKET).exists()
