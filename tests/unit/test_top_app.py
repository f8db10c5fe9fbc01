# SPDX-License-Identifier: Apache-2.0
"""The screen of `harp top` at 80 columns and 24 lines, its keys pressed by textual's Pilot."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from types import SimpleNamespace
from typing import Any, Self, cast

import pytest
from click.testing import CliRunner
from textual.pilot import Pilot
from textual.widgets import DataTable, Static
from top_cases import GIB, S, reply, tenant

from harp.api.v1 import control_pb2 as pb
from harp.cli import top, top_app
from harp.cli.feed import Feed, News
from harp.cli.top_app import TopApp

Steps = Callable[["_Screen"], Awaitable[None]]


class _Screen:
    """What is on it."""

    def __init__(self, app: TopApp, pilot: Pilot[None]) -> None:
        self.app = app
        self.pilot = pilot

    async def see(self, one: pb.WatchSamplesReply | None, said: str = "") -> None:
        self.app.take(News(one, said))
        await self.pilot.pause()

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    def lines(self) -> list[str]:
        """As a terminal shows it."""
        strips = self.app.screen._compositor.render_strips()
        return ["".join(segment.text for segment in strip).rstrip() for strip in strips]

    def text(self) -> str:
        return "\n".join(self.lines())

    def names(self) -> list[str]:
        table = self.app.query_one("#tenants", DataTable)
        return [str(table.get_row_at(number)[0]).strip() for number in range(table.row_count)]

    def said(self, which: str) -> str:
        return str(self.app.query_one(which, Static).render())


def on_screen(steps: Steps, size: tuple[int, int] = (80, 24), sort: str = "used") -> None:
    async def run() -> None:
        app = TopApp(None, 1.0, sort)
        async with app.run_test(size=size) as pilot:
            await steps(_Screen(app, pilot))

    asyncio.run(run())


def _use(ratio: float = 0, held: int = 0, used_s: float = 0, **more: Any) -> pb.DeviceUse:
    return pb.DeviceUse(
        uuid="GPU-0", used_ratio=ratio, leased_bytes=held, used_ns=round(used_s * S), **more
    )


def _three(at_s: float = 0, **more: Any) -> pb.WatchSamplesReply:
    return reply(
        at_s,
        tenant(1, "alpha", _use(0.2, 3 * GIB, at_s, wait_ns=5)),
        tenant(2, "bravo", _use(0.6, GIB), user="root"),
        tenant(3, "charlie", _use(0.1, 2 * GIB, wait_ns=9)),
        **more,
    )


def test_rows_of_devices_and_tenants_in_80_columns() -> None:
    async def steps(screen: _Screen) -> None:
        await screen.see(_three(0))
        await screen.see(_three(1))
        lines = screen.lines()
        assert len(lines) == 24
        assert max(map(len, lines)) <= 80
        assert "software GPU" in lines[0]
        assert lines[2].split()[:5] == ["0", "software", "-", "8GiB", "-"]
        assert screen.names() == ["bravo", "alpha", "charlie"]
        row = lines[5].split()
        # Of its own: all of the last second, and 3 of its GPU's 8 GiB.
        assert row[:8] == ["alpha", "u", "0", "std", "3GiB", "-", "-", "20.0%"]
        assert row[8:] == ["█", "▄▄"]
        assert lines[-1].split()[:2] == ["q", "Quit"]

    on_screen(steps)


@pytest.mark.parametrize("tenants", [0, 1, 200])
@pytest.mark.parametrize("gpus", [1, 8, 16])
def test_any_number_fits(tenants: int, gpus: int) -> None:
    async def steps(screen: _Screen) -> None:
        many = [
            tenant(n, f"a-tenant-with-a-long-name-{n}", _use(1.0)) for n in range(1, tenants + 1)
        ]
        uncovered = [pb.Uncovered(pid=n, name="x" * 99) for n in range(9)]
        await screen.see(reply(0, *many, gpus=gpus, uncovered=uncovered))
        lines = screen.lines()
        assert max(map(len, lines)) <= 80
        assert len(screen.names()) == tenants
        assert "UNCOVERED: 6 more: harp ps" in screen.text()
        assert "Help" in lines[-1]
        heading = next(number for number, line in enumerate(lines) if " TENANT " in line)
        assert heading <= 11
        assert [" a-tenant-wi" in line for line in lines[heading + 1 : heading + 4]].count(
            True
        ) == min(tenants, 3)

    on_screen(steps)


def test_keys_sort() -> None:
    async def steps(screen: _Screen) -> None:
        await screen.see(_three())
        for key, names in (
            ("m", ["alpha", "charlie", "bravo"]),
            ("w", ["charlie", "alpha", "bravo"]),
            ("n", ["alpha", "bravo", "charlie"]),
            ("r", ["charlie", "bravo", "alpha"]),
            ("s", ["charlie", "alpha", "bravo"]),  # used, the other way round
            ("r", ["bravo", "alpha", "charlie"]),
            ("s", ["alpha", "charlie", "bravo"]),
            ("u", ["bravo", "alpha", "charlie"]),
        ):
            await screen.press(key)
            assert screen.names() == names, key
        assert "by used" in screen.lines()[0]

    on_screen(steps)


def test_it_begins_sorted_as_asked() -> None:
    async def steps(screen: _Screen) -> None:
        await screen.see(_three())
        assert screen.names() == ["alpha", "charlie", "bravo"]

    on_screen(steps, sort="mem")


def test_a_filter_is_typed_kept_and_dropped() -> None:
    async def steps(screen: _Screen) -> None:
        await screen.see(_three())
        await screen.press("slash", "r")  # keys that do something elsewhere are letters here
        assert screen.names() == ["bravo", "alpha", "charlie"]  # all of them are standard
        await screen.press("o")
        assert screen.names() == ["bravo"]  # its user is root
        await screen.press("enter")
        await screen.see(_three(1))
        assert screen.names() == ["bravo"]
        assert "3 tenants, 1 with 'ro'" in screen.lines()[0]
        await screen.press("n", "slash", "q")
        assert screen.names() == []
        assert "none is so called" in screen.text()
        await screen.press("escape")
        assert screen.names() == ["alpha", "bravo", "charlie"]
        assert screen.app.is_running

    on_screen(steps)


def test_paused_it_stands_still_and_loses_nothing() -> None:
    async def steps(screen: _Screen) -> None:
        await screen.see(_three(0))
        await screen.see(_three(1))
        await screen.press("space")
        assert "PAUSED" in screen.lines()[0]
        before = screen.lines()
        for at_s in (2, 3, 4):
            await screen.see(reply(at_s, tenant(1, "alpha", _use(0.9, GIB, at_s))))
        assert screen.lines() == before
        await screen.press("n")  # what is shown can still be looked at
        assert screen.names() == ["alpha", "bravo", "charlie"]
        await screen.press("space")
        assert screen.names() == ["alpha"]
        assert "████ " in screen.text()
        assert "PAUSED" not in screen.text()

    on_screen(steps)


def test_help_comes_and_goes_and_q_quits() -> None:
    async def steps(screen: _Screen) -> None:
        await screen.press("question_mark")
        assert "sort by the next of" in screen.text()
        assert "something is wrong" in screen.text()
        await screen.press("q")
        assert "sort by the next of" not in screen.text()
        assert screen.app.is_running
        await screen.pilot.press("q")
        await screen.pilot.pause()
        assert not screen.app.is_running

    on_screen(steps)


def test_details_are_of_the_row_that_is_marked() -> None:
    async def steps(screen: _Screen) -> None:
        await screen.see(_three())
        assert screen.said("#details").startswith("bravo: ")
        await screen.press("down")
        assert screen.said("#details").startswith("alpha: ")
        await screen.press("down")
        assert screen.said("#details").startswith("charlie: ")
        await screen.press("m")  # it is the second now, and stays marked
        assert screen.said("#details").startswith("charlie: ")
        assert screen.app.query_one("#tenants", DataTable).cursor_row == 1
        await screen.see(reply(1, tenant(1, "alpha"), tenant(2, "bravo")))  # it is gone
        assert screen.said("#details").startswith("alpha: ")

    on_screen(steps)


def test_who_is_at_the_top_stays_there() -> None:
    async def steps(screen: _Screen) -> None:
        many = [tenant(n, f"t{n:03}", _use(n / 100)) for n in range(1, 60)]
        await screen.see(reply(0, *many))
        most = [tenant(n, f"t{n:03}", _use(1 - n / 100)) for n in range(1, 60)]
        await screen.see(reply(1, *most))
        assert screen.app.query_one("#tenants", DataTable).cursor_row == 0
        assert screen.said("#details").startswith("t001: ")

    on_screen(steps)


def test_names_are_words_of_users() -> None:
    """No markup, no control characters: of tenants, users, programs, or harpd's texts."""

    async def steps(screen: _Screen) -> None:
        bad = tenant(1, "[b]x\x1b[2J", user="[/]u")
        uncovered = [pb.Uncovered(pid=7, name="[link=x]\r", action="seen")]
        await screen.see(reply(0, bad, uncovered=uncovered), "why\x1b[0m [red]")
        text = screen.text()
        assert "[b]x?[2J" in text
        assert "[/]u" in text
        assert "UNCOVERED pid 7 [link=x]?" in text
        assert "! why?[0m [red]" in text
        assert "\x1b" not in text
        await screen.press("slash", "left_square_bracket")
        assert "1 with '['" in screen.lines()[0]

    on_screen(steps)


