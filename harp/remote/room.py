# SPDX-License-Identifier: Apache-2.0
"""The seam between leases and who promises shares of devices: one ledger for here and elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from harp.errors import ConfigError, NoDevice
from harp.lease_wire import GRANULE_BYTES
from harp.model import Limits
from harp.units import PPM, format_percent, format_size

__all__ = ["Place", "Room", "Taken", "Wish", "limits", "part"]


@dataclass(frozen=True, slots=True)
class Place:
    """A device, and what of it nobody was promised."""

    uuid: str
    name: str
    software: bool
    memory_bytes: int
    free_bytes: int  #: the largest memory limit that a newcomer could have
    free_ppm: int
    used_ratio: float = 0.0  #: device time of the last seconds that was used
    context_bytes: int = 0  #: what one process costs before its first allocation


@dataclass(frozen=True, slots=True)
class Wish:
    """A share asked for."""

    lease_id: str
    owner: str
    name: str  #: "": made up
    gpu: str  #: as `harp run --gpu`; "": the freest
    limits: Limits


@dataclass(frozen=True, slots=True)
class Taken:
    """A share promised: the same of each device."""

    tenant: str  #: as the node's own users see it
    places: tuple[Place, ...]  #: in the order asked for; what was free is as of then
    limits: Limits


class Room(Protocol):
    """What a node has promised, to its own tenants and to leases alike."""

    @property
    def places(self) -> Sequence[Place]:
        """The devices, in NVML's order, as last seen."""

    async def take(self, wish: Wish) -> Taken:
        """Promise it. What is raised leaves nothing promised.

        Raises:
            NoDevice: there is none, or none of that name.
            ConfigError: a device is named twice.
            QuotaExceeded: a device has not that much left; then nothing is promised on any.
            DaemonError: nobody is there to promise it.
        """

    async def give_back(self, lease_id: str) -> None:
        """Promise it to others. One that holds nothing is no error."""

    def taken(self, lease_id: str) -> Taken | None:
        """What a lease was promised; None: nothing."""


def limits(asked: Limits) -> Limits:
    """What a newcomer asks for, checked and in whole granules.

    Raises:
        ConfigError: less than a granule, or more than a whole device's time.
    """
    if 0 < asked.mem_bytes < GRANULE_BYTES:
        raise ConfigError(
            f"a memory limit of {format_size(asked.mem_bytes)} is below one granule",
            f"a driver hands memory out in pieces of {format_size(GRANULE_BYTES)}; ask for more",
        )
    for name, value in (("share", asked.share_ppm), ("limit", asked.limit_ppm)):
        if value > PPM:
            raise ConfigError(
                f"a {name} of {format_percent(value)} is above 100%", "it is a part of each device"
            )
    # Whole granules: the rest could never be leased.
    whole = asked.mem_bytes // GRANULE_BYTES * GRANULE_BYTES
    return Limits(whole, asked.share_ppm, asked.limit_ppm, asked.tenant_class)


def part(asked: Limits, mem_ppm: int, gpu: str, places: Sequence[Place]) -> Limits:
    """`asked`, with a part of the devices' memory as its limit, all contexts included.

    One context comes beside the limit, each further one is taken off it.
    The part is that of the smallest device that may be meant: it never is more than was asked for.

    Args:
        asked: with a limit of its own, or none; the smaller one counts.
        mem_ppm: the part; 0: none is asked for, `asked` is as it was.
        gpu: as in Wish; devices that it surely does not name are not looked at.
        places: of the node.

    Raises:
        ConfigError: more than a whole device, or so little that no memory is left.
        NoDevice: there is none at all.
    """
    if not mem_ppm:
        return asked
    if mem_ppm > PPM:
        raise ConfigError(
            f"a part of {format_percent(mem_ppm)} of the memory is above 100%",
            "it is a part of each device",
        )
    words = {word.strip() for word in gpu.split(",") if word.strip()}
    named = [p for i, p in enumerate(places) if {str(i), p.uuid} & words]
    meant = named if named and len(named) == len(words) else places
    if not meant:
        raise NoDevice("this node has no GPU")
    least = min(meant, key=lambda p: p.memory_bytes * mem_ppm // PPM - _context_bytes(p))
    have = least.memory_bytes * mem_ppm // PPM - _context_bytes(least)
    if have < GRANULE_BYTES:
        raise ConfigError(
            f"{format_percent(mem_ppm)} of {least.name} are"
            f" {format_size(least.memory_bytes * mem_ppm // PPM)}, and a context alone takes"
            f" {format_size(least.context_bytes)}",
            "ask for a larger part",
        )
    whole = have // GRANULE_BYTES * GRANULE_BYTES
    return replace(
        asked,
        mem_bytes=min(whole, asked.mem_bytes) if asked.mem_bytes else whole,
        context_bytes=min(map(_context_bytes, meant)),
    )


def _context_bytes(place: Place) -> int:
    """What a context is leased as."""
    return -(-place.context_bytes // GRANULE_BYTES) * GRANULE_BYTES
