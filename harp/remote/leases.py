# SPDX-License-Identifier: Apache-2.0
"""Leases and their sessions. Pure: time, names and secrets come in, what is to be done comes out.

`step(state, event, now_s) -> actions`. An event that is refused raises and changes nothing.

Invariants:
(1) a session belongs to a lease that is there, and a lease has at most max_sessions of them;
(2) a lease that has run out, or whose node has drained, is gone before the next event is looked at;
(3) each Start is followed by one End, each take by one GiveBack, and GiveBack by neither;
(4) to all but its owner a lease does not exist;
(5) no secret is kept, only its hash.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from harp.errors import ConfigError, NodeDraining, QuotaExceeded, Unauthenticated, UnknownLease
from harp.remote.events import (
    Action,
    Attach,
    Caller,
    Detach,
    Drain,
    End,
    Ended,
    Event,
    GiveBack,
    Lease,
    NodeState,
    Release,
    Renew,
    Session,
    Start,
    Take,
    Tell,
    Tick,
)
from harp.units import format_duration

__all__ = ["Leases", "check", "digest", "holder", "next_s", "step"]

TTL_S = 2.0
TTL_MAX_S = 60.0
#: two renewals and a slow network must fit
TTL_MIN_S = 0.2
SESSIONS = 16
SESSIONS_MAX = 256
RESUME_S = 10.0
RESUME_MAX_S = 60.0
DRAIN_MAX_S = 86_400.0
#: one owner cannot fill a node's tables
LEASES_PER_OWNER = 64
#: harp-link far has 256 places for connections. Once so many have a session, the rest is left to
#: others than who has most of them
SESSIONS_BUSY = 192
SESSIONS_PER_OWNER = 128
#: compared with where there is no such lease: a guess takes as long as a near miss
_NOBODY = bytes(32)


@dataclass(slots=True)
class Leases:
    """All of one node. Only step() writes."""

    leases: dict[str, Lease] = field(default_factory=dict)  #: {lease_id: it}
    state: NodeState = NodeState.READY
    drained_s: float = math.inf  #: sessions end then; inf: none is ended
    version: int = 1  #: grows with each change that others can see

    def sessions(self) -> Iterator[Session]:
        """Those of all leases."""
        for lease in self.leases.values():
            yield from lease.sessions.values()

    def drain_s(self, now_s: float) -> float:
        """Seconds until sessions end; 0: they are not ended."""
        return max(0.0, self.drained_s - now_s) if math.isfinite(self.drained_s) else 0.0


def digest(token: str) -> bytes:
    """What is kept of a secret of full entropy: one round is enough."""
    return hashlib.sha256(token.encode()).digest()


def holder(state: Leases, token: str, now_s: float) -> Caller:
    """Who a lease's token stands for.

    A token is "<lease_id>.<secret>"; the hash is of the whole.

    Raises:
        Unauthenticated: for nobody, or its lease has run out.
    """
    lease_id, _, _ = token.partition(".")
    lease = state.leases.get(lease_id)
    known = hmac.compare_digest(lease.token_hash if lease else _NOBODY, digest(token))
    if lease is None or not known or lease.expires_s <= now_s:
        raise Unauthenticated(
            "the lease token is unknown here, or has run out with its lease",
            "take a new lease; one that is not renewed runs out within its ttl",
        )
    return Caller(lease.owner, lease.lease_id)


def next_s(state: Leases) -> float:
    """When the next Tick changes something; inf: never."""
    if not state.leases:
        return math.inf
    return min(state.drained_s, *(lease.expires_s for lease in state.leases.values()))


def step(state: Leases, event: Event, now_s: float) -> list[Action]:
    """Change `state` by one event.

    Returns:
        What is to be done, in this order. It includes what time alone has brought about.

    Raises:
        UnknownLease: there is none of that name for this caller.
        NodeDraining: nobody new is taken.
        QuotaExceeded: too many leases or sessions of one owner, or too many sessions of one lease.
        ConfigError: a number that is out of range.
        In these cases only time has passed: the next Tick brings the actions of that.
    """
    if not isinstance(event, Tick) and next_s(state) <= now_s:
        # (2) What is over must be seen as over, but its actions must not be lost with a refusal.
        gone = _over(state, now_s)
        _check(state, event, gone)
        return [*_expire(state, now_s), *_do(state, event, now_s)]
    if isinstance(event, Tick):
        return _expire(state, now_s)
    _check(state, event, frozenset())
    return _do(state, event, now_s)


def check(state: Leases, event: Event, now_s: float, pending: int = 0) -> None:
    """Refuse what step() would refuse, and change nothing.

    Args:
        state: what there is.
        event: what is asked.
        now_s: when.
        pending: leases of the same owner that were checked, and wait for room.

    Raises:
        As step().
    """
    _check(state, event, _over(state, now_s), pending)


def _over(state: Leases, now_s: float) -> frozenset[str]:
    drained = state.drained_s <= now_s
    return frozenset(i for i, x in state.leases.items() if drained or x.expires_s <= now_s)


def _expire(state: Leases, now_s: float) -> list[Action]:
    drained = state.drained_s <= now_s
    actions: list[Action] = []
    for lease_id in sorted(_over(state, now_s)):
        lease = state.leases[lease_id]
        why = "the node has drained" if drained else "the lease was not renewed in time"
        actions += _drop(state, lease, why)
    return actions


def _drop(state: Leases, lease: Lease, reason: str) -> list[Action]:
    del state.leases[lease.lease_id]
    state.version += 1
    ends: list[Action] = [End(session, reason) for session in lease.sessions.values()]
    return [*ends, GiveBack(lease.lease_id)]


def _check(state: Leases, event: Event, gone: frozenset[str], pending: int = 0) -> None:
    """Refuse what must be refused; leases in `gone` are not there any more."""
    match event:
        case Take():
            _within("ttl_s", event.ttl_s, TTL_MIN_S, TTL_MAX_S)
            if not 0 <= event.max_sessions <= SESSIONS_MAX:
                raise ConfigError(
                    f"max_sessions = {event.max_sessions} is out of range",
                    f"ask for 1 to {SESSIONS_MAX}; 0 means {SESSIONS}",
                )
            _check_open(state)
            owned = pending + sum(
                lease.owner == event.owner and i not in gone for i, lease in state.leases.items()
            )
            if owned >= LEASES_PER_OWNER:
                raise QuotaExceeded(
                    f"{event.owner} has {owned} leases here, the most one may have",
                    "release one, or attach several processes under one lease",
                )
        case Renew() | Release():
            _owned(state, event.caller, event.lease_id, gone)
        case Attach():
            lease = _owned(state, event.caller, event.lease_id, gone)
            _within("resume_s", event.resume_s, 0.0, RESUME_MAX_S)
            _check_open(state)
            if len(lease.sessions) >= lease.max_sessions:
                raise QuotaExceeded(
                    f"lease {lease.lease_id} has {len(lease.sessions)} sessions, as many as it was"
                    " taken for",
                    "detach one, or take a lease with a higher max_sessions",
                )
            _check_places(state, lease.owner, gone)
        case Drain():
            _within("deadline_s", event.deadline_s, 0.0, DRAIN_MAX_S)
        case _:
            pass


def _check_places(state: Leases, owner: str, gone: frozenset[str]) -> None:
    counts = [(x.owner, len(x.sessions)) for i, x in state.leases.items() if i not in gone]
    total, owned = sum(n for _, n in counts), sum(n for who, n in counts if who == owner)
    if total >= SESSIONS_BUSY and owned >= SESSIONS_PER_OWNER:
        raise QuotaExceeded(
            f"{owner} has {owned} of this node's {total} sessions; above {SESSIONS_BUSY} one owner"
            f" gets no more than {SESSIONS_PER_OWNER}",
            "detach some, or take a lease of another node",
        )


def _check_open(state: Leases) -> None:
    if state.state is NodeState.DRAINING:
        raise NodeDraining(
            "this node is being drained: it takes no new leases and sessions",
            "ask another node of the pool",
        )


def _within(name: str, value: float, low: float, high: float) -> None:
    """Refuse what is out of range (nan too); 0 always means the node's own value."""
    if value == 0 or low <= value <= high:
        return
    raise ConfigError(
        f"{name} = {value:g} is out of range",
        f"ask for {format_duration(low)} to {format_duration(high)}, or 0 for the node's own",
    )


