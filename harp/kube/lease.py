# SPDX-License-Identifier: Apache-2.0
"""Leader election on a Lease of coordination.k8s.io/v1, as client-go does it.

    observe() ── what the API server has, and since when it has not changed (our clock alone)
    decide()  ── Create, Update or nothing                                     both pure
    Elector   ── asks and does it, every 2 s

(1) Others' clocks are never read: a lease has expired when it has not *changed* for as long as it
    lasts, by our monotonic clock.
(2) Who leads stops 10 s after its last renewal began, without being told; who takes over waits 15 s
    after that renewal was seen. What the leader started in its last moment has 5 s to end.
(3) Who may not stand (it sees nothing of what it decides about) stops at once and lets its lease
    lapse, so that what it has begun has its time, and another leads. Who has the lease and cannot
    begin gives it back, and lets others go first.
(4) Writes name the version that was read, so that of two who take over one fails.

Source: client-go tools/leaderelection (15 s, 10 s, 2 s are its defaults).
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import structlog

from harp.errors import DaemonUnreachable, HarpError
from harp.kube.client import Asking

__all__ = ["Elector", "Record", "State", "Tempo", "Write", "decide", "leads", "observe"]

_log = structlog.get_logger(__name__)
_NOT_FOUND = 404
_CONFLICT = 409
_ASK_S = 3.0
#: until it is looked again whether we may stand
_SOON_S = 0.1
#: so many tries of others come before ours
_REST_TRIES = 3


@dataclass(frozen=True, slots=True)
class Tempo:
    """The three times; lease > renew > retry."""

    lease_s: float = 15.0
    renew_s: float = 10.0
    retry_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Record:
    """What a Lease says."""

    holder: str  #: empty: given up
    lease_s: float
    transitions: int
    acquired: str  #: times as text: they are for people
    renewed: str
    version: str = ""  #: resourceVersion

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Record:
        """As the API server writes it."""
        spec = body.get("spec") or {}
        return cls(
            spec.get("holderIdentity") or "",
            float(spec.get("leaseDurationSeconds") or 0),
            int(spec.get("leaseTransitions") or 0),
            spec.get("acquireTime") or "",
            spec.get("renewTime") or "",
            str((body.get("metadata") or {}).get("resourceVersion") or ""),
        )


@dataclass(frozen=True, slots=True)
class State:
    """What one candidate knows."""

    me: str
    record: Record | None = None  #: as last seen; None: there is none
    seen_s: float = 0.0  #: since when it is so
    renewed_s: float | None = None  #: when our last renewal that was taken began; None: not ours


@dataclass(frozen=True, slots=True)
class Write:
    """Write this record: over the version in it, or a new one where that is empty."""

    record: Record


def observe(state: State, record: Record | None, now_s: float) -> State:
    """The API server has this."""
    if record != state.record:
        state = replace(state, record=record, seen_s=now_s)
    if record is None or record.holder != state.me:
        state = replace(state, renewed_s=None)
    return state


def decide(state: State, now_s: float, wall: str, tempo: Tempo) -> Write | None:
    """What to write now, if anything.

    Args:
        state: after observe().
        now_s: monotonic.
        wall: the time, as it is written down.
        tempo: the three times.
    """
    there = state.record
    if there is None:
        return Write(Record(state.me, tempo.lease_s, 0, wall, wall))
    if there.holder == state.me:
        return Write(replace(there, lease_s=tempo.lease_s, renewed=wall))
    if there.holder and now_s < state.seen_s + there.lease_s:
        return None
    # One more transition: the holder changes.
    return Write(Record(state.me, tempo.lease_s, there.transitions + 1, wall, wall, there.version))


def written(state: State, record: Record, began_s: float, now_s: float) -> State:
    """Our write was taken; `record` is what the API server has now."""
    return replace(state, record=record, seen_s=now_s, renewed_s=began_s)


def leads(state: State, now_s: float, tempo: Tempo) -> bool:
    """Whether we may act as the leader at this moment."""
    return state.renewed_s is not None and now_s < state.renewed_s + tempo.renew_s


class Elector:
    """One candidate. One thread, run(); leads() and stop() from any.

    Args:
        api: where the lease is.
        namespace: and its name: which.
        me: this candidate, unlike any other.
        acquired: called when we have become the leader, before leads() says so; if it may take
            longer than the lease lasts it calls keep().
        may: whether this one is fit to lead at this moment.
        clock_s: monotonic.
        wait: pauses so many seconds; true: stop.
    """

    def __init__(
        self,
        api: Asking,
        namespace: str,
        name: str,
        me: str,
        *,
        acquired: Callable[[], None] = lambda: None,
        may: Callable[[], bool] = lambda: True,
        tempo: Tempo | None = None,
        clock_s: Callable[[], float] = time.monotonic,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        self._api = api
        self._name, self._namespace = name, namespace
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._acquired = acquired
        self._may = may
        self._tempo = tempo or Tempo()
        self._clock_s = clock_s
        self._stop = threading.Event()
        self._wait = wait or self._stop.wait
        self._release_it = True
        #: the lease as it is while `acquired` runs, and when its renewal began
        self._taken: tuple[Record, float] | None = None
        #: metadata of the lease as last seen: who else has written on it keeps that
        self._meta: Mapping[str, Any] = {}
        #: until when we do not stand
        self._rests_until_s = -math.inf
        #: written by the thread of run() alone, each time as a whole
        self._state = State(me)

    def leads(self) -> bool:
        """Whether we are the leader now; without asking, so it is true no longer than is safe."""
        return leads(self._state, self._clock_s(), self._tempo) and self._may()

    @property
    def leader(self) -> str:
        """Whom the lease names; for people."""
        record = self._state.record
        return record.holder if record else ""

    def run(self) -> None:
        """Until stop(); then the lease is given up, if stop() says so."""
        while True:
            led, pause_s = self.leads(), _SOON_S
            try:
                if self._may():
                    pause_s = self._tempo.retry_s
                    self.step()
            except HarpError as error:
                _log.warning("election_failed", reason=error.message)
            except Exception:  # noqa: BLE001 - a candidate that stops trying never leads again
                _log.exception("election_broken")
            if led != self.leads():
                _log.info("leading", leads=self.leads(), leader=self.leader)
            if self._wait(pause_s * random.uniform(1.0, 1.2)):  # noqa: S311 - apart
                break
        try:
            if self._release_it:
                self._release()
        except HarpError as error:
            _log.warning("lease_not_given_up", reason=error.message)

    def stop(self, *, release: bool = True) -> None:
        """End run(). Without `release` the next leader waits until the lease has expired."""
        self._release_it = release
        self._stop.set()

    def step(self) -> None:
        """Look, and write if that is to be done.

        Raises:
            DaemonUnreachable: no answer, or we may not.
        """
        answer = self._api.ask("GET", f"{self._path}/{self._name}", timeout_s=_ASK_S)
        if not answer.good and answer.status != _NOT_FOUND:
            raise _refused(answer.why)
        record = Record.of(answer.body) if answer.good else None
        self._meta = (answer.body.get("metadata") or {}) if answer.good else {}
        began_s = self._clock_s()
        state = self._state = observe(self._state, record, began_s)
        write = decide(state, began_s, _now(), self._tempo)
        if write is None or not self._may() or began_s < self._rests_until_s:
            return
        taken = self._write(write.record)
        if taken is None:
            return
        if self._state.renewed_s is None:
            self._taken = taken, began_s
            try:
                self._acquired()
            except Exception:
                self._rests_until_s = self._clock_s() + _REST_TRIES * self._tempo.retry_s
                self._give_back(self._taken[0])
                raise
            taken, began_s = self._taken
        self._state = written(state, taken, began_s, self._clock_s())

    def keep(self) -> None:
        """For an `acquired` that takes long, from within it, now and then: the lease stays ours.

        Raises:
            DaemonUnreachable: it is not ours any more, or nobody answers.
        """
        assert self._taken is not None
        record, kept_s = self._taken
        now_s = self._clock_s()
        if now_s < kept_s + self._tempo.retry_s:
            return
        taken = self._write(replace(record, renewed=_now()))
        if taken is None:
            raise DaemonUnreachable("another candidate has taken the lease meanwhile")
        self._taken = taken, now_s

    def _write(self, record: Record) -> Record | None:
        """The record as it is now; None: somebody was faster."""
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace}
            | ({**self._meta, "resourceVersion": record.version} if record.version else {}),
            "spec": {
                "holderIdentity": record.holder or None,
                "leaseDurationSeconds": max(1, round(record.lease_s)),
                "leaseTransitions": record.transitions,
                "acquireTime": record.acquired,
                "renewTime": record.renewed,
            },
        }
        if record.version:
            answer = self._api.ask("PUT", f"{self._path}/{self._name}", body, timeout_s=_ASK_S)
        else:
            answer = self._api.ask("POST", self._path, body, timeout_s=_ASK_S)
        if answer.status == _CONFLICT:
            return None
        if not answer.good:
            raise _refused(answer.why)
        self._meta = answer.body.get("metadata") or {}
        return Record.of(answer.body)

    def _release(self) -> None:
        state = self._state
        self._state = replace(state, renewed_s=None)
        if state.record is not None and leads(state, self._clock_s(), self._tempo):
            self._give_back(state.record)

    def _give_back(self, record: Record) -> None:
        self._write(replace(record, holder="", lease_s=1.0, renewed=_now()))


def _refused(why: str) -> DaemonUnreachable:
    return DaemonUnreachable(
        f"the API server answers {why} about the lease",
        "let the service account get, create and update leases in its namespace",
    )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
