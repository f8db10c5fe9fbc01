# SPDX-License-Identifier: Apache-2.0
"""Who is given which sample, and when there is one. Pure.

step(state, event, now) -> (state, actions)
    Join, Ready, Leave (a watcher's) ──┐             ┌── Send, End (a watcher's)
    Tick (when next_ns() says)  ───────┼── step() ───┴── Look: one, however many watch
    Looked (what came of it), Given  ──┤
    Late (who was given one late) ─────┘
(1) Nobody watches: nobody looks. There is one look at a time, at the rate of who asked for the
    highest; others take of its samples those that come nearest to when theirs are due.
(2) A watcher is given a sample when it has taken the one before. Until then the newest waits for
    it, one; what that takes the place of is counted.
(3) Looking and giving take no more than a quarter of harpd's time, whatever is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from harp.errors import ConfigError, DaemonUnreachable, QuotaExceeded

__all__ = [
    "MOST",
    "MOST_OF_A_USER",
    "Action",
    "End",
    "Event",
    "Fanout",
    "Given",
    "Join",
    "Late",
    "Leave",
    "Look",
    "Looked",
    "Ready",
    "Send",
    "Stop",
    "Tick",
    "Watcher",
    "next_ns",
    "step",
]

#: watchers at a time: of one user, and in all
MOST_OF_A_USER = 16
MOST = 64
_SHORTEST_MS = 10
_LONGEST_MS = 1000
_NS_PER_MS = 1_000_000
#: after a look harpd does other things for so many times as long as it and its samples took
_REST = 3


@dataclass(frozen=True, slots=True)
class Watcher:
    """Somebody who reads samples."""

    uid: int
    interval_ns: int
    due_ns: int | None = None  #: when its next sample is; None: as soon as there is one
    ready: bool = False  #: it has taken all that it was sent
    newest: object | None = None  #: waits for it; None: nothing does, or it is ready
    dropped: int = 0  #: samples that were due since it was sent one, and will not be sent


@dataclass(frozen=True, slots=True)
class Fanout:
    """All who watch."""

    #: {number: watcher}
    watchers: Mapping[int, Watcher] = field(default_factory=dict)
    #: when the look began that is not done, its samples not given; None: all are
    looking_ns: int | None = None
    beat_ns: int = 0  #: the moment that the last look was for
    rest_ns: int = 0  #: until when harpd does other things
    counted_ns: int = 0  #: what it did until then is in rest_ns
    ended: bool = False  #: nobody watches any more, and nobody will


@dataclass(frozen=True, slots=True)
class Join:
    """Somebody wants to watch."""

    watcher: int  #: a number that no other has had
    uid: int
    interval_ms: int  #: 0: the longest


@dataclass(frozen=True, slots=True)
class Ready:
    """A watcher has taken all that it was sent."""

    watcher: int


@dataclass(frozen=True, slots=True)
class Leave:
    """A watcher is gone; or was already."""

    watcher: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What came of a Look."""

    sample: object


@dataclass(frozen=True, slots=True)
class Given:
    """Those who were ready have the sample of a Looked."""


@dataclass(frozen=True, slots=True)
class Late:
    """A watcher that became ready between two looks has the sample that waited for it."""

    begun_ns: int  #: when it became ready


@dataclass(frozen=True, slots=True)
class Stop:
    """harpd ends."""


Event = Join | Ready | Leave | Tick | Looked | Given | Late | Stop


@dataclass(frozen=True, slots=True)
class Look:
    """Make a sample, and say Looked, and Given."""


@dataclass(frozen=True, slots=True)
class Send:
    """Give a sample to a watcher; when it has taken it, say Ready."""

    watcher: int
    sample: object
    dropped: int  #: since the one before


@dataclass(frozen=True, slots=True)
class End:
    """End a watcher's stream."""

    watcher: int


Action = Look | Send | End


def next_ns(state: Fanout) -> int | None:
    """When the next Tick does something; None: not before somebody joins, or a look is done."""
    if state.looking_ns is not None or not state.watchers:
        return None
    return max(_beat_ns(state), state.rest_ns)


