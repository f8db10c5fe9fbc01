# SPDX-License-Identifier: Apache-2.0
"""Admission: may a device promise so much more? Pure.

Invariant, for each device: what the arbiter may lease under the promises made fits the device, so
a tenant within its memory limit never meets a full one. A promise costs its memory limit and one
context (or as many as the tenant has processes). Tenants that oversubscribe are promised their
contexts only; but each one's limit must fit beside what all are promised, or it could never run.

Where every tenant of a device is known by what it will need (Promise.need_bytes, by its owner's
leave: estimate.mode=enforce), the invariant is another: what they typically need together, and one
buffer for the unforeseen, fits the device. Then a tenant within its limit *can* meet a full one, as
seldom as the buffer says; it is refused memory, and counted (harp_device_oom_full_total). One who
has not agreed is never on such a device unless all limits fit it, his and theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harp.errors import ConfigError, NoDevice, QuotaExceeded
from harp.estimator.packing import Member, beyond_ppm, fits
from harp.model import Device, Limits
from harp.units import PPM, format_percent, format_size

__all__ = [
    "BufferFor",
    "Promise",
    "admit",
    "choose",
    "memory_left",
    "pool",
    "promised_bytes",
    "promised_ppm",
    "select",
    "shrinks",
]

_GRANULE = 2 << 20
#: part of a device to be kept free beside so many tenants
BufferFor = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Promise:
    """What a tenant was promised on a device, and what it holds."""

    limits: Limits
    clients: int = 0  #: processes that have, or may have, a context
    leased_bytes: int = 0
    swap_bytes: int = 0  #: of leased_bytes, what can leave the device
    need_bytes: int = 0  #: what it typically needs, and may be counted as; 0: its limit counts
    duty_ppm: int = 0  #: of the device's time it will want, alone; 0: not known

    def cost_bytes(self, device: Device) -> int:
        """Memory of the device that is spoken for."""
        contexts = self.context_bytes(device)
        if self.limits.oversubscribe:
            return self.leased_bytes - self.swap_bytes + contexts
        if not self.limits.mem_bytes:
            # Without a limit nothing is promised; what it holds is held all the same.
            return self.leased_bytes + device.overhead_bytes * self.clients
        # So is what it held when its limit was lowered: others cannot have it before it is freed.
        return max(self.limits.mem_bytes, self.leased_bytes) + contexts

    def context_bytes(self, device: Device) -> int:
        """What its contexts take beside its limit."""
        if self.limits.mem_bytes and self.limits.context_bytes:
            return self.limits.context_bytes  # the others are within the limit
        return device.overhead_bytes * max(1, self.clients)

    def alone_bytes(self) -> int:
        """Memory that must fit beside what everybody is promised, while others' can leave."""
        if not self.limits.oversubscribe:
            return 0
        return max(0, self.limits.mem_bytes - self.leased_bytes + self.swap_bytes, self.swap_bytes)


def promised_bytes(device: Device, promises: Sequence[Promise]) -> int:
    """Memory spoken for by `promises`."""
    return sum(p.cost_bytes(device) for p in promises) + _largest_alone(promises)


def pool(device: Device, promises: Sequence[Promise]) -> list[Member] | None:
    """These tenants by what they typically need; None: not all of them may be counted so."""
    if not all(
        p.need_bytes and p.limits.mem_bytes and not p.limits.oversubscribe for p in promises
    ):
        return None
    return [
        Member(
            max(p.need_bytes, p.leased_bytes),
            p.limits.mem_bytes,
            p.context_bytes(device),
        )
        for p in promises
    ]


def _largest_alone(promises: Sequence[Promise]) -> int:
    return max((p.alone_bytes() for p in promises), default=0)


def promised_ppm(promises: Sequence[Promise]) -> int:
    """Device time spoken for by `promises`."""
    return sum(p.limits.share_ppm for p in promises)


