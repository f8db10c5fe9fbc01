# SPDX-License-Identifier: Apache-2.0
"""What the page draws: samples of the last minutes, and who held each GPU. Pure.

    state = step(state, picture, now_s)    # once a second
    state.since(number)                    # the samples that a reader has not seen

A figure is what was measured between two pictures, never a guess of what was between:
(1) Device time is the growth of the arbiter's count, over the time it took. A tenant that was not
    in the picture before has no ratio: nobody saw where its count began.
(2) A count that went back began at zero again: another arbiter counts.
(3) A tenant's number is given to another when it ends. Each gets a series number of its own.
(4) Stamps are the wall clock's of the first picture, carried on by the steady one: spans neither
    overlap nor run backwards. A wall clock that was set anew begins everything anew.
(5) Long runs of one tenant are cut, so that a span's use is that of a minute at most.
(6) All of it is bounded, however many tenants there are: the oldest goes first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from harp.api.v1 import control_pb2 as pb

__all__ = ["KEEP", "Bounds", "Point", "Sample", "Series", "Span", "State", "step"]

#: a wall clock so far from where it should be was set anew
_STEP_S = 5.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much is kept."""

    samples: int = 600
    points: int = 60_000  #: of all samples together
    spans: int = 4096  #: that have ended
    span_s: float = 60.0  #: length of one
    back_s: float = 3600.0  #: age of the end of one


KEEP = Bounds()


@dataclass(frozen=True, slots=True)
class Series:
    """A tenant, told from those that had its number before."""

    number: int
    tenant_id: int
    created_s: float
    name: str
    user: str


@dataclass(frozen=True, slots=True)
class Point:
    """A tenant on one of its GPUs."""

    series: int
    uuid: str
    ratio: float | None  #: device time since the sample before, of that time; None: (1)
    mem_bytes: int  #: that counts against its limit, but for what is on the host
    wait_ratio: float | None  #: time it wanted the GPU and had to wait, likewise


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment."""

    number: int  #: 1, 2, 3, ...
    at_s: float  #: see (4)
    span_s: float  #: since the sample before; 0: there was none
    used_bytes: Mapping[str, int]  #: {uuid: memory in use by anybody}
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """A tenant had a GPU's time, in every sample between."""

    series: int
    uuid: str
    begin_s: float
    end_s: float
    used_s: float  #: device time


#: {(tenant_id, created_s)} and the GPU
_Place = tuple[int, str]


@dataclass(frozen=True, slots=True)
class State:
    """What is kept. Made by step() alone."""

    bounds: Bounds = KEEP
    samples: tuple[Sample, ...] = ()  #: oldest first, numbers without a gap
    number: int = 0  #: of the last sample
    ended: tuple[Span, ...] = ()  #: in the order of their ends
    #: {(series, uuid): span that the last sample lengthened or began}
    open: Mapping[_Place, Span] = field(default_factory=dict)
    #: {number: series}; those that live, and those of a sample or span that is kept
    series: Mapping[int, Series] = field(default_factory=dict)
    #: {(tenant_id, created_s): number}; of tenants in the last picture
    living: Mapping[tuple[int, float], int] = field(default_factory=dict)
    #: {(series, uuid): (used_ns, wait_ns)} in the last picture
    counts: Mapping[_Place, tuple[int, int]] = field(default_factory=dict)
    points: int = 0  #: in `samples`
    next_series: int = 1
    now_s: float = 0.0  #: steady clock of the last picture
    offset_s: float = 0.0  #: from the steady clock to stamps

    def since(self, number: int) -> tuple[Sample, ...]:
        """The samples after that number that are still there."""
        if not self.samples or number >= self.number:
            return ()
        return self.samples[max(0, number - self.samples[0].number + 1) :]

    def spans(self) -> tuple[Span, ...]:
        """All spans, those that go on last."""
        return (*self.ended, *self.open.values())