def step(state: Fanout, event: Event, now_ns: int) -> tuple[Fanout, list[Action]]:
    """One event.

    Args:
        state: what there is.
        event: what has happened.
        now_ns: when, by a clock that nobody sets.

    Returns:
        What there is now, and what is to be done, in this order.

    Raises:
        ConfigError: an interval that is out of range. This and the following: of Join.
        QuotaExceeded: too many watch.
        DaemonUnreachable: harpd ends.
    """
    match event:
        case Join():
            return _joined(state, event), []
        case Ready(number) if number in state.watchers:
            watcher, actions = _taken(number, state.watchers[number])
            return _with(state, number, watcher), actions
        case Leave(number) if number in state.watchers:
            return _left(state, number), []
        case Tick():
            due_ns = next_ns(state)
            if due_ns is None or due_ns > now_ns:
                return state, []
            # A beat that is late is made up for, so that the rate holds; many are not.
            beat_ns = _beat_ns(state)
            if now_ns - beat_ns > _period_ns(state):
                beat_ns = now_ns
            return replace(state, looking_ns=now_ns, beat_ns=beat_ns), [Look()]
        case Looked(sample) if state.looking_ns is not None:
            return _looked(state, sample)
        case Given() if state.looking_ns is not None:
            rest_ns = now_ns + _REST * (now_ns - state.looking_ns)
            return replace(state, looking_ns=None, rest_ns=rest_ns, counted_ns=now_ns), []
        case Late(begun_ns) if state.looking_ns is None:  # else the look's time has it
            took_ns = now_ns - max(begun_ns, state.counted_ns)
            rest_ns = max(state.rest_ns, now_ns) + _REST * took_ns
            return replace(state, rest_ns=rest_ns, counted_ns=now_ns), []
        case Stop():
            return Fanout(ended=True), [End(number) for number in state.watchers]
        case _:
            return state, []  # of who is gone


def _joined(state: Fanout, event: Join) -> Fanout:
    if state.ended:
        raise DaemonUnreachable("harpd ends", "start it again: harp daemon")
    interval_ms = event.interval_ms or _LONGEST_MS
    if not _SHORTEST_MS <= interval_ms <= _LONGEST_MS:
        raise ConfigError(
            f"an interval of {interval_ms} ms is not one of {_SHORTEST_MS} to {_LONGEST_MS} ms",
            "ask for one of these; 0 is the longest",
        )
    own = sum(watcher.uid == event.uid for watcher in state.watchers.values())
    for count, most, who in (
        (own, MOST_OF_A_USER, f"of uid {event.uid}"),
        (len(state.watchers), MOST, "of all users"),
    ):
        if count >= most:
            raise QuotaExceeded(
                f"{count} watch harpd already, the most {who}",
                "end one (`harp top` is one), or ask now and then: GetState has no such limit",
            )
    return _with(state, event.watcher, Watcher(event.uid, interval_ms * _NS_PER_MS))


def _with(state: Fanout, number: int, watcher: Watcher) -> Fanout:
    return replace(state, watchers={**state.watchers, number: watcher})


def _left(state: Fanout, number: int) -> Fanout:
    left = {n: watcher for n, watcher in state.watchers.items() if n != number}
    if not left:
        return replace(state, watchers={}, beat_ns=0)
    state = replace(state, watchers=left)
    # If it was the fastest the next beat is later: not so late that somebody waits twice as long.
    dues = [watcher.due_ns for watcher in left.values() if watcher.due_ns is not None]
    soonest_ns = min(dues, default=state.beat_ns + _period_ns(state))
    return replace(state, beat_ns=min(state.beat_ns, soonest_ns - _period_ns(state)))


def _period_ns(state: Fanout) -> int:
    return min(watcher.interval_ns for watcher in state.watchers.values())


def _beat_ns(state: Fanout) -> int:
    """The moment that the next look is for."""
    if any(watcher.due_ns is None for watcher in state.watchers.values()):
        return 0
    return state.beat_ns + _period_ns(state)


def _taken(number: int, watcher: Watcher) -> tuple[Watcher, list[Action]]:
    if watcher.newest is None:
        return replace(watcher, ready=True), []
    sent = Send(number, watcher.newest, watcher.dropped)
    return replace(watcher, ready=False, newest=None, dropped=0), [sent]


def _looked(state: Fanout, sample: object) -> tuple[Fanout, list[Action]]:
    watchers: dict[int, Watcher] = {}
    actions: list[Action] = []
    near_ns = state.beat_ns + (_period_ns(state) // 2 if state.watchers else 0)
    for number, before in state.watchers.items():
        if before.due_ns is not None and before.due_ns > near_ns:
            watchers[number] = before
            continue
        due_ns = (before.due_ns or 0) + before.interval_ns
        if due_ns <= near_ns:  # its first, or beats were left out
            due_ns = state.beat_ns + before.interval_ns
        dropped = before.dropped + (before.newest is not None)
        watcher = replace(before, due_ns=due_ns, newest=sample, dropped=dropped)
        sent: list[Action] = []
        if watcher.ready:
            watcher, sent = _taken(number, watcher)
        watchers[number] = watcher
        actions.extend(sent)
    return replace(state, watchers=watchers), actions