def test_a_harpd_that_goes_away_is_said_until_it_is_back() -> None:
    async def steps(screen: _Screen) -> None:
        await screen.see(_three())
        assert "!" not in screen.text()
        await screen.see(None, "no harpd answers; trying again")
        assert "! no harpd answers; trying again" in screen.text()
        assert screen.names() == ["bravo", "alpha", "charlie"]  # the last that is known
        await screen.see(reply(9))
        assert "trying again" not in screen.text()
        assert "no tenants; harp run -- CMD makes one" in screen.text()

    on_screen(steps)


def test_a_harpd_that_is_silent_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async def steps(screen: _Screen) -> None:
        await screen.see(_three())
        screen.app._listen()
        assert "no word" not in screen.text()
        now = time.monotonic()
        monkeypatch.setattr(top_app, "time", SimpleNamespace(monotonic=lambda: now + 30))
        screen.app._listen()
        await screen.pilot.pause()
        assert "! no word of harpd for 30 s" in screen.text()
        monkeypatch.undo()
        await screen.see(_three(1))
        assert "no word" not in screen.text()

    on_screen(steps)


def test_a_wider_terminal_shows_more_of_the_past() -> None:
    async def steps(screen: _Screen) -> None:
        for at_s in range(40):
            await screen.see(_three(at_s))
        narrow = max(line.count("█") for line in screen.lines())
        await screen.pilot.resize_terminal(140, 40)
        await screen.pilot.pause()
        wide = max(line.count("█") for line in screen.lines())
        assert (narrow, wide) == (12, 32)
        assert screen.names() == ["bravo", "alpha", "charlie"]

    on_screen(steps)


