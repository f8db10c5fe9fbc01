# SPDX-License-Identifier: Apache-2.0
"""Which node of a pool is asked: rules, properties, and how a day of leases is spread."""

from __future__ import annotations

import heapq
import math
import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harp.errors import NodeUnreachable
from harp.remote.events import NodeState
from harp.remote.pool import Ask, NodeView, Pool, Slot
from harp.units import PPM

GIB = 1 << 30


def view(
    name: str,
    *,
    free: float = 1.0,
    capacity: float = 1.0,
    state: NodeState = NodeState.READY,
    gpus: int = 1,
    table: bytes = b"",
) -> NodeView:
    slot = Slot(8 * GIB, int(free * PPM), capacity)
    return NodeView(name, f"{name}:1", state, (slot,) * gpus, table)


def pool(*views: NodeView, **rtts_s: float) -> Pool:
    made = Pool()
    made.heard(views, 0.0)
    for name, rtt_s in rtts_s.items():
        made.measured(name, rtt_s)
    return made


def test_weight_is_free_share_times_capacity_over_rtt() -> None:
    made = pool(view("a", free=0.5, capacity=4, gpus=2), view("b"), a=0.002, b=0.001)
    assert made.weights(Ask(), 0.0) == {
        "a": pytest.approx(2 * 0.5 * 4 / 0.002),
        "b": pytest.approx(1 / 0.001),
    }


def test_rtts_below_the_floor_are_alike_and_unknown_ones_as_the_others() -> None:
    made = pool(view("a"), view("b"), view("c"), a=0.0, b=90e-6)
    assert len(set(made.weights(Ask(), 0.0).values())) == 1
    assert pool(view("a")).rtt_s("a") == 1e-3
    assert pool(view("a"), view("b"), view("c"), a=1.0, b=3.0).rtt_s("c") == 3.0


def test_measurements_are_averaged_and_nonsense_is_dropped() -> None:
    made = pool(view("a"), a=0.001)
    made.measured("a", 0.005)
    assert made.rtt_s("a") == pytest.approx(0.002)
    for nonsense in (-1.0, math.nan, math.inf):
        made.measured("a", nonsense)
    made.measured("nobody", 1.0)
    assert made.rtt_s("a") == pytest.approx(0.002)


def test_who_drains_is_lost_or_silent_is_not_asked_and_says_so() -> None:
    made = pool(
        view("a", state=NodeState.DRAINING),
        view("b", state=NodeState.LOST),
        replace(view("c"), age_s=3.0),
        view("d", table=b"x"),
        view("e", free=0.1),
        view("f"),
        NodeView("g", "g:1", NodeState.READY, ()),
    )
    made.refused("f", 0.0)
    with pytest.raises(NodeUnreachable) as none:
        made.choose(Ask(share_ppm=200_000, table_hash=b"y"), 0.0, random.Random(1))
    said = none.value.message
    for words in (
        "a: draining",
        "b: lost, as the pool says",
        "c: not heard of for 3.0 s (limit 2s)",
        "d: another version of HARP",
        "e: at most 10% and 8GiB left on a GPU, 20% and 0B asked",
        "f: refused just now",
        "g: no GPU",
    ):
        assert words in said
    assert none.value.hint
    with pytest.raises(NodeUnreachable, match="no node of the pool was heard of"):
        Pool().choose(Ask(), 0.0, random.Random(1))
    with pytest.raises(NodeUnreachable, match="a: tried in vain"):
        pool(view("a")).choose(Ask(), 0.0, random.Random(1), {"a"})
    with pytest.raises(NodeUnreachable, match="1 GPUs with enough left, 2 asked"):
        pool(view("a")).choose(Ask(devices=2), 0.0, random.Random(1))


def test_health_is_the_age_of_the_last_word() -> None:
    made = pool(view("a"), view("b"))
    made.heard([view("a")], 1.5)
    assert set(made.weights(Ask(), 2.0)) == {"a", "b"}
    assert set(made.weights(Ask(), 2.1)) == {"a"}
    assert set(made.weights(Ask(), 3.6)) == set()
    made.heard([view("b")], 3.6)
    assert set(made.weights(Ask(), 3.6)) == {"b"}


def test_a_session_without_state_moves_when_its_node_drains_or_is_lost() -> None:
    made = pool(view("a"), view("b"))
    assert not made.moves("a", 0.0)
    made.heard([view("a", state=NodeState.DRAINING)], 1.0)
    assert made.moves("a", 1.0)
    assert not made.moves("b", 1.0)
    assert made.moves("b", 2.5)
    assert made.moves("nobody", 0.0)
    made.heard([view("b")], 2.5)
    assert made.choose(Ask(), 2.5, random.Random(1), {"a"}).node.node_id == "b"
    made.forget("b")
    assert made.moves("b", 2.5)


