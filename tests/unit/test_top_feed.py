# SPDX-License-Identifier: Apache-2.0
"""What `harp top` hears of a harpd that goes away, comes back, or is old."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any, Self, cast

import pytest
from top_cases import S, gpu, reply, tenant

from harp.api.v1 import control_pb2 as pb
from harp.cli import feed
from harp.cli.board import Board, details, tenants
from harp.cli.feed import Feed, News, sample_of
from harp.client import Client
from harp.errors import DaemonError, DaemonUnreachable, HarpError


class _Client:
    """Of a harpd that sends what it is told to: an error is raised, None ends it."""

    def __init__(self, sends: Iterable[pb.WatchSamplesReply | HarpError | None]) -> None:
        self.sends = iter(sends)
        self.asked: list[int] = []
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def close(self) -> None:
        self.closed = True

    def watch(self, interval_ms: int) -> Iterator[pb.WatchSamplesReply]:
        self.asked.append(interval_ms)
        for one in self.sends:
            if one is None:
                return
            if isinstance(one, HarpError):
                raise one
            yield one

    def state(self) -> pb.GetStateReply:
        return pb.GetStateReply(now_s=7.5, devices=[gpu()])


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "_RETRY_S", 0.001)


def _news(count: int, *clients: _Client | HarpError, interval_s: float = 1.0) -> list[News]:
    made = iter(clients)

    def connect() -> Client:
        one = next(made)
        if isinstance(one, HarpError):
            raise one
        return cast("Client", one)

    news = Feed(connect, interval_s).news()
    return [next(news) for _ in range(count)]


def test_a_harpd_that_goes_away_is_said_and_found_again() -> None:
    first = _Client([reply(0), DaemonUnreachable("the daemon did not answer: x")])
    second = _Client([reply(1), None])
    third = _Client([reply(2)])
    found = _news(6, first, DaemonUnreachable("no harpd answers"), second, third)
    assert [one.said for one in found] == [
        "",
        "the daemon did not answer: x; trying again",
        "no harpd answers; trying again",
        "",
        "harpd has ended; trying again",
        "",
    ]
    assert [one.reply is None for one in found] == [False, True, True, False, True, False]
    assert first.closed
    assert second.closed


def test_why_a_sample_is_not_new_is_said() -> None:
    assert _news(1, _Client([reply(0, problem="no arbiter")]))[0].said == "no arbiter"


@pytest.mark.parametrize(("interval_s", "ms"), [(0.2, 200), (1.0, 1000), (60.0, 1000)])
def test_as_often_as_asked(interval_s: float, ms: int) -> None:
    client = _Client(reply(at_s) for at_s in range(200))
    times = [n.reply.sample.at_ns for n in _news(3, client, interval_s=interval_s) if n.reply]
    assert client.asked == [ms]
    assert times[1] - times[0] == max(1, interval_s) * S


def test_an_old_harpd_is_asked_and_that_is_said() -> None:
    found = _news(2, _Client([DaemonError("the daemon does not know this call")]), interval_s=0.01)
    assert [one.said for one in found] == [feed.OLDER] * 2
    assert found[0].reply
    assert found[0].reply.sample.devices[0].uuid == "GPU-0"
    assert found[0].reply.sample.at_ns == round(7.5 * S)


def test_what_an_old_harpd_says_is_shown_as_samples_are() -> None:
    use = pb.DeviceUse(uuid="GPU-0", leased_bytes=5, used_ns=7)
    words: dict[str, Any] = {
        "tenant_id": 3, "name": "t", "user": "u", "share_ppm": 9, "limit_ppm": 8, "created_s": 2.0,
        "mem_limit_bytes": 6, "host_limit_bytes": 4, "host_leased_bytes": 3, "suspended": True,
        "window_s": 10.0, "uid": 1000, "tenant_class": pb.TENANT_CLASS_LATENCY,
    }  # fmt: skip
    state = pb.GetStateReply(
        now_s=9.0,
        devices=[gpu()],
        tenants=[pb.Tenant(uses=[use], clients=[pb.Client(pid=1), pb.Client(pid=2)], **words)],
        uncovered=[pb.Uncovered(pid=7)],
    )
    sample = sample_of(state)
    assert sample.tenants[0] == pb.TenantSample(uses=[use], processes=2, **words)
    assert list(sample.uncovered) == list(state.uncovered)
    board = Board()
    board.see(pb.WatchSamplesReply(sample=sample))
    assert tenants(board, sample.tenants, 1, 1)[0].cells[0] == "!t"
    assert details(board, sample.tenants[0])


def test_one_that_is_closed_while_it_connects_asks_for_nothing() -> None:
    client = _Client([reply(0)])

    def connect() -> Client:
        one.close()
        return cast("Client", client)

    one = Feed(connect, 1.0)
    assert list(one.news()) == []
    assert (client.asked, client.closed) == ([], True)


def test_closing_it_ends_it_wherever_it_waits() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def sends() -> Iterator[pb.WatchSamplesReply | HarpError]:
        yield reply(0, tenant(1, "t"))
        begun.set()
        go_on.wait(10)
        yield DaemonUnreachable("Channel closed!")

    client = _Client(sends())
    one = Feed(lambda: cast("Client", client), 1.0)
    heard: list[News] = []
    thread = threading.Thread(target=lambda: heard.extend(one.news()))
    thread.start()
    assert begun.wait(10)
    one.close()
    assert client.closed
    go_on.set()
    thread.join(10)
    assert not thread.is_alive()
    assert [news.said for news in heard] == [""]  # that it is closed is no news
