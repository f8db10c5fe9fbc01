# SPDX-License-Identifier: Apache-2.0
"""What the remote API answers of devices and leases: what is known of them as messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from harp.api.v1 import remote_pb2 as pb
from harp.remote.events import Lease
from harp.remote.leases import Leases
from harp.remote.room import Place, Taken

__all__ = ["held_lease", "leased", "node_devices", "node_state"]


def node_devices(places: Sequence[Place], capacity: Callable[[str], float]) -> list[pb.NodeDevice]:
    """A node's devices, and what of them is free."""
    return [
        pb.NodeDevice(
            uuid=place.uuid,
            name=place.name,
            software=place.software,
            memory_bytes=place.memory_bytes,
            free_bytes=place.free_bytes,
            free_ppm=place.free_ppm,
            used_ratio=place.used_ratio,
            capacity=capacity(place.uuid),
        )
        for place in places
    ]


def leased(taken: Taken) -> list[pb.LeasedDevice]:
    """The devices of a lease, and how much of each."""
    return [
        pb.LeasedDevice(
            uuid=place.uuid,
            name=place.name,
            software=place.software,
            mem_limit_bytes=taken.limits.mem_bytes,
            share_ppm=taken.limits.share_ppm,
            limit_ppm=taken.limits.limit_ppm,
        )
        for place in taken.places
    ]


def held_lease(
    lease: Lease, taken: Taken | None, held: Mapping[str, int], now_s: float
) -> pb.HeldLease:
    """A lease, with what its sessions hold: `held` is {session_id: bytes}."""
    return pb.HeldLease(
        lease_id=lease.lease_id,
        owner=lease.owner,
        tenant=taken.tenant if taken else "",
        devices=leased(taken) if taken else [],
        sessions=[
            pb.HeldSession(
                session_id=session.session_id,
                program=session.program,
                held_bytes=held.get(session.session_id, 0),
            )
            for session in lease.sessions.values()
        ],
        max_sessions=lease.max_sessions,
        expires_s=max(0.0, lease.expires_s - now_s),
    )


def node_state(state: Leases) -> pb.NodeState.ValueType:
    """What the node does with newcomers."""
    return pb.NodeState.ValueType(state.state.value)