def _owned(state: Leases, caller: Caller, lease_id: str, gone: frozenset[str]) -> Lease:
    lease = state.leases.get(lease_id)
    if lease is None or lease_id in gone or not _may(caller, lease):
        raise _unknown(f"lease {lease_id!r}")
    return lease


def _may(caller: Caller, lease: Lease) -> bool:
    return caller.owner == lease.owner and caller.lease_id in ("", lease.lease_id)


def _unknown(what: str) -> UnknownLease:
    # (4) The same words for what never was, what is over, and what is another's.
    return UnknownLease(
        f"you have no {what} here: it was released, or not renewed in time", "take a new lease"
    )


def _session(state: Leases, session_id: str) -> Session | None:
    return next((s for s in state.sessions() if s.session_id == session_id), None)


def _do(state: Leases, event: Event, now_s: float) -> list[Action]:
    """What remains once nothing can be refused any more."""
    match event:
        case Take():
            ttl_s = event.ttl_s or TTL_S
            state.leases[event.lease_id] = Lease(
                event.lease_id,
                event.owner,
                event.token_hash,
                event.name,
                ttl_s,
                now_s + ttl_s,
                event.max_sessions or SESSIONS,
            )
            state.version += 1
            return []
        case Renew():
            lease = state.leases[event.lease_id]
            lease.expires_s = min(now_s + lease.ttl_s, state.drained_s)
            return []
        case Release():
            return _drop(state, state.leases[event.lease_id], "its lease was released")
        case Attach():
            lease = state.leases[event.lease_id]
            session = Session(
                event.session_id,
                lease.lease_id,
                event.token_hash,
                event.program,
                event.resume_s or RESUME_S,
                by_token=bool(event.caller.lease_id),
            )
            lease.sessions[session.session_id] = session
            state.version += 1
            return [Start(lease, session, event.token)]
        case Detach():
            found = _session(state, event.session_id)
            # One that is gone is no error; one of another's looks the same.
            if found is None or not _may(event.caller, state.leases[found.lease_id]):
                return []
            return _remove(state, found, "it was detached")
        case Ended():
            found = _session(state, event.session_id)
            return [] if found is None else _remove(state, found, "its worker ended")
        case Drain():
            return _drain(state, event, now_s)
        case Tick():
            return []


def _remove(state: Leases, session: Session, reason: str) -> list[Action]:
    del state.leases[session.lease_id].sessions[session.session_id]
    state.version += 1
    return [End(session, reason)]


def _drain(state: Leases, event: Drain, now_s: float) -> list[Action]:
    state.version += 1
    if event.stop:
        state.state, state.drained_s = NodeState.READY, math.inf
        return []
    state.state = NodeState.DRAINING
    state.drained_s = now_s + event.deadline_s if event.deadline_s else math.inf
    for lease in state.leases.values():
        lease.expires_s = min(lease.expires_s, state.drained_s)
    return [Tell(session, event.deadline_s) for session in state.sessions()]
