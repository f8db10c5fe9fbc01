# SPDX-License-Identifier: Apache-2.0
"""Samples for those who watch: who gets which, how often is looked, and who may not."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harp.daemon.fanout import (
    MOST,
    MOST_OF_A_USER,
    Action,
    End,
    Event,
    Fanout,
    Given,
    Join,
    Late,
    Leave,
    Look,
    Looked,
    Ready,
    Send,
    Stop,
    Tick,
    next_ns,
    step,
)
from harp.errors import ConfigError, DaemonUnreachable, QuotaExceeded

MS = 1_000_000


@dataclass
class World:
    """Runs the core by a clock of its own; samples are their numbers, from 1."""

    look_ns: int = 0  #: a look takes
    give_ns: int = 0  #: to give its sample takes
    now_ns: int = 5_000 * MS
    state: Fanout = field(default_factory=Fanout)
    looks: list[int] = field(default_factory=list)  #: when they began
    sent: list[tuple[int, Send]] = field(default_factory=list)  #: when, what
    #: {watcher: ms that it takes over each sample}; of who is not in it: for ever
    slow_ms: dict[int, int] = field(default_factory=dict)
    busy: dict[int, int] = field(default_factory=dict)  #: {watcher: when it is ready}
    ready: set[int] = field(default_factory=set)

    def do(self, event: Event) -> list[Action]:
        self.state, actions = step(self.state, event, self.now_ns)
        if isinstance(event, Ready):
            self.ready.add(event.watcher)
        for action in actions:
            if isinstance(action, Look):
                self.looks.append(self.now_ns)
            if isinstance(action, Send):
                self.ready.remove(action.watcher)
                self.sent.append((self.now_ns, action))
                if action.watcher in self.slow_ms:
                    self.busy[action.watcher] = self.now_ns + self.slow_ms[action.watcher] * MS
        return actions

    def join(self, watcher: int, interval_ms: int, slow_ms: int | None = 0, uid: int = 7) -> None:
        self.do(Join(watcher, uid, interval_ms))
        if slow_ms is not None:
            self.slow_ms[watcher] = slow_ms
            self.busy[watcher] = self.now_ns

    def run(self, until_ns: int) -> None:
        done_ns: int | None = None
        while True:
            due = [*self.busy.values()]
            tick_ns = done_ns if self.state.looking_ns is not None else next_ns(self.state)
            due += [] if tick_ns is None else [tick_ns]
            if not due or min(due) > until_ns:
                break
            self.now_ns = max(self.now_ns, min(due))
            for watcher in [w for w, at in self.busy.items() if at <= self.now_ns]:
                del self.busy[watcher]
                self.do(Ready(watcher))
            if self.state.looking_ns is not None:
                if done_ns is not None and done_ns <= self.now_ns:
                    self.do(Looked(len(self.looks)))
                    self.now_ns += self.give_ns
                    self.do(Given())
            elif Look() in self.do(Tick()):
                done_ns = self.now_ns + self.look_ns
        self.now_ns = until_ns

    def of(self, watcher: int) -> list[tuple[int, Send]]:
        return [(at, send) for at, send in self.sent if send.watcher == watcher]


def test_nobody_looks_when_nobody_watches() -> None:
    world = World()
    assert next_ns(world.state) is None
    world.join(1, 100)
    world.run(world.now_ns + 1000 * MS)
    assert len(world.looks) == 11
    world.do(Leave(1))
    assert next_ns(world.state) is None
    assert world.do(Tick()) == []


@pytest.mark.parametrize("watchers", [1, 2, 7, MOST_OF_A_USER])
def test_one_look_serves_all_and_the_fastest_sets_the_rate(watchers: int) -> None:
    world = World()
    for number in range(watchers):
        world.join(number, 50 if number == 0 else 1000)
    world.run(world.now_ns + 3000 * MS)
    assert len(world.looks) == 61
    assert [len(world.of(n)) for n in range(watchers)] == [61] + [4] * (watchers - 1)
    for event in (Looked("of a look that nobody asked for"), Given()):
        assert world.do(event) == []


def test_a_newcomer_does_not_wait_for_the_others() -> None:
    world = World()
    world.join(1, 1000)
    world.run(world.now_ns + 300 * MS)
    began_ns = world.now_ns
    world.join(2, 1000)
    world.run(began_ns + 5000 * MS)
    assert world.of(2)[0][0] == began_ns
    # From then on both are served by the same look.
    assert {at for at, _ in world.of(1)[2:]} <= {at for at, _ in world.of(2)}


def test_samples_come_at_the_beat_nearest_to_when_they_are_due() -> None:
    world = World()
    world.join(1, 10)
    world.join(2, 14)
    began_ns = world.now_ns
    world.run(began_ns + 700 * MS)
    late = [at - began_ns - number * 14 * MS for number, (at, _) in enumerate(world.of(2))]
    assert len(late) == 51
    assert max(map(abs, late)) <= 5 * MS


def test_there_is_one_look_at_a_time() -> None:
    world = World()
    world.join(1, 10)
    assert world.do(Tick()) == [Look()]
    world.now_ns += 1000 * MS
    world.join(2, 10)
    assert next_ns(world.state) is None
    assert world.do(Tick()) == []
    assert world.do(Looked(1)) == []  # neither has said that it is ready
    assert next_ns(world.state) is None
    assert world.do(Given()) == []
    assert next_ns(world.state) == world.now_ns + 3000 * MS


def test_who_is_slow_gets_the_newest_and_is_told_how_many_it_missed() -> None:
    world = World()
    world.join(1, 10, slow_ms=94)
    world.join(2, 10)
    world.run(world.now_ns + 1000 * MS)
    slow = [send for _, send in world.of(1)]
    assert [send.sample for send in slow[:3]] == [1, 10, 19]
    assert [send.dropped for send in slow[:3]] == [0, 8, 8]
    assert [send.dropped for _, send in world.of(2)] == [0] * 101


def test_who_never_takes_anything_holds_one_sample_and_costs_the_others_nothing() -> None:
    world = World()
    world.join(1, 10, slow_ms=None)
    world.join(2, 10)
    world.run(world.now_ns + 10_000 * MS)
    assert world.of(1) == []
    assert len(world.of(2)) == 1001
    world.do(Ready(1))
    ((_, first),) = world.of(1)
    assert (first.sample, first.dropped) == (1001, 1000)


@pytest.mark.parametrize(("look_ms", "give_ms"), [(30, 0), (10, 20)])
def test_looking_and_giving_take_no_more_than_a_quarter_of_the_time(
    look_ms: int, give_ms: int
) -> None:
    world = World(look_ms * MS, give_ms * MS)
    world.join(1, 10)
    world.run(world.now_ns + 6000 * MS)
    assert len(world.looks) == 51
    # None of those that there was no time for was dropped: there is none.
    assert sum(send.dropped for _, send in world.of(1)) == 0


def test_what_is_given_late_takes_time_as_well() -> None:
    world = World()
    world.join(1, 10)
    world.run(world.now_ns + 100 * MS)
    begun_ns, rest_ns = world.now_ns, world.state.rest_ns
    assert rest_ns <= begun_ns
    for passed_ms, rests_ms in ((4, 4 + 12), (0, 16), (1, 4 + 12 + 3), (7, 19 + 21)):
        # What two of them did in the same time is counted once, and adds to a rest that goes on.
        world.now_ns += passed_ms * MS
        world.do(Late(begun_ns))
        assert world.state.rest_ns == begun_ns + rests_ms * MS, passed_ms
    world.now_ns = world.state.rest_ns
    assert world.do(Tick()) == [Look()]
    world.now_ns += 2 * MS
    world.do(Late(world.now_ns - MS))  # is part of the look
    world.do(Looked(1))
    world.do(Given())
    assert world.state.rest_ns == world.now_ns + 3 * 2 * MS


def test_after_the_fastest_has_gone_nobody_waits_twice_as_long() -> None:
    world = World()
    world.join(1, 1000)
    world.join(2, 10)
    world.run(world.now_ns + 1995 * MS)
    world.do(Leave(2))
    world.run(world.now_ns + 4000 * MS)
    times = [at for at, _ in world.of(1)]
    assert max(b - a for a, b in itertools.pairwise(times)) <= 1005 * MS


def test_all_streams_end_with_harpd_and_nobody_comes_after() -> None:
    world = World()
    world.join(1, 10, slow_ms=None)
    world.join(2, 10)
    world.do(Tick())
    assert world.do(Stop()) == [End(1), End(2)]
    assert world.do(Looked(1)) == []
    for event in (Ready(1), Leave(2), Tick(), Stop()):
        assert world.do(event) == []
    with pytest.raises(DaemonUnreachable, match="harpd ends"):
        world.join(3, 10)


@pytest.mark.parametrize("interval_ms", [1, 9, 1001, 4_000_000_000])
def test_an_interval_out_of_range_is_refused(interval_ms: int) -> None:
    with pytest.raises(ConfigError, match=f"{interval_ms} ms is not one of 10 to 1000 ms"):
        World().join(1, interval_ms)


@pytest.mark.parametrize("interval_ms", [0, 10, 1000])
def test_an_interval_in_range_is_not(interval_ms: int) -> None:
    world = World()
    world.join(1, interval_ms)
    world.run(world.now_ns + 2000 * MS)
    assert len(world.looks) == 1 + 2000 // (interval_ms or 1000)


def test_there_is_an_end_to_how_many_watch() -> None:
    world = World()
    for number in range(MOST_OF_A_USER):
        world.join(number, 1000, uid=1)
    with pytest.raises(QuotaExceeded, match=f"{MOST_OF_A_USER} watch harpd .* of uid 1") as error:
        world.join(100, 1000, uid=1)
    assert "GetState" in error.value.hint
    for number in range(MOST_OF_A_USER, MOST):
        world.join(number, 1000, uid=number)
    with pytest.raises(QuotaExceeded, match=f"{MOST} watch harpd .* of all users"):
        world.join(100, 1000, uid=5000)
    world.do(Leave(0))
    world.join(100, 1000, uid=1)


JOINS = st.tuples(
    st.integers(10, 1000),  # its interval
    st.one_of(st.none(), st.integers(0, 400)),  # slow_ms
    st.integers(0, 700),  # ms until the next thing happens
    st.integers(0, 3),  # how many of those before leave first
)


@given(st.lists(JOINS, min_size=1, max_size=10), st.integers(0, 40))
def test_whatever_comes_and_goes(joins: list[tuple[int, int | None, int, int]], cost: int) -> None:
    """(1) to (3) of the core's docstring, and nobody is given one twice, or unasked."""
    world = World(look_ns=cost * MS)
    began_ns = world.now_ns
    fastest_ms = min(interval for interval, *_ in joins)
    for number, (interval_ms, slow_ms, pause_ms, leave) in enumerate(joins):
        for gone in range(max(0, number - leave), number):
            world.do(Leave(gone))
            world.slow_ms.pop(gone, None)
            world.busy.pop(gone, None)
        world.join(number, interval_ms, slow_ms)
        world.run(world.now_ns + pause_ms * MS)
    passed_ns = world.now_ns - began_ns
    assert len(world.looks) <= passed_ns // (fastest_ms * MS) + len(joins) + 1
    # A look a rest of three times as long: the last one may have no rest yet.
    assert max(0, len(world.looks) - 1) * cost * 4 * MS <= passed_ns
    for number, (interval_ms, _, _, _) in enumerate(joins):
        sends = [send for _, send in world.of(number)]
        samples = [send.sample for send in sends]
        assert samples == sorted(set(samples), key=lambda s: int(str(s)))
        got = len(sends) + sum(send.dropped for send in sends)
        watcher = world.state.watchers.get(number)
        if watcher is not None:
            got += watcher.dropped + (watcher.newest is not None)
            assert not (watcher.ready and watcher.newest is not None)
        # By nearest beats it may be ahead of its own rate by half an interval, not by more.
        assert got <= passed_ns // (interval_ms * MS) + 2
