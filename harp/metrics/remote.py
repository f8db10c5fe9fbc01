# SPDX-License-Identifier: Apache-2.0
"""Series of `harp remote serve`: who is on this node from elsewhere. Pure.

What its tenants use is among harpd's series: a lease is a tenant like others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harp.metrics.families import Family, Kind, Sample

__all__ = ["SERVED", "RemoteSeen", "remote_samples"]


def _gauge(name: str, text: str) -> Family:
    return Family(f"harp_remote_{name}", Kind.GAUGE, text)


LEASES = _gauge("leases", "Shares of this node's GPUs that clients hold.")
SESSIONS = _gauge("sessions", "Programs elsewhere that have a worker here.")
BEGUN = Family(
    "harp_remote_sessions_started_total", Kind.COUNTER, "Sessions begun since the service started."
)
DRAINING = _gauge("draining", "1 while the node takes nobody new, by `harp remote drain`.")
#: of `harp remote serve`
SERVED = (LEASES, SESSIONS, BEGUN, DRAINING)


@dataclass(frozen=True, slots=True)
class RemoteSeen:
    """The service at one moment."""

    leases: int = 0
    sessions: int = 0
    begun: int = 0
    draining: bool = False


def remote_samples(seen: RemoteSeen) -> Iterator[Sample]:
    """Every sample of the service."""
    for family, value in (
        (LEASES, seen.leases),
        (SESSIONS, seen.sessions),
        (BEGUN, seen.begun),
        (DRAINING, seen.draining),
    ):
        yield Sample(family, (), value)
