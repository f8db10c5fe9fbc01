# SPDX-License-Identifier: Apache-2.0
"""When to serve and when to register, over kubelet's restarts. Pure.

    look (what is in the folder) ─┐
    what came of an action ───────┴─ step(state, event, now) -> (state, actions) ── serve, register

A kubelet that starts deletes every socket in its folder, ours too, then makes its own, and knows of
no plugin. Both signs are taken: ours is gone, or kubelet's is another file. Either alone would do
on a good day; but a kubelet may die between the two, and a file's number is given out again (so
the time of its last change is compared as well).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = [
    "BACKOFF_MAX_S",
    "BACKOFF_S",
    "Action",
    "Event",
    "Failed",
    "Look",
    "Register",
    "Registered",
    "Serve",
    "Served",
    "SocketFile",
    "State",
    "StreamBegan",
    "StreamEnded",
    "step",
]

#: pause after the first failure; doubled after each further one
BACKOFF_S = 0.2
BACKOFF_MAX_S = 5.0
#: a registration that kubelet kept this long was a good one
_SETTLED_S = 5.0


@dataclass(frozen=True, slots=True)
class SocketFile:
    """Which file a socket is."""

    device: int
    inode: int
    changed_ns: int  #: ctime; not mtime, which others may set


@dataclass(frozen=True, slots=True)
class Look:
    """What lies in kubelet's folder."""

    own: SocketFile | None
    kubelet: SocketFile | None


@dataclass(frozen=True, slots=True)
class Served:
    """Our socket listens: this file."""

    own: SocketFile


@dataclass(frozen=True, slots=True)
class Registered:
    """The kubelet behind this file took our registration."""

    kubelet: SocketFile


@dataclass(frozen=True, slots=True)
class Failed:
    """An action failed."""

    action: Action


@dataclass(frozen=True, slots=True)
class StreamBegan:
    """Kubelet listens to our list: it knows us."""


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """Kubelet ended the last of its streams: to it we are gone, or it is about to begin another.

    One that takes a registration ends the stream of the one before. So the next registration comes
    later, and not at all if a stream begins meanwhile: else each would bring about the next.
    """


Event = Look | Served | Registered | Failed | StreamBegan | StreamEnded


@dataclass(frozen=True, slots=True)
class Serve:
    """Make our socket anew and listen on it."""


@dataclass(frozen=True, slots=True)
class Register:
    """Tell the kubelet behind this file where we are."""

    kubelet: SocketFile


Action = Serve | Register


@dataclass(frozen=True, slots=True)
class State:
    """What is known. At most one action is on its way, `doing`."""

    own: SocketFile | None = None  #: on which we listen
    kubelet: SocketFile | None = None  #: as last seen
    with_kubelet: SocketFile | None = None  #: that knows us
    doing: Action | None = None
    failures: int = 0  #: in a row
    not_before_s: float = 0.0
    registered_s: float = 0.0  #: when `with_kubelet` took us

    @property
    def registered(self) -> bool:
        """Whether the kubelet that is there knows us."""
        return self.with_kubelet is not None and self.with_kubelet == self.kubelet


def step(state: State, event: Event, now_s: float) -> tuple[State, tuple[Action, ...]]:
    """Take an event; say what to do.

    Args:
        state: as it was.
        event: what happened.
        now_s: monotonic.

    Returns:
        The state from here on, and at most one action. Its outcome is to come back as an event.
    """
    match event:
        case Look(own, kubelet):
            state = _looked(state, own, kubelet)
        case Served(own):
            state = replace(state, own=own, doing=None)
        case Registered(kubelet):
            state = replace(state, with_kubelet=kubelet, doing=None, registered_s=now_s)
        case Failed(_):
            state = _later(replace(state, doing=None), now_s)
        case StreamBegan():
            if state.own is not None and state.doing is None:
                state = replace(state, with_kubelet=state.kubelet, registered_s=now_s)
        case StreamEnded():
            if state.with_kubelet is not None:
                if now_s - state.registered_s >= _SETTLED_S:
                    state = replace(state, failures=0)
                state = _later(replace(state, with_kubelet=None), now_s)
    action = _next(state, now_s)
    return (state, ()) if action is None else (replace(state, doing=action), (action,))


def _looked(state: State, own: SocketFile | None, kubelet: SocketFile | None) -> State:
    if kubelet != state.kubelet:
        # Another kubelet owes us nothing and has refused us nothing.
        state = replace(state, kubelet=kubelet, failures=0, not_before_s=0.0)
        if state.with_kubelet != kubelet:
            state = replace(state, with_kubelet=None)
    if own != state.own and not isinstance(state.doing, Serve):
        # Who wiped our socket forgot us, even if its own looks the same.
        state = replace(state, own=None, with_kubelet=None)
    return state


def _later(state: State, now_s: float) -> State:
    pause_s = min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(state.failures, 10))
    return replace(state, failures=state.failures + 1, not_before_s=now_s + pause_s)


def _next(state: State, now_s: float) -> Action | None:
    if state.doing is not None or now_s < state.not_before_s:
        return None
    if state.own is None:
        # Also while no kubelet is there: the first one finds us ready.
        return Serve()
    if state.kubelet is not None and state.with_kubelet is None:
        return Register(state.kubelet)
    return None
