# SPDX-License-Identifier: Apache-2.0
"""Series of `harp remote serve`: who is on this node from elsewhere, and what they carry. Pure.

What its tenants use is among harpd's series: a lease is a tenant like others.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from harp.metrics.families import Distribution, Family, Kind, Sample

__all__ = [
    "ROUND_TRIP_S",
    "SERVED",
    "TRAFFIC",
    "Carried",
    "RemoteSeen",
    "TrafficSeen",
    "remote_samples",
    "traffic_samples",
]


def _gauge(name: str, text: str) -> Family:
    return Family(f"harp_remote_{name}", Kind.GAUGE, text)


LEASES = _gauge("leases", "Shares of this node's GPUs that clients hold.")
SESSIONS = _gauge("sessions", "Programs elsewhere that have a worker here.")
BEGUN = Family(
    "harp_remote_sessions_started_total", Kind.COUNTER, "Sessions begun since the service started."
)
DRAINING = _gauge("draining", "1 while the node takes nobody new, by `harp remote drain`.")
#: from one host's loopback to another continent
ROUND_TRIP_S = (
    *(0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
)
ROUND_TRIP = Family(
    "harp_remote_round_trip_seconds",
    Kind.HISTOGRAM,
    "Round trips of sessions' connections as TCP has them, smoothed: one each 2 s in which a"
    " session carried something.",
    (),
    ROUND_TRIP_S,
)


def _counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Family:
    return Family(f"harp_remote_{name}_total", Kind.COUNTER, text, labels)


RECEIVED = _counter(
    "received_bytes", "Bytes that sessions received here, with HTTP/2's own, without TLS's."
)
SENT = _counter("sent_bytes", "Bytes that sessions sent from here, counted likewise.")
LEASE_RECEIVED = _counter(
    "lease_received_bytes", "The same of a lease's sessions; it goes with the lease.", ("tenant",)
)
LEASE_SENT = _counter("lease_sent_bytes", "Bytes that a lease's sessions sent.", ("tenant",))
#: of both ends of sessions
TRAFFIC = (ROUND_TRIP, RECEIVED, SENT)
#: of `harp remote serve`
SERVED = (LEASES, SESSIONS, BEGUN, DRAINING, *TRAFFIC, LEASE_RECEIVED, LEASE_SENT)


@dataclass(frozen=True, slots=True)
class Carried:
    """What connections carried, as this end sees it."""

    received_bytes: int = 0
    sent_bytes: int = 0

    def plus(self, more: Carried) -> Carried:
        """Both together."""
        return Carried(self.received_bytes + more.received_bytes, self.sent_bytes + more.sent_bytes)


@dataclass(frozen=True, slots=True)
class TrafficSeen:
    """What sessions carried so far."""

    carried: Carried = field(default_factory=Carried)
    by_tenant: Mapping[str, Carried] = field(default_factory=dict)  #: of leases that live
    #: round trips heard: up to each of ROUND_TRIP_S and above the one before, then those beyond
    round_trips: tuple[int, ...] = (0,) * (len(ROUND_TRIP_S) + 1)
    round_trips_s: float = 0.0  #: their sum


@dataclass(frozen=True, slots=True)
class RemoteSeen:
    """The service at one moment."""

    leases: int = 0
    sessions: int = 0
    begun: int = 0
    draining: bool = False
    traffic: TrafficSeen = field(default_factory=TrafficSeen)


def remote_samples(seen: RemoteSeen) -> Iterator[Sample]:
    """Every sample of the service."""
    for family, value in (
        (LEASES, seen.leases),
        (SESSIONS, seen.sessions),
        (BEGUN, seen.begun),
        (DRAINING, seen.draining),
    ):
        yield Sample(family, (), value)
    yield from traffic_samples(seen.traffic)
    for tenant, carried in seen.traffic.by_tenant.items():
        yield Sample(LEASE_RECEIVED, (tenant,), carried.received_bytes)
        yield Sample(LEASE_SENT, (tenant,), carried.sent_bytes)


def traffic_samples(seen: TrafficSeen) -> Iterator[Sample]:
    """Those of either end."""
    counts = tuple(itertools.accumulate(seen.round_trips))
    yield Sample(ROUND_TRIP, (), Distribution(counts, seen.round_trips_s))
    yield Sample(RECEIVED, (), seen.carried.received_bytes)
    yield Sample(SENT, (), seen.carried.sent_bytes)
