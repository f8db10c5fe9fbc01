# SPDX-License-Identifier: Apache-2.0
"""A lease as its holder sees it. Pure: what was heard comes in, what is to be done comes out.

`step(hold, event, now_s) -> actions`. The other side of leases.py: that one grants, this one keeps.

A session is made ahead, and offered to the programs: the first call of one then waits for nobody.
When a program has taken it, the next one is made.

Invariants:
(1) a lease is renewed before half of its ttl is over, and believed in no longer than its renewal
    says, counted from when we asked: we end our sessions before the node does;
(2) at most one session is offered or being made;
(3) each session that was made is detached once, unless the lease is over, which ends them all;
(4) what is over stays over: only Detach comes of it, for what was on its way.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = [
    "Action",
    "Admit",
    "Attach",
    "Attached",
    "Deny",
    "Detach",
    "Detached",
    "Ended",
    "Event",
    "Hold",
    "Lose",
    "Move",
    "NotAttached",
    "NotOffered",
    "NotRenewed",
    "Offer",
    "Renew",
    "Renewed",
    "Say",
    "Taken",
    "Tick",
    "held",
    "next_s",
    "step",
]

#: parts of the ttl: until the next renewal, and until one that failed is tried again
_RENEW = 0.4
_AGAIN = 0.1
#: a session that could not be made is tried again after this time, or when another one has ended
_ATTACH_AGAIN_S = 1.0


@dataclass(slots=True)
class Hold:
    """One lease. Only step() writes."""

    ttl_s: float
    expires_s: float  #: nobody has renewed it by then: it is over
    renew_s: float  #: when to ask for that
    renewing: bool = False
    attaching: bool = False
    attach_s: float = 0.0  #: not before
    offered: set[str] = field(default_factory=set)  #: sessions that wait for a program
    running: set[str] = field(default_factory=set)  #: sessions that a program has
    denied: bool = False  #: programs are told why there is no session
    draining: bool = False
    over: bool = False


def held(ttl_s: float, asked_s: float, now_s: float) -> Hold:
    """A lease that was asked for at `asked_s`, and granted for `ttl_s`.

    Granting takes its time, and only then the ttl begins. We cannot know when that was; but nothing
    runs under it yet, and the first renewal tells.
    """
    return Hold(ttl_s, now_s + ttl_s, asked_s + _RENEW * ttl_s)


@dataclass(frozen=True, slots=True)
class Renewed:
    """The node lets it run on."""

    ttl_s: float
    asked_s: float
    draining: bool = False
    drain_s: float = 0.0  #: until its sessions end; 0: they are not ended


@dataclass(frozen=True, slots=True)
class NotRenewed:
    """The node did not answer, or does not know the lease any more."""

    why: str
    final: bool


@dataclass(frozen=True, slots=True)
class Attached:
    """A session was made."""

    session_id: str


@dataclass(frozen=True, slots=True)
class NotAttached:
    """None could be made."""

    why: str


@dataclass(frozen=True, slots=True)
class NotOffered:
    """One was made, but programs cannot be told of it."""

    session_id: str
    why: str


@dataclass(frozen=True, slots=True)
class Taken:
    """A program has the session."""

    session_id: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The program, or its connection, has ended."""

    session_id: str


@dataclass(frozen=True, slots=True)
class Detached:
    """The node has heard of an end, or will not."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time went by."""


Event = Renewed | NotRenewed | Attached | NotAttached | NotOffered | Taken | Ended | Detached | Tick


@dataclass(frozen=True, slots=True)
class Renew:
    """Ask the node; an answer after this time is of no use."""

    timeout_s: float


@dataclass(frozen=True, slots=True)
class Attach:
    """Make a session."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Let a program have it."""

    session_id: str


@dataclass(frozen=True, slots=True)
class Detach:
    """Tell the node that it is not needed any more."""

    session_id: str


@dataclass(frozen=True, slots=True)
class Deny:
    """Tell programs why they get no session."""

    why: str


@dataclass(frozen=True, slots=True)
class Admit:
    """There are sessions again."""


@dataclass(frozen=True, slots=True)
class Say:
    """Tell the user."""

    text: str


