# SPDX-License-Identifier: Apache-2.0
"""Samples and spans: what was measured, each tenant's own, bounded, whatever comes."""

from __future__ import annotations

import itertools
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harp.api.v1 import control_pb2 as pb
from harp.web.samples import KEEP, Bounds, State, step

GPU, OTHER = "GPU-a", "GPU-b"
#: wall clock at 0 s of the steady one
WALL_S = 1_700_000_000.0


def tenant(
    number: int, used_s: float, *, name: str = "", born_s: float = 1.0, **more: int
) -> pb.Tenant:
    use = pb.DeviceUse(uuid=GPU, used_ns=round(used_s * 1e9), **more)
    return pb.Tenant(
        tenant_id=number, name=name or f"t{number}", user="u", created_s=born_s, uses=[use]
    )


def picture(now_s: float, *tenants: pb.Tenant, used_bytes: int = 0) -> pb.GetStateReply:
    device = pb.Device(uuid=GPU, index=0, used_bytes=used_bytes)
    return pb.GetStateReply(devices=[device], tenants=tenants, now_s=WALL_S + now_s)


def run(*pictures: tuple[float, pb.GetStateReply], bounds: Bounds = KEEP) -> State:
    state = State(bounds)
    for now_s, one in pictures:
        state = step(state, one, now_s)
    return state


def ratios(state: State) -> list[dict[str, float | None]]:
    """{name: ratio} of each sample."""
    return [{state.series[p.series].name: p.ratio for p in s.points} for s in state.samples]


def test_a_ratio_is_the_growth_of_the_count_over_the_time_it_took() -> None:
    state = run(
        (5, picture(5, tenant(1, 3.0, charged_bytes=7, wait_ns=0), used_bytes=9)),
        (7, picture(7, tenant(1, 3.5, charged_bytes=8, wait_ns=500_000_000))),
    )
    first, second = state.samples
    assert ratios(state) == [{"t1": None}, {"t1": 0.25}]
    assert (first.number, first.span_s, first.used_bytes) == (1, 0, {GPU: 9})
    assert (second.number, second.span_s, second.at_s) == (2, 2, WALL_S + 7)
    (point,) = second.points
    assert (point.mem_bytes, point.wait_ratio) == (8, 0.25)


@pytest.mark.parametrize(
    ("swap", "on_device", "here"),
    [(0, 0, 9), (8, 8, 9), (8, 0, 1), (8, 6, 7), (20, 0, 0), (6, 8, 9)],
    ids=["none", "there", "away", "partly", "late", "odd"],
)
def test_memory_on_the_host_is_none_of_the_gpu_s(swap: int, on_device: int, here: int) -> None:
    moved = pb.Residency(swap_bytes=swap, on_device_bytes=on_device)
    one = tenant(1, 1.0, charged_bytes=9)
    one.uses[0].residency.CopyFrom(moved)
    (point,) = run((1, picture(1, one))).samples[0].points
    assert point.mem_bytes == here


def test_a_count_that_went_back_began_at_zero() -> None:
    state = run((1, picture(1, tenant(1, 9.0))), (2, picture(2, tenant(1, 0.5))))
    assert ratios(state)[1] == {"t1": 0.5}


def test_a_tenant_that_was_not_there_before_has_no_ratio() -> None:
    state = run((1, picture(1)), (2, picture(2, tenant(1, 9.0))), (3, picture(3, tenant(1, 9.25))))
    assert ratios(state) == [{}, {"t1": None}, {"t1": 0.25}]
    (span,) = state.spans()
    assert (span.begin_s, span.end_s, span.used_s) == (WALL_S + 2, WALL_S + 3, 0.25)


def test_who_gets_a_number_again_is_another_series() -> None:
    state = run(
        (1, picture(1, tenant(1, 1.0, name="old"))),
        (2, picture(2, tenant(1, 1.5, name="old"))),
        (3, picture(3, tenant(1, 0.5, name="new", born_s=2.5))),
        (4, picture(4, tenant(1, 0.75, name="new", born_s=2.5))),
    )
    assert ratios(state) == [{"old": None}, {"old": 0.5}, {"new": None}, {"new": 0.25}]
    assert [state.series[s.series].name for s in state.spans()] == ["old", "new"]