class _Fast:
    """A feed that says more than can be shown."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.closed = threading.Event()
        self.done = threading.Event()

    def news(self) -> Iterator[News]:
        for at_s in range(self.count):
            yield News(_three(at_s))
        yield News(None, "the end")
        self.done.set()
        self.closed.wait(10)

    def close(self) -> None:
        self.closed.set()


def test_a_fast_feed_is_no_queue_and_is_closed_at_the_end() -> None:
    feed = _Fast(5000)

    told = 0

    class Counting(TopApp):
        def on__heard(self) -> None:  # beside TopApp's own
            nonlocal told
            told += 1

    async def run() -> list[float]:
        app = Counting(cast("Feed", feed), 1.0)
        shown: list[float] = []
        see = app._board.see
        app._board.see = lambda one: (shown.append(one.sample.now_s), see(one))  # type: ignore[assignment, func-returns-value]
        async with app.run_test(size=(80, 24)) as pilot:
            await asyncio.to_thread(feed.done.wait, 10)
            await pilot.pause()
            assert "! the end" in str(app.query_one("#said", Static).render())
        return shown

    shown = asyncio.run(run())
    assert shown[-1] == 1e9 + 4999
    assert len(shown) < 2500
    assert told <= len(shown) + 1
    assert feed.closed.is_set()


def test_without_a_terminal_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    class _Client:
        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(top.Client, "connect", lambda _env: _Client())
    done = CliRunner().invoke(top.top, [])
    assert "stdin or stdout is none" in str(done.exception)
    assert cast("Any", done.exception).hint == "harp top --once, or --json"


def test_run_and_top_once_do_not_load_it() -> None:
    code = "import sys, harp.cli.main, harp.cli.run, harp.cli.top; print('textual' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