@dataclass(frozen=True, slots=True)
class Lose:
    """The lease is over: its programs' sessions end here."""

    why: str
    sessions: int  #: that programs had


@dataclass(frozen=True, slots=True)
class Move:
    """The node drains and no program has a session: look for another node."""


Action = Renew | Attach | Offer | Detach | Deny | Admit | Say | Lose | Move


def next_s(hold: Hold) -> float:
    """When the next Tick changes something."""
    if hold.over:
        return float("inf")
    moments = [hold.expires_s]
    if not hold.renewing:
        moments.append(hold.renew_s)
    if _wants_session(hold):
        moments.append(hold.attach_s)
    return min(moments)


def step(hold: Hold, event: Event, now_s: float) -> list[Action]:
    """Change `hold` by one event.

    Returns:
        What is to be done, in this order.
    """
    if hold.over:
        return [Detach(event.session_id)] if isinstance(event, Attached | Ended) else []
    return [*_do(hold, event, now_s), *_due(hold, now_s)]


def _do(hold: Hold, event: Event, now_s: float) -> list[Action]:
    admit: list[Action]
    match event:
        case Renewed():
            return _renewed(hold, event)
        case NotRenewed():
            hold.renewing = False
            hold.renew_s = now_s + _AGAIN * hold.ttl_s
            if event.final or now_s >= hold.expires_s:
                return _lose(hold, event.why)
        case Attached():
            hold.attaching = False
            hold.offered.add(event.session_id)
            admit = [Admit()] if hold.denied else []
            hold.denied = False
            return [*admit, Offer(event.session_id)]
        case NotAttached():
            hold.attaching = False
            hold.attach_s = now_s + _ATTACH_AGAIN_S
            hold.denied = True
            return [Deny(event.why)]
        case NotOffered():
            hold.offered.discard(event.session_id)
            hold.attach_s = now_s + _ATTACH_AGAIN_S
            hold.denied = True
            return [Detach(event.session_id), Deny(event.why)]
        case Taken():
            hold.offered.discard(event.session_id)
            hold.running.add(event.session_id)
        case Ended():
            hold.offered.discard(event.session_id)
            hold.running.discard(event.session_id)
            admit = [Admit()] if hold.denied else []
            hold.denied = False  # there may be room now: who comes meanwhile waits
            return [Detach(event.session_id), *admit, *_move(hold)]
        case Detached():
            if not hold.denied:
                hold.attach_s = now_s
        case Tick():
            pass
    return []


def _renewed(hold: Hold, event: Renewed) -> list[Action]:
    hold.renewing = False
    hold.ttl_s = event.ttl_s or hold.ttl_s
    hold.expires_s = event.asked_s + event.ttl_s
    hold.renew_s = event.asked_s + _RENEW * event.ttl_s
    news = event.draining and not hold.draining
    hold.draining = event.draining
    if news and hold.running:
        when = f"ends its sessions in {event.drain_s:.0f} s" if event.drain_s else "ends none"
        return [Say(f"the node is being drained: it takes no new sessions, and {when}")]
    return _move(hold)


def _move(hold: Hold) -> list[Action]:
    return [Move()] if hold.draining and not hold.running else []


def _due(hold: Hold, now_s: float) -> list[Action]:
    """What time alone demands."""
    if hold.over:
        return []
    if now_s >= hold.expires_s:
        return _lose(hold, f"it could not be renewed within {hold.ttl_s:g} s")
    actions: list[Action] = []
    if not hold.renewing and now_s >= hold.renew_s:
        hold.renewing = True
        actions.append(Renew(min(hold.expires_s - now_s, hold.ttl_s * _RENEW)))
    if _wants_session(hold) and now_s >= hold.attach_s:
        hold.attaching = True
        actions.append(Attach())
    return actions


def _wants_session(hold: Hold) -> bool:
    return not (hold.attaching or hold.offered or hold.draining)


def _lose(hold: Hold, why: str) -> list[Action]:
    hold.over = True
    lost = Lose(why, len(hold.running))
    hold.offered.clear()
    hold.running.clear()
    return [lost]
