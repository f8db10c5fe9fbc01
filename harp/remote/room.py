# SPDX-License-Identifier: Apache-2.0
"""What a node has promised to leases, beside what its own tenants were promised."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harp import grants
from harp.errors import ConfigError, NoDevice
from harp.grants import Promise
from harp.lease_wire import GRANULE_BYTES
from harp.model import Device, Limits
from harp.units import PPM, format_percent, format_size

__all__ = ["Left", "Room", "limits"]

_LocalPromises = Callable[[], Mapping[str, Sequence[Promise]]]


@dataclass(frozen=True, slots=True)
class Left:
    """What of a device nobody was promised."""

    free_bytes: int
    free_ppm: int


class Room:
    """Promises of one node; admission is that of its own tenants (harp/grants.py).

    Args:
        devices: at least one, in NVML's order.
        local: {device UUID: promises} of what is not a lease.
        overcommit_ratio: as in grants.admit().
    """

    def __init__(
        self, devices: Sequence[Device], local: _LocalPromises, overcommit_ratio: float = 1.0
    ) -> None:
        self.devices = tuple(devices)
        self._local = local
        self._overcommit_ratio = overcommit_ratio
        #: {lease_id: (devices, limits)}
        self._held: dict[str, tuple[tuple[Device, ...], Limits]] = {}
        #: {lease_id: processes that have, or may have, a context}
        self._clients: dict[str, int] = {}

    def take(self, lease_id: str, gpu: str, asked: Limits) -> tuple[Device, ...]:
        """Promise `asked` on each of the devices named, or on the freest.

        Raises:
            NoDevice: there is none, or none of that name.
            ConfigError: a device is named twice.
            QuotaExceeded: a device has not that much left; then nothing is promised on any.
        """
        if not self.devices:
            raise NoDevice("this node has no GPU", "ask another node")
        promise = Promise(asked)
        if gpu:
            chosen = grants.select(self.devices, gpu)
            for device in chosen:
                grants.admit(device, self._on(device), promise, self._overcommit_ratio)
        else:
            held = {d.uuid: self._on(d) for d in self.devices}
            chosen = (grants.choose(self.devices, held, promise, self._overcommit_ratio),)
        self._held[lease_id] = (chosen, asked)
        return chosen

    def count(self, lease_id: str, clients: int) -> None:
        """So many processes of a lease have a context: each costs its device memory."""
        if lease_id in self._held:
            self._clients[lease_id] = clients

    def give_back(self, lease_id: str) -> None:
        """Promise it to others. One that holds nothing is no error."""
        self._held.pop(lease_id, None)
        self._clients.pop(lease_id, None)

    def held(self, lease_id: str) -> tuple[tuple[Device, ...], Limits]:
        """What a lease was promised; KeyError if it holds nothing."""
        return self._held[lease_id]

    def promises(self, uuid: str) -> tuple[Promise, ...]:
        """What leases were promised of a device: for the admission of the node's own tenants."""
        return tuple(
            Promise(asked, self._clients.get(lease_id, 0))
            for lease_id, (devices, asked) in self._held.items()
            if any(d.uuid == uuid for d in devices)
        )

    def left(self, device: Device) -> Left:
        """What a newcomer could be promised of a device."""
        on = self._on(device)
        room_ppm = int(PPM * self._overcommit_ratio) - grants.promised_ppm(on)
        return Left(grants.memory_left(device, on, self._overcommit_ratio), max(0, room_ppm))

    def _on(self, device: Device) -> tuple[Promise, ...]:
        return (*self._local().get(device.uuid, ()), *self.promises(device.uuid))


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