def test_a_span_lasts_while_its_tenant_has_device_time() -> None:
    counts = [0.0, 0.5, 1.0, 1.0, 1.0, 1.25]
    state = run(*((at, picture(at, tenant(1, used))) for at, used in enumerate(counts)))
    found = [(s.begin_s - WALL_S, s.end_s - WALL_S, s.used_s) for s in state.spans()]
    assert found == [(0, 2, 1.0), (4, 5, 0.25)]
    assert len(state.open) == 1


def test_a_long_span_is_cut() -> None:
    bounds = Bounds(span_s=10)
    state = run(*((at, picture(at, tenant(1, at / 2))) for at in range(26)), bounds=bounds)
    assert [(s.begin_s - WALL_S, s.end_s - WALL_S) for s in state.spans()] == [
        (0, 10),
        (10, 20),
        (20, 25),
    ]


def test_a_pause_of_the_looks_is_one_long_sample() -> None:
    state = run((1, picture(1, tenant(1, 1.0))), (31, picture(31, tenant(1, 4.0))))
    assert ratios(state)[1] == {"t1": pytest.approx(0.1)}
    (span,) = state.spans()
    assert span.end_s - span.begin_s == 30


def test_a_wall_clock_that_was_set_begins_anew_and_numbers_go_on() -> None:
    before = run((1, picture(1, tenant(1, 1.0))), (2, picture(2, tenant(1, 1.5))))
    after = step(before, picture(3602, tenant(1, 2.0)), 3.0)
    assert [s.number for s in after.samples] == [3]
    assert after.samples[0].at_s == WALL_S + 3602
    assert ratios(after) == [{"t1": None}]
    assert after.spans() == ()
    (number,) = after.series
    assert number not in before.series


def test_a_wall_clock_that_drifts_is_followed_by_nobody() -> None:
    state = run((1, picture(1)), (2, picture(2.5)), (3, picture(6)))
    assert [s.at_s - WALL_S for s in state.samples] == [1, 2, 3]


def test_since_gives_what_a_reader_has_not_seen() -> None:
    state = run(*((at, picture(at)) for at in range(1, 9)), bounds=Bounds(samples=5))
    assert [s.number for s in state.since(0)] == [4, 5, 6, 7, 8]
    assert [s.number for s in state.since(3)] == [4, 5, 6, 7, 8]
    assert [s.number for s in state.since(6)] == [7, 8]
    assert state.since(8) == state.since(99) == State().since(0) == ()


def test_many_tenants_leave_room_for_fewer_samples_and_one_is_always_there() -> None:
    crowd = [tenant(n, 0) for n in range(1, 8)]
    bounds = Bounds(points=20)
    state = run(*((at, picture(at, *crowd)) for at in range(1, 9)), bounds=bounds)
    assert [s.number for s in state.samples] == [7, 8]
    assert state.points == 14
    state = run(*((at, picture(at, *crowd)) for at in range(1, 9)), bounds=Bounds(points=3))
    assert [s.number for s in state.samples] == [8]


