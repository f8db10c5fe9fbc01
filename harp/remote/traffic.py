# SPDX-License-Identifier: Apache-2.0
"""What sessions carry, from what harp-link says of each (native/src/link/traffic.h). Pure.

A session says how much it was so far; what it said last is what it carried when it has ended. One
whose process was killed may have carried more, in its last 2 s.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection

from harp.metrics.remote import ROUND_TRIP_S, Carried, TrafficSeen

__all__ = ["WORD", "Traffic"]

#: what such a line begins with
WORD = "traffic"
_US = 1e6


class Traffic:
    """All sessions of a process, now and before."""

    def __init__(self) -> None:
        #: {session_id: its tenant, and what it has carried}; of those that may say more
        self._sessions: dict[str, tuple[str, Carried]] = {}
        #: {tenant: what its sessions carried}; of those that live
        self._tenants: dict[str, Carried] = {}
        self._all = Carried()
        #: round trips heard: up to each bound, and those beyond
        self._counts = [0] * (len(ROUND_TRIP_S) + 1)
        self._sum_s = 0.0

    def begin(self, session_id: str, tenant: str, living: Collection[str]) -> None:
        """Say whose a session is before it begins, and which tenants there are by now."""
        self._tenants = {name: of for name, of in self._tenants.items() if name in living}
        self._tenants.setdefault(tenant, Carried())
        self._sessions[session_id] = (tenant, Carried())

    def heard(self, words: str) -> bool:
        """Take what follows WORD; False: it is not that."""
        session_id, *numbers = words.split() or [""]
        if len(numbers) != 3 or not all(word.isascii() and word.isdigit() for word in numbers):
            return False
        received, sent, rtt_us = map(int, numbers)
        tenant, before = self._sessions.get(session_id, ("", Carried()))
        more = Carried(received - before.received_bytes, sent - before.sent_bytes)
        if more.received_bytes < 0 or more.sent_bytes < 0:
            return False
        self._sessions[session_id] = (tenant, Carried(received, sent))
        self._all = self._all.plus(more)
        if tenant in self._tenants:
            self._tenants[tenant] = self._tenants[tenant].plus(more)
        if rtt_us:
            self._counts[bisect_left(ROUND_TRIP_S, rtt_us / _US)] += 1
            self._sum_s += rtt_us / _US
        return True

    def ended(self, session_id: str) -> None:
        """It says no more."""
        self._sessions.pop(session_id, None)

    def seen(self, living: Collection[str] = ()) -> TrafficSeen:
        """What all carried so far, and each tenant that lives."""
        by_tenant = {name: of for name, of in self._tenants.items() if name in living}
        return TrafficSeen(self._all, by_tenant, tuple(self._counts), self._sum_s)
