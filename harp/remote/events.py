# SPDX-License-Identifier: Apache-2.0
"""What happens to leases, and what is then to be done: the words of leases.step(). Data only."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

__all__ = [
    "Action",
    "Attach",
    "Caller",
    "Detach",
    "Drain",
    "End",
    "Ended",
    "Event",
    "GiveBack",
    "Lease",
    "NodeState",
    "Release",
    "Renew",
    "Session",
    "Start",
    "Take",
    "Tell",
    "Tick",
]


class NodeState(enum.Enum):
    """What the node does with newcomers; the values are remote.proto's."""

    READY = 1
    DRAINING = 2
    LOST = 3  #: only a pool says so, of others


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a certificate's name, or the one lease that a token stands for."""

    owner: str
    lease_id: str = ""  #: "": any of the owner's


@dataclass(frozen=True, slots=True)
class Session:
    """One process elsewhere, and the worker that stands for it here."""

    session_id: str
    lease_id: str
    token_hash: bytes
    program: str
    resume_s: float  #: how long it outlives a broken connection
    by_token: bool = False  #: whoever attached it has no certificate


@dataclass(slots=True)
class Lease:
    """A share of devices that somebody elsewhere holds."""

    lease_id: str
    owner: str
    token_hash: bytes
    name: str
    ttl_s: float
    expires_s: float  #: not renewed by then: gone
    max_sessions: int
    sessions: dict[str, Session] = field(default_factory=dict)  #: {session_id: it}


@dataclass(frozen=True, slots=True)
class Take:
    """Somebody wants a lease; room for it was found already."""

    lease_id: str
    owner: str
    token_hash: bytes
    name: str = ""
    ttl_s: float = 0.0  #: 0: the node's own
    max_sessions: int = 0  #: 0: the node's own


@dataclass(frozen=True, slots=True)
class Renew:
    """The holder is still there."""

    caller: Caller
    lease_id: str


@dataclass(frozen=True, slots=True)
class Release:
    """The holder is done."""

    caller: Caller
    lease_id: str


@dataclass(frozen=True, slots=True)
class Attach:
    """A process of the holder begins."""

    caller: Caller
    lease_id: str
    session_id: str
    token_hash: bytes
    program: str = ""
    resume_s: float = 0.0  #: 0: the node's own
    token: str = field(default="", repr=False)  #: only passed on


@dataclass(frozen=True, slots=True)
class Detach:
    """A process of the holder ends, or cannot be reached any more."""

    caller: Caller
    session_id: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A worker ended by itself, or never began."""

    session_id: str


@dataclass(frozen=True, slots=True)
class Drain:
    """The administrator wants the node empty, or has had enough of that."""

    deadline_s: float  #: from now; 0: nobody is ended
    stop: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """Time went by."""


Event = Take | Renew | Release | Attach | Detach | Ended | Drain | Tick


@dataclass(frozen=True, slots=True)
class Start:
    """Start the session's worker."""

    lease: Lease
    session: Session
    token: str = field(default="", repr=False)  #: by which its client will be known


@dataclass(frozen=True, slots=True)
class End:
    """End the session's worker; what it holds is freed."""

    session: Session
    reason: str


@dataclass(frozen=True, slots=True)
class GiveBack:
    """Promise what the lease had to others: after its sessions' memory is free, and not before."""

    lease_id: str


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell a session that the node drains."""

    session: Session
    drain_s: float  #: seconds until it ends; 0: it is not ended


Action = Start | End | GiveBack | Tell
