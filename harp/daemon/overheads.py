# SPDX-License-Identifier: Apache-2.0
"""What processes hold beyond their leases: how much, whose it is, what a context costs. Pure.

NVML says what a process holds on a device, the arbiter what it leased. The rest is its context and
what the driver put beside it: code of modules, heaps, local memory. All of it is charged to the
device. What a context is expected to cost is no tenant's doing; what goes beyond counts against the
tenant's limit, as an allocation would (local-sharing.md §6.2, §8).

(1) Physical and leased bytes may be compared only if the leases stood still while NVML was asked:
    libharp leases before it allocates and gives back after it freed, so then the difference is at
    most what is really beyond, and never a false alarm. A client whose leases change all the time
    is judged by the smallest of several differences.
(2) What a context costs is a property of the device model and the driver. A probe measures it, and
    the first look at each real client says whether the probe was right. One client proves nothing
    (it may have loaded code, or run under MPS): the cost moves when the last eight agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from harp.lease_wire import GRANULE_BYTES

__all__ = ["ContextCost", "Correction", "Overheads", "Reading", "Sight", "learn", "step"]

#: looks in a row with moving leases after which the smallest difference is taken: one of them is a
#: false alarm if memory was held while NVML was asked and not just before and after, one in eight
#: for a program that allocates and frees all the time; ten in a row are none
_RESTLESS_LOOKS = 10
#: clients that must agree before a measured cost is changed
_AGREEING = 8

Key = tuple[int, str]  #: client_id, device UUID


@dataclass(frozen=True, slots=True)
class Reading:
    """One client on one device at one look."""

    client_id: int
    device_uuid: str
    physical_bytes: int  #: held by its process, as NVML says
    leased_bytes: int  #: leased for memory; the most of before and after NVML was asked
    context_bytes: int  #: leased for contexts
    extra_bytes: int  #: what the arbiter charges beyond the leases now
    counted_bytes: int  #: what of that counts against the tenant's limit now
    settled: bool  #: its leases did not change while NVML was asked
    exact: bool  #: it holds no unused lease, or a granule at most

    @property
    def beyond_bytes(self) -> int:
        """What it holds and did not lease as memory."""
        return max(0, self.physical_bytes - self.leased_bytes)


@dataclass(frozen=True, slots=True)
class Correction:
    """What the arbiter shall be told of a client (SET_OVERHEAD)."""

    client_id: int
    device_uuid: str
    beyond_bytes: int
    counted_bytes: int


@dataclass(frozen=True, slots=True)
class Sight:
    """What the context of a real client was seen to cost."""

    device_uuid: str
    cost_bytes: int


@dataclass(frozen=True, slots=True)
class Overheads:
    """What is remembered from look to look; entries of clients that are gone are dropped."""

    #: {key: differences of the last looks in a row at which its leases moved}
    restless: Mapping[Key, tuple[int, ...]] = field(default_factory=dict)
    #: {key: (beyond, counted) as last told}
    told: Mapping[Key, tuple[int, int]] = field(default_factory=dict)
    #: clients whose context was compared with the expected cost
    met: frozenset[Key] = frozenset()


def step(
    state: Overheads, readings: Iterable[Reading], expected_bytes: Mapping[str, int]
) -> tuple[Overheads, list[Correction], list[Sight]]:
    """Compare what is held with what is leased.

    Args:
        state: of the look before.
        readings: at most one per client and device; all living clients that NVML lists.
        expected_bytes: {device UUID: what one context is expected to cost}.

    Returns:
        The new state, what to tell the arbiter, and what contexts were seen to cost.
    """
    restless: dict[Key, tuple[int, ...]] = {}
    told: dict[Key, tuple[int, int]] = {}
    met: set[Key] = set()
    corrections: list[Correction] = []
    sights: list[Sight] = []
    for reading in readings:
        key = (reading.client_id, reading.device_uuid)
        expected = expected_bytes[reading.device_uuid]
        if key in state.told:
            told[key] = state.told[key]
        if key in state.met:
            met.add(key)
        beyond = reading.beyond_bytes
        if not reading.settled:
            looks = restless[key] = (*state.restless.get(key, ()), beyond)[-_RESTLESS_LOOKS:]
            if len(looks) < _RESTLESS_LOOKS:
                continue
            beyond = min(looks)
        elif key not in met and reading.exact and _one_context(reading, expected):
            met.add(key)
            sights.append(Sight(reading.device_uuid, beyond))
        counted = _counted(beyond, max(reading.context_bytes, expected))
        in_force = (reading.extra_bytes, reading.counted_bytes)
        if in_force != (max(0, beyond - reading.context_bytes), counted):
            if told.get(key) != (beyond, counted):
                corrections.append(
                    Correction(reading.client_id, reading.device_uuid, beyond, counted)
                )
            told[key] = (beyond, counted)
    return Overheads(restless, told, frozenset(met)), corrections, sights


def _one_context(reading: Reading, expected: int) -> bool:
    granules = -(-expected // GRANULE_BYTES) * GRANULE_BYTES
    return reading.context_bytes == granules and reading.physical_bytes > 0


def _counted(beyond: int, context: int) -> int:
    """What is the tenant's own; a granule is the precision of all this and counts for nothing."""
    own = beyond - context
    return own if own > GRANULE_BYTES else 0


@dataclass(frozen=True, slots=True)
class ContextCost:
    """What one context costs on a model under a driver."""

    size_bytes: int
    source: str  #: "measured" by a probe, "seen" of real clients, "default"
    seen: tuple[int, ...] = ()  #: what the last clients' cost, oldest first


def learn(cost: ContextCost, seen_bytes: int) -> ContextCost:
    """Refine a cost by what one more real client's context was seen to cost."""
    seen = (*cost.seen, seen_bytes)[-_AGREEING:]
    cost = replace(cost, seen=seen)
    if cost.source == "default":
        return replace(cost, size_bytes=seen_bytes, source="seen")
    if len(seen) < _AGREEING:
        return cost
    if min(seen) > cost.size_bytes + GRANULE_BYTES:
        return replace(cost, size_bytes=min(seen), source="seen")
    if max(seen) < cost.size_bytes - GRANULE_BYTES:
        return replace(cost, size_bytes=max(seen), source="seen")
    return cost