def step(state: State, picture: pb.GetStateReply, now_s: float) -> State:
    """The state after one more picture.

    Args:
        state: before.
        picture: as GetState answers it.
        now_s: the steady clock; later than in the step before.
    """
    begun = bool(state.samples)
    if begun and abs(now_s + state.offset_s - picture.now_s) > _STEP_S:
        # Numbers go on, so that a reader of before is not told that it has seen these.
        state = State(state.bounds, number=state.number, next_series=state.next_series)
        begun = False
    if not begun:
        state = replace(state, offset_s=picture.now_s - now_s)
    state, living = _name(state, picture)
    span_s = now_s - state.now_s if begun else 0.0
    counts: dict[_Place, tuple[int, int]] = {}
    points = []
    for tenant in picture.tenants:
        number = living[tenant.tenant_id, tenant.created_s]
        for use in tenant.uses:
            place = number, use.uuid
            counts[place] = use.used_ns, use.wait_ns
            before = state.counts.get(place) if span_s > 0 else None
            ratio, wait = (
                _grown(now, then, span_s)
                for now, then in zip(counts[place], before or (None, None), strict=True)
            )
            points.append(Point(number, use.uuid, ratio, _here_bytes(use), wait))
    at_s = now_s + state.offset_s
    used = {device.uuid: device.used_bytes for device in picture.devices}
    sample = Sample(state.number + 1, at_s, span_s, used, tuple(points))
    state = _add(state, sample)
    state = _hold(state, sample)
    state = replace(state, counts=counts, living=living, now_s=now_s)
    return _forget(state)


def _here_bytes(use: pb.DeviceUse) -> int:
    """What it has of the GPU's memory: what left with a swap or a suspension counts on the host."""
    away_bytes = max(0, use.residency.swap_bytes - use.residency.on_device_bytes)
    return max(0, use.charged_bytes - away_bytes)


def _grown(now_ns: int, then_ns: int | None, span_s: float) -> float | None:
    if then_ns is None:
        return None
    return (now_ns - then_ns if now_ns >= then_ns else now_ns) / 1e9 / span_s


def _name(state: State, picture: pb.GetStateReply) -> tuple[State, Mapping[tuple[int, float], int]]:
    """Series of those in the picture; new ones get the next numbers."""
    series, living, number = dict(state.series), {}, state.next_series
    for tenant in picture.tenants:
        key = tenant.tenant_id, tenant.created_s
        if key in state.living:
            living[key] = state.living[key]
            continue
        living[key] = number
        series[number] = Series(number, *key, tenant.name, tenant.user)
        number += 1
    return replace(state, series=series, next_series=number), living


def _add(state: State, sample: Sample) -> State:
    samples, points = [*state.samples, sample], state.points + len(sample.points)
    gone = 0
    while len(samples) - gone > state.bounds.samples or (
        points > state.bounds.points and len(samples) - gone > 1
    ):
        points -= len(samples[gone].points)
        gone += 1
    return replace(state, samples=tuple(samples[gone:]), points=points, number=sample.number)


def _hold(state: State, sample: Sample) -> State:
    """Lengthen, begin and end spans."""
    bounds, begin_s = state.bounds, sample.at_s - sample.span_s
    going: dict[_Place, Span] = {}
    for point in sample.points:
        if not point.ratio:
            continue
        place, used_s = (point.series, point.uuid), point.ratio * sample.span_s
        span = state.open.get(place)
        if span is not None and sample.at_s - span.begin_s <= bounds.span_s:
            going[place] = replace(span, end_s=sample.at_s, used_s=span.used_s + used_s)
        else:
            begin = begin_s if span is None else span.end_s
            going[place] = Span(*place, begin, sample.at_s, used_s)
    ended = [
        span
        for place, span in state.open.items()
        if place not in going or going[place].begin_s != span.begin_s
    ]
    oldest_s = sample.at_s - bounds.back_s
    kept = [span for span in (*state.ended, *ended) if span.end_s >= oldest_s]
    return replace(state, ended=tuple(kept[-bounds.spans :]), open=going)


def _forget(state: State) -> State:
    """Drop names that nothing shows any more: seldom, for it looks at everything."""
    if len(state.series) <= 2 * len(state.living) + 64:
        return state
    shown = set(state.living.values()) | {span.series for span in state.spans()}
    for sample in state.samples:
        shown.update(point.series for point in sample.points)
    return replace(state, series={n: s for n, s in state.series.items() if n in shown})
