# SPDX-License-Identifier: Apache-2.0
"""The modelled engine: slices, changes, ledger, deaths."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from harp.sim.engine import Command, Engine
from harp.sim.gaps import Gaps

SLICE, SWITCH = 2000, 100


class Bench:
    """An engine with a calendar of its own."""

    def __init__(self, slice_ns: int = SLICE, switch_ns: int = SWITCH) -> None:
        self.now = 0
        self._calendar: list[tuple[int, int, Callable[[int], None]]] = []
        self._entries = 0
        self.gaps = Gaps(0)
        self.engine = Engine(slice_ns, switch_ns, self.at, self.gaps.idle)
        #: (what, context, time)
        self.seen: list[tuple[str, int, int]] = []

    def at(self, when: int, call: Callable[[int], None]) -> None:
        self._entries += 1
        heapq.heappush(self._calendar, (when, self._entries, call))

    def submit(self, when: int, context: int, length: int) -> None:
        def begin(now: int) -> None:
            command = Command(
                context,
                length,
                lambda t: self.seen.append(("began", context, t)),
                lambda t: self.seen.append(("ended", context, t)),
            )
            self.engine.submit(command, now)

        self.at(when, begin)

    def run(self, until: int = 10**9) -> None:
        while self._calendar and self._calendar[0][0] <= until:
            self.now, _, call = heapq.heappop(self._calendar)
            call(self.now)
        self.now = until
        self.engine.settle(until)
        self.gaps.close(until)


def test_one_context_runs_its_commands_one_after_the_other() -> None:
    bench = Bench()
    bench.submit(0, 1, 5000)
    bench.submit(10, 1, 300)
    bench.run()
    assert bench.seen == [
        ("began", 1, 100),
        ("ended", 1, 5100),
        ("began", 1, 5100),
        ("ended", 1, 5400),
    ]
    assert bench.engine.busy_ns == {1: 5300}
    assert (bench.engine.switches, bench.engine.switching_ns) == (1, 100)


def test_two_contexts_take_slices_and_each_change_costs() -> None:
    bench = Bench()
    bench.submit(0, 1, 5000)
    bench.submit(500, 2, 3000)
    bench.run()
    # 1: 100-2100; 2: 2200-4200; 1: 4300-6300; 2: 6400-7400; 1: 7500-8500
    assert ("ended", 2, 7400) in bench.seen
    assert ("ended", 1, 8500) in bench.seen
    assert bench.engine.busy_ns == {1: 5000, 2: 3000}
    assert bench.engine.switches == 5


def test_who_comes_after_the_slice_is_over_interrupts_at_once() -> None:
    bench = Bench()
    bench.submit(0, 1, 9000)
    bench.submit(5000, 2, 10)
    bench.run()
    assert ("began", 2, 5100) in bench.seen
    assert ("ended", 1, 9000 + 100 + 210) in bench.seen


def test_a_killed_context_runs_no_more_and_is_charged_what_it_ran() -> None:
    bench = Bench()
    bench.submit(0, 1, 9000)
    bench.submit(0, 1, 9000)
    bench.submit(0, 2, 300)
    bench.at(1100, lambda now: bench.engine.kill(1, now))
    bench.run()
    assert bench.engine.busy_ns == {1: 1000, 2: 300}
    assert [row for row in bench.seen if row[0] == "ended"] == [("ended", 2, 1500)]


def test_a_context_killed_while_the_engine_changes_to_it_leaves_it_to_the_next() -> None:
    bench = Bench()
    bench.submit(0, 1, 500)
    bench.at(50, lambda now: bench.engine.kill(1, now))
    bench.submit(60, 2, 500)
    bench.run()
    assert bench.engine.busy_ns == {2: 500}
    assert bench.engine.idle


def test_a_gap_is_idle_time_in_which_somebody_waits() -> None:
    gaps = Gaps(0)
    gaps.wanting(1, True, 10)
    gaps.idle(False, 40)  # gap: 10 to 40
    gaps.wanting(2, True, 50)
    gaps.wanting(1, False, 55)
    gaps.idle(True, 60)
    gaps.wanting(2, False, 65)  # gap: 60 to 65
    gaps.wanting(2, True, 90)
    gaps.close(100)  # gap: 90 to 100
    assert gaps.samples_ns == [30, 5, 10]
    assert gaps.idle_ns == 80


@given(
    commands=st.lists(
        st.tuples(st.integers(0, 20_000), st.integers(1, 4), st.integers(1, 9000)), max_size=30
    ),
    kills=st.dictionaries(st.integers(1, 4), st.integers(0, 40_000), max_size=2),
    slice_ns=st.integers(1, 5000),
    switch_ns=st.integers(0, 400),
    until=st.integers(1, 400_000),
)
def test_time_is_neither_lost_nor_made(
    commands: list[tuple[int, int, int]],
    kills: dict[int, int],
    slice_ns: int,
    switch_ns: int,
    until: int,
) -> None:
    bench = Bench(slice_ns, switch_ns)
    for when, context, length in commands:
        bench.submit(when, context, length)
    for context, when in kills.items():
        bench.at(when, lambda now, c=context: bench.engine.kill(c, now))
    bench.run(until)
    engine = bench.engine
    assert sum(engine.busy_ns.values()) == engine.total_busy_ns
    changing = until - engine.total_busy_ns - engine.switching_ns - bench.gaps.idle_ns
    assert 0 <= changing <= switch_ns  # a change that the end has cut
    for context in range(1, 5):
        asked = sum(length for _, c, length in commands if c == context)
        got = engine.busy_ns.get(context, 0)
        assert got <= asked
        if engine.idle and context not in kills and all(w <= until for w, _, _ in commands):
            assert got == asked