def memory_left(
    device: Device,
    promises: Sequence[Promise],
    overcommit_ratio: float,
    asked: Promise | None = None,
) -> int:
    """Largest memory limit that `asked`, or a new tenant, could have, in whole granules.

    Limits of tenants that oversubscribe are not added up; and such a one's is a limit on what must
    really be there at once, so `overcommit_ratio` does not stretch it.
    """
    asked = asked or Promise(Limits())
    room = int(device.memory_bytes * overcommit_ratio) - promised_bytes(device, promises)
    if asked.limits.oversubscribe:
        room = device.memory_bytes - promised_bytes(device, promises) + _largest_alone(promises)
    room -= asked.context_bytes(device)
    return max(0, room // _GRANULE * _GRANULE)


def admit(
    device: Device,
    promises: Sequence[Promise],
    asked: Promise,
    overcommit_ratio: float,
    buffer_for: BufferFor | None = None,
) -> None:
    """Check that `asked` fits beside `promises` (which do not contain it).

    Args:
        device: which.
        promises: of others.
        asked: what is to come.
        overcommit_ratio: limits may add up to so many times what the device has.
        buffer_for: for devices all of whose tenants are known by what they need; None: limits
            count, whatever they need.

    Raises:
        QuotaExceeded: it does not; says what is left.
    """
    limits = asked.limits
    members = pool(device, [*promises, asked]) if buffer_for is not None else None
    together = members is not None and fits(
        members, device.memory_bytes, buffer_for(len(members)) if buffer_for else 0
    )
    if limits.mem_bytes and not together:
        left = memory_left(device, promises, overcommit_ratio, asked)
        if limits.mem_bytes > left:
            raise QuotaExceeded(
                f"{format_size(limits.mem_bytes)} of memory asked on GPU {device.index},"
                f" {format_size(left)} left of {format_size(device.memory_bytes)}"
                f" ({format_size(promised_bytes(device, promises))} promised to"
                f" {len(promises)} tenants, {format_size(device.overhead_bytes)} for a context)",
                f"ask for --mem {format_size(left)}" if left else _REMEDY,
            )
    if not together:
        _leave_room(device, promises, asked, overcommit_ratio)
    if limits.limit_ppm and limits.share_ppm > limits.limit_ppm:
        raise QuotaExceeded(
            f"a share of {format_percent(limits.share_ppm)} is above the limit of"
            f" {format_percent(limits.limit_ppm)}",
            "a limit is the most a tenant gets, a share the least",
        )
    room = int(PPM * overcommit_ratio) - promised_ppm(promises)
    if limits.share_ppm > max(0, room):
        left_ppm = max(0, room)
        raise QuotaExceeded(
            f"a share of {format_percent(limits.share_ppm)} asked on GPU {device.index},"
            f" {format_percent(left_ppm)} left"
            f" ({format_percent(promised_ppm(promises))} promised to {len(promises)} tenants)",
            f"ask for --share {format_percent(left_ppm)}" if left_ppm else _REMEDY,
        )


def _leave_room(
    device: Device, promises: Sequence[Promise], asked: Promise, overcommit_ratio: float
) -> None:
    """Check that tenants that oversubscribe could still come back beside `asked`.

    Raises:
        QuotaExceeded: one could not.
    """
    largest = _largest_alone(promises)
    if not asked.limits.oversubscribe or not largest:
        return
    room = int(device.memory_bytes * overcommit_ratio) - promised_bytes(device, promises)
    if asked.cost_bytes(device) > room:
        raise QuotaExceeded(
            f"no room for a context of {format_size(asked.cost_bytes(device))} on GPU"
            f" {device.index} beside the {format_size(largest)} that another tenant, which"
            " oversubscribes, may bring back",
            _REMEDY,
        )


_REMEDY = (
    "wait for a tenant to end (harp ps), lower one (harp set TENANT ...), or let the daemon's owner"
    " raise admission.overcommit_ratio"
)


def select(devices: Sequence[Device], selectors: str) -> tuple[Device, ...]:
    """The devices that `--gpu` names: indices, UUIDs or starts of them, comma separated.

    Returns:
        At least one, in the order named.

    Raises:
        NoDevice: a name that is none's, or several devices'.
        ConfigError: a device named twice.
    """
    found: list[Device] = []
    for selector in selectors.split(","):
        device = _named(devices, selector.strip())
        if device in found:
            raise ConfigError(
                f"--gpu {selectors} names GPU {device.index} ({device.uuid}) twice",
                "name each GPU once: a grant on it holds for all of the tenant's processes",
            )
        found.append(device)
    return tuple(found)


def _named(devices: Sequence[Device], selector: str) -> Device:
    if selector.isdigit():
        found = [d for d in devices if d.index == int(selector)]
    else:
        wanted = selector.lower()
        found = [
            d
            for d in devices
            if wanted
            and (
                d.uuid.lower().startswith(wanted)
                or d.uuid.lower().partition("-")[2].startswith(wanted)
            )
        ]
    if len(found) != 1:
        known = ", ".join(f"{d.index} ({d.uuid})" for d in devices)
        what = "no GPU" if not found else f"{len(found)} GPUs"
        raise NoDevice(f"{what} named {selector!r}", f"there is {known}")
    return found[0]


def choose(
    devices: Sequence[Device],
    promises: Mapping[str, Sequence[Promise]],
    asked: Promise,
    overcommit_ratio: float,
    buffer_for: BufferFor | None = None,
) -> Device:
    """The device for a tenant that named none: of those that can take it, the least promised.

    Of one whose duty is known: first where all it would be beside leave it the time it wants, then
    where they want least. So one that computes comes to one that waits, and not to its like.

    Args:
        devices: at least one.
        promises: by device UUID.
        asked: the new tenant's.
        overcommit_ratio: as in admit(), and so the next.
        buffer_for: likewise.

    Raises:
        QuotaExceeded: none can take it; the first device's reason.
    """
    refused: QuotaExceeded | None = None
    fitting: list[tuple[int, int, int, int, int, Device]] = []
    for device in devices:
        held = promises.get(device.uuid, ())
        try:
            admit(device, held, asked, overcommit_ratio, buffer_for)
        except QuotaExceeded as error:
            refused = refused or error
            continue
        duties = [p.duty_ppm for p in held] if asked.duty_ppm else []
        fitting.append(
            (
                beyond_ppm([*duties, asked.duty_ppm]),
                sum(duties),
                promised_ppm(held),
                promised_bytes(device, held),
                device.index,
                device,
            )
        )
    if not fitting:
        assert refused is not None
        raise refused
    return min(fitting, key=lambda row: row[:5])[5]


def shrinks(old: Limits, new: Limits) -> bool:
    """Whether nothing more is promised than before: giving back is always admitted."""
    less_memory = new.mem_bytes == old.mem_bytes or 0 < new.mem_bytes <= old.mem_bytes
    same_kind = new.oversubscribe == old.oversubscribe
    return (
        less_memory
        and same_kind
        and new.share_ppm <= old.share_ppm
        and not 0 < new.limit_ppm < new.share_ppm
    )
