# SPDX-License-Identifier: Apache-2.0
"""Tenants that are above their limit by memory that nobody leased, and which process to end. Pure.

Code, heaps and local memory count against the limit but come to be without a lease, so they can
carry a tenant beyond it. The arbiter then gives no new memory; that alone is the default. With
`watchdog.overdraft=kill` the process that holds most of it is ended when that lasted
`watchdog.overdraft_grace_s`, and no other.

Who is above a limit for another reason is excused until it is within it once: the limit was lowered
below what it holds, or it was above it when we first looked (a new harpd cannot know why).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["Charge", "Offender", "Overdrafts", "step"]

Key = tuple[int, str]  #: tenant_id, device UUID


@dataclass(frozen=True, slots=True)
class Charge:
    """What counts against the limit of a tenant on a device."""

    tenant_id: int
    device_uuid: str
    limit_bytes: int  #: 0: none
    leased_bytes: int
    counted_bytes: Mapping[int, int]  #: {client_id: bytes beyond its leases}

    @property
    def over_bytes(self) -> int:
        """By how much it is above its limit."""
        if not self.limit_bytes:
            return 0
        return max(0, self.leased_bytes + sum(self.counted_bytes.values()) - self.limit_bytes)


@dataclass(frozen=True, slots=True)
class Offender:
    """The process to end."""

    tenant_id: int
    device_uuid: str
    client_id: int
    over_bytes: int
    counted_bytes: int


@dataclass(frozen=True, slots=True)
class Overdrafts:
    """What is remembered from look to look."""

    #: {key: limit at the last look}; who is not in it is met for the first time
    limits: Mapping[Key, int] = field(default_factory=dict)
    #: {key: since when it is above its limit, in seconds of the caller's clock}
    since: Mapping[Key, float] = field(default_factory=dict)
    excused: frozenset[Key] = frozenset()


def step(
    state: Overdrafts, charges: Iterable[Charge], now: float, grace_s: float
) -> tuple[Overdrafts, list[Offender]]:
    """Judge one look; returns the new state and whom to end, at most one of a tenant and device."""
    limits: dict[Key, int] = {}
    since: dict[Key, float] = {}
    excused: set[Key] = set()
    offenders: list[Offender] = []
    for charge in charges:
        key = (charge.tenant_id, charge.device_uuid)
        limits[key] = charge.limit_bytes
        if not charge.over_bytes:
            continue
        before = state.limits.get(key)
        lowered = before is not None and (before == 0 or charge.limit_bytes < before)
        if before is None or lowered or key in state.excused:
            excused.add(key)
            continue
        since[key] = state.since.get(key, now)
        if now - since[key] < grace_s or charge.leased_bytes > charge.limit_bytes:
            continue
        client, counted = max(charge.counted_bytes.items(), key=lambda item: item[1])
        offenders.append(Offender(*key, client, charge.over_bytes, counted))
        since[key] = now  # what is left has a time of grace of its own
    return Overdrafts(limits, since, frozenset(excused)), offenders