def test_who_refused_is_asked_again_when_heard_of_or_after_a_while() -> None:
    made = pool(view("a"))
    made.refused("a", 0.5)
    assert made.weights(Ask(), 1.4) == {}
    assert set(made.weights(Ask(), 1.5)) == {"a"}
    made.refused("a", 1.5)
    made.heard([view("a")], 1.6)
    assert set(made.weights(Ask(), 1.6)) == {"a"}


def test_what_was_asked_is_taken_off_until_the_node_is_heard_of() -> None:
    made = pool(view("a"))
    rng = random.Random(1)
    for _ in range(4):
        made.choose(Ask(share_ppm=250_000, mem_bytes=GIB), 0.0, rng)
    assert made.weights(Ask(), 0.0) == {"a": 0.0}
    with pytest.raises(NodeUnreachable, match="at most 0% and 4GiB left"):
        made.choose(Ask(share_ppm=1), 0.0, rng)
    made.choose(Ask(), 0.0, rng)  # who asks for no share is taken all the same
    made.heard([view("a")], 0.5)
    assert made.weights(Ask(share_ppm=PPM), 0.5) == {"a": 1000.0}


NAMES = st.sampled_from("abcdef")
VIEWS = st.lists(
    st.builds(
        NodeView,
        NAMES,
        st.just("x:1"),
        st.sampled_from([NodeState.READY, NodeState.READY, NodeState.DRAINING, NodeState.LOST]),
        st.lists(
            st.builds(
                Slot,
                st.integers(0, 8 * GIB),
                st.integers(0, PPM),
                st.one_of(
                    st.floats(0, 1000), st.sampled_from([math.nan, math.inf, -1.0, 0.0, 1e308])
                ),
            ),
            max_size=3,
        ).map(tuple),
        st.sampled_from([b"", b"x", b"y"]),
        st.floats(0, 4),
    ),
    max_size=6,
    unique_by=lambda v: v.node_id,
)
ASKS = st.builds(
    Ask,
    st.integers(0, PPM),
    st.integers(0, 8 * GIB),
    st.integers(1, 3),
    st.sampled_from([b"", b"x"]),
)


@given(VIEWS, ASKS, st.integers(), st.dictionaries(NAMES, st.floats(0, 1)), st.sets(NAMES))
def test_who_is_chosen_may_be_asked(
    views: list[NodeView], ask: Ask, seed: int, rtts_s: dict[str, float], without: set[str]
) -> None:
    made, twin = Pool(), Pool()
    for one, order in ((made, views), (twin, views[::-1])):
        one.heard(order, 0.0)
        for name, rtt_s in rtts_s.items():
            one.measured(name, rtt_s)
    weights = made.weights(ask, 0.0, without)
    fit = {
        v.node_id
        for v in views
        if v.state is NodeState.READY
        and v.age_s <= 2.0
        and not (ask.table_hash and v.table_hash and v.table_hash != ask.table_hash)
        and sum(s.free_ppm >= ask.share_ppm and s.free_bytes >= ask.mem_bytes for s in v.slots)
        >= ask.devices
    } - without
    assert set(weights) == fit
    assert all(0 <= w < math.inf for w in weights.values())
    if not fit:
        with pytest.raises(NodeUnreachable):
            made.choose(ask, 0.0, random.Random(seed), without)
        return
    chosen = made.choose(ask, 0.0, random.Random(seed), without)
    assert chosen.node.node_id in fit
    assert chosen.weight == weights[chosen.node.node_id]
    assert 0 <= chosen.chance <= 1
    if any(weights.values()):
        assert chosen.weight > 0
    assert twin.choose(ask, 0.0, random.Random(seed), without) == chosen


def test_the_same_seed_chooses_the_same_whatever_the_order_of_news() -> None:
    views = [view(name) for name in "abcd"]
    for seed in range(20):
        chosen = {
            pool(*order).choose(Ask(), 0.0, random.Random(seed)).node.node_id
            for order in (views, views[::-1])
        }
        assert len(chosen) == 1