def test_old_spans_are_forgotten_and_no_more_than_so_many_kept() -> None:
    on_and_off = [(at, picture(at, tenant(1, (at + 1) // 2 / 2))) for at in range(101)]
    assert len(run(*on_and_off).spans()) == 50
    few = run(*on_and_off, bounds=Bounds(spans=7)).ended
    assert [s.end_s - WALL_S for s in few] == [87, 89, 91, 93, 95, 97, 99]
    young = run(*on_and_off, bounds=Bounds(back_s=10)).ended
    assert [s.end_s - WALL_S for s in young] == [91, 93, 95, 97, 99]


def test_names_are_kept_for_as_long_as_something_shows_them() -> None:
    """Each tenant lives two seconds; samples keep them 3 s, spans 9."""
    state = State(Bounds(samples=3, back_s=9))
    most = 0
    for at in range(1, 501):
        both = [tenant(n, 0.5 * (at - n)) for n in (at - 1, at)]
        state = step(state, picture(at, *both), at)
        assert {p.series for s in state.samples for p in s.points} <= state.series.keys()
        assert {s.series for s in state.spans()} <= state.series.keys()
        most = max(most, len(state.series))
    assert 64 < most <= 2 * 2 + 64 + 2
    held = {state.series[s.series].name for s in state.spans()}
    assert held == {f"t{n}" for n in range(490, 500)}
    seen = State(Bounds(samples=200, spans=1))  # who never had the GPU is in samples alone
    for at in range(1, 201):
        seen = step(seen, picture(at, tenant(at, 0)), at)
    assert [seen.series[s.points[0].series].name for s in seen.samples] == [
        f"t{n}" for n in range(1, 201)
    ]


#: of each second: how long it was, and {tenant: device time it used}
_SECONDS = st.lists(
    st.tuples(
        st.floats(0.1, 4.0),
        st.dictionaries(st.integers(1, 4), st.sampled_from([0.0, 0.0, 0.05, 0.5, 1.0, 2.5])),
        st.booleans(),  # another arbiter counts: from 0
    ),
    max_size=40,
)


@given(_SECONDS, st.integers(1, 50), st.integers(1, 60), st.integers(1, 30), st.floats(1, 30))
def test_whatever_comes(
    seconds: list[tuple[float, dict[int, float], bool]],
    samples: int,
    points: int,
    spans: int,
    span_s: float,
) -> None:
    """Bounds hold, spans tell what samples tell, nobody is shown twice at once."""
    bounds = Bounds(samples, points, spans, span_s)
    state, whole = State(bounds), State(Bounds(span_s=span_s))
    now_s = 10.0
    counts: dict[int, float] = {}
    for length_s, used, anew in seconds:
        now_s += length_s
        before = counts
        counts = {n: one + (0 if anew else before.get(n, 0)) for n, one in used.items()}
        shown = picture(now_s, *(tenant(n, used_s) for n, used_s in counts.items()))
        state, whole = step(state, shown, now_s), step(whole, shown, now_s)
        for point in state.samples[-1].points if len(whole.samples) > 1 else ():
            number = state.series[point.series].tenant_id
            if number not in before:
                assert point.ratio is None
                continue
            grown = counts[number] - before[number]
            expected = (grown if grown >= 0 else counts[number]) / length_s
            assert point.ratio == pytest.approx(expected, abs=1e-6)
        assert len(state.samples) <= samples
        assert len(state.samples) == 1 or state.points <= points
        assert state.points == sum(len(s.points) for s in state.samples)
        assert len(state.ended) <= spans
        assert {p.series for s in state.samples for p in s.points} <= state.series.keys()
        assert {s.series for s in state.spans()} <= state.series.keys()
        numbers = [s.number for s in state.samples]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert state.samples == whole.samples[-len(state.samples) :]
        assert state.since(numbers[-1] - 1) == state.samples[-1:]
    told: dict[int, float] = defaultdict(float)
    for sample in whole.samples:
        for point in sample.points:
            assert point.ratio is None or point.ratio >= 0
            told[point.series] += (point.ratio or 0) * sample.span_s
    by_series: dict[int, list[tuple[float, float]]] = defaultdict(list)
    held: dict[int, float] = defaultdict(float)
    for span in whole.spans():
        assert span.end_s > span.begin_s
        assert span.used_s > 0
        held[span.series] += span.used_s
        by_series[span.series].append((span.begin_s, span.end_s))
    for series in told.keys() | held.keys():
        assert held[series] == pytest.approx(told[series], abs=1e-6)
    for found in by_series.values():
        for (_, end_s), (begin_s, _) in itertools.pairwise(sorted(found)):
            assert begin_s >= end_s - 1e-6