@given(st.integers(1, PPM - 1), st.floats(0.1, 50), st.floats(200e-6, 0.5), st.sampled_from("fcr"))
def test_more_free_faster_or_nearer_weighs_more(
    ppm: int, capacity: float, rtt_s: float, what: str
) -> None:
    slot = Slot(GIB, ppm, capacity)
    better = {
        "f": replace(slot, free_ppm=ppm + 1),
        "c": replace(slot, capacity=capacity * 1.01),
        "r": slot,
    }[what]
    made = pool(
        NodeView("a", "", NodeState.READY, (slot,)),
        NodeView("b", "", NodeState.READY, (better,)),
        a=rtt_s,
        b=rtt_s / 1.01 if what == "r" else rtt_s,
    )
    weights = made.weights(Ask(), 0.0)
    assert weights["b"] > weights["a"]


class Day:
    """Clients of two unequal nodes, each with a pool of its own, on a virtual clock.

    Jobs come at random and ask for a tenth of a GPU; each has so much work that the fast node is
    done with it the sooner. What nodes say is said every `period_s`, and what a client asks in
    between the others do not know. A node that has nothing left refuses; the client tries the next.
    """

    def __init__(
        self, seed: int, load: float, capacities: dict[str, float], period_s: float
    ) -> None:
        self.period_s = period_s
        self.rng = random.Random(seed)
        self.capacities = capacities
        self.free_ppm = dict.fromkeys(capacities, PPM)
        self.busy_s = dict.fromkeys(capacities, 0.0)
        self.taken = dict.fromkeys(capacities, 0)
        self.needless = 0  #: jobs turned away while a node had room
        self.pools = [Pool() for _ in range(5)]
        self.rate_hz = load * 10 * sum(capacities.values()) / 4.0  # jobs of 4 s on the slowest

    def run(self, until_s: float) -> None:
        events: list[tuple[float, int, str, str]] = [(0.0, 0, "say", ""), (0.0, 1, "job", "")]
        count = 2
        while events:
            now_s, _, what, name = heapq.heappop(events)
            if now_s > until_s:
                return
            if what == "say":
                for one in self.pools:
                    one.heard(self.views(), now_s)
                heapq.heappush(events, (now_s + self.period_s, count, "say", ""))
            elif what == "end":
                self.free_ppm[name] += PPM // 10
            else:
                if taker := self.place(now_s):
                    lasts_s = self.rng.uniform(2, 6) / self.capacities[taker]
                    self.busy_s[taker] += min(lasts_s, until_s - now_s)
                    heapq.heappush(events, (now_s + lasts_s, count, "end", taker))
                    count += 1
                heapq.heappush(
                    events, (now_s + self.rng.expovariate(self.rate_hz), count, "job", "")
                )
            count += 1

    def views(self) -> list[NodeView]:
        return [
            NodeView(n, n, NodeState.READY, (Slot(8 * GIB, self.free_ppm[n], c),))
            for n, c in self.capacities.items()
        ]

    def place(self, now_s: float) -> str:
        mine = self.rng.choice(self.pools)
        tried: set[str] = set()
        while True:
            try:
                name = mine.choose(Ask(share_ppm=PPM // 10), now_s, self.rng, tried).node.node_id
            except NodeUnreachable:
                self.needless += any(f >= PPM // 10 for f in self.free_ppm.values())
                return ""
            if self.free_ppm[name] >= PPM // 10:
                self.free_ppm[name] -= PPM // 10
                self.taken[name] += 1
                return name
            tried.add(name)
            mine.refused(name, now_s)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("period_s", [0.05, 0.5])
@pytest.mark.parametrize("load", [0.3, 0.6, 0.9])
def test_two_unequal_nodes_get_what_they_can_do(seed: int, load: float, period_s: float) -> None:
    """Ideal: work in proportion to capacity, so that both are equally busy.

    Watch sends each change (here within 0.05 s); 0.5 s is what heartbeats alone would give.
    """
    capacities = {"fast": 3.0, "slow": 1.0}
    day = Day(seed, load, capacities, period_s)
    day.run(200.0)
    work = {n: day.busy_s[n] * capacities[n] for n in capacities}
    for name, capacity in capacities.items():
        ideal = sum(work.values()) * capacity / sum(capacities.values())
        print(f"{name}: {work[name] / ideal:.3f} of the ideal, {day.taken[name]} leases")
        assert work[name] >= 0.9 * ideal
    taken = sum(day.taken.values())
    print(f"{taken} leases, {day.needless} turned away while there was room")
    assert taken > 500
    if period_s < 0.1:
        assert day.needless <= 0.05 * taken


def test_the_same_seed_is_the_same_day() -> None:
    days = [Day(seed, 0.6, {"fast": 3.0, "slow": 1.0}, 0.5) for seed in (7, 7, 8)]
    for day in days:
        day.run(50.0)
    assert days[0].taken == days[1].taken
    assert days[0].busy_s == days[1].busy_s
    assert days[0].busy_s != days[2].busy_s
