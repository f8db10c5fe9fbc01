# SPDX-License-Identifier: Apache-2.0
"""How many containers share a GPU, and how much of it stays free for the unforeseen. Pure.

Upper bounds of single containers add up to far more than their sum ever is: not all peak at once.
So containers are packed by what each is expected to need, and the GPU keeps one buffer for the sum.
How large follows from the past alone: the smallest buffer with which GPUs packed in earlier windows
would have been exceeded no more often than is allowed (buffer_for() of recorded ones; Buffer as
windows come). fits() is admission's word on one GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harp.estimator.calibration import Residuals

__all__ = [
    "BUFFERS",
    "Buffer",
    "Load",
    "Member",
    "Packed",
    "beyond_ppm",
    "buffer_for",
    "fits",
    "overloaded",
    "pack",
    "packed",
    "reserve_bytes",
]

#: parts of a device that may be kept free, smallest first
BUFFERS = tuple(percent / 100 for percent in range(5, 31))


@dataclass(frozen=True, slots=True)
class Load:
    """One container in one window."""

    name: str
    mem_bytes: float  #: what it is packed as
    util_pct: float  #: likewise
    used_bytes: tuple[float, ...]  #: what it then used, sample by sample


@dataclass(frozen=True, slots=True)
class Packed:
    """What packing came to."""

    containers: int
    gpus: int
    over: int  #: GPUs whose memory was exceeded in some sample

    def __add__(self, other: Packed) -> Packed:
        return Packed(
            self.containers + other.containers, self.gpus + other.gpus, self.over + other.over
        )


def pack(loads: Sequence[Load], room_bytes: float, room_util_pct: float) -> list[list[Load]]:
    """GPUs with their containers: first fit, the largest first, equal ones by name.

    One that is larger than the room has a GPU to itself.

    Args:
        loads: containers of one window.
        room_bytes: of a device, its buffer taken off.
        room_util_pct: sum of utilizations on a device.
    """
    gpus: list[tuple[list[Load], list[float]]] = []
    for load in sorted(loads, key=lambda one: (-one.mem_bytes, one.name)):
        for members, left in gpus:
            if load.mem_bytes <= left[0] and load.util_pct <= left[1]:
                members.append(load)
                left[0] -= load.mem_bytes
                left[1] -= load.util_pct
                break
        else:
            gpus.append(([load], [room_bytes - load.mem_bytes, room_util_pct - load.util_pct]))
    return [members for members, _ in gpus]


def overloaded(members: Sequence[Load], device_bytes: float) -> bool:
    """Whether a device's containers ever used more than it has, all samples at the same moment."""
    length = max((len(load.used_bytes) for load in members), default=0)
    return any(
        sum(load.used_bytes[at] for load in members if at < len(load.used_bytes)) > device_bytes
        for at in range(length)
    )


def packed(
    loads: Sequence[Load], device_bytes: float, buffer: float, room_util_pct: float
) -> Packed:
    """Pack one window and look what came of it."""
    gpus = pack(loads, device_bytes * (1 - buffer), room_util_pct)
    return Packed(len(loads), len(gpus), sum(overloaded(gpu, device_bytes) for gpu in gpus))


def buffer_for(
    windows: Sequence[Sequence[Load]],
    device_bytes: float,
    room_util_pct: float,
    over_ratio: float,
    progress: Callable[[float], None] = lambda _: None,
) -> float:
    """The smallest of BUFFERS with which these windows would have been exceeded rarely enough.

    Args:
        windows: earlier ones; none at all answer the middle of BUFFERS.
        device_bytes: of a GPU.
        room_util_pct: as pack().
        over_ratio: of GPU-windows, that may be exceeded.
        progress: told each buffer tried.
    """
    if not windows:
        return BUFFERS[len(BUFFERS) // 2]
    for buffer in BUFFERS:
        progress(buffer)
        every = [packed(loads, device_bytes, buffer, room_util_pct) for loads in windows]
        gpus, over = sum(one.gpus for one in every), sum(one.over for one in every)
        if over <= over_ratio * gpus:
            return buffer
    return BUFFERS[-1]


@dataclass(frozen=True, slots=True)
class Member:
    """One job on a GPU, as admission counts it."""

    typical_bytes: int  #: half of such jobs need less; or what it holds by now, if that is more
    bound_bytes: int  #: its limit
    fixed_bytes: int = 0  #: its processes' contexts: beside both


def reserve_bytes(members: Sequence[Member], device_bytes: int, buffer_ratio: float) -> int:
    """Memory to be kept for these jobs together.

    What is typical, and the larger of the buffer and what any one of them may need beyond: while
    the others are as they usually are, each reaches its limit.
    """
    typical = sum(member.typical_bytes + member.fixed_bytes for member in members)
    alone = max((member.bound_bytes - member.typical_bytes for member in members), default=0)
    return typical + max(int(device_bytes * buffer_ratio), alone, 0) if members else 0


def fits(members: Sequence[Member], device_bytes: int, buffer_ratio: float) -> bool:
    """Whether a GPU has room for these jobs together."""
    return reserve_bytes(members, device_bytes, buffer_ratio) <= device_bytes


#: what jobs of one GPU may want of its time together before each is slowed: sums of 80 to 100 % of
#: what each wants alone keep 86 % of pairs above 0.85 of their speed, 100 to 130 % only 64 %
#: (recorded pairs; research). Opposites thus belong together: one that computes, one that waits.
_MOST_PPM = 1_000_000


def beyond_ppm(duties_ppm: Sequence[int]) -> int:
    """By how much these jobs want more of a GPU's time than it has; 0: they do not."""
    return max(0, sum(duties_ppm) - _MOST_PPM)


class Buffer:
    """The buffer, calibrated by what came.

    Of past GPU-windows it is the quantile of what was needed beyond the sum of what is typical, in
    parts of the device. Windows of as many jobs are alike; where there are too few of them, all
    windows answer; where there are too few at all, `start`, or the largest seen if that is more.

    Args:
        over_ratio: of GPU-windows, that may be exceeded.
        start: where nothing is known.
        floor: least of all: what has not happened yet may.
    """

    def __init__(
        self, over_ratio: float = 0.005, *, start: float = 0.15, floor: float = 0.10
    ) -> None:
        self._over_ratio = over_ratio
        self._start = start
        self._floor = floor
        #: {jobs; 0: any number: residuals}
        self._pools: dict[int, Residuals] = {}
        self._largest = 0.0

    def ratio(self, jobs: int) -> float:
        """Part of the device to keep free beside so many jobs."""
        for key in (jobs, 0):
            pool = self._pools.get(key)
            bound = pool.bound() if pool is not None else None
            if bound is not None:
                return min(max(bound, self._floor), 1.0)
        return min(max(self._largest, self._start), 1.0)

    def see(self, jobs: int, typical_bytes: float, most_bytes: float, device_bytes: float) -> bool:
        """Take a window that has passed; whether more was needed than sum and buffer.

        Args:
            jobs: that shared the device in it.
            typical_bytes: of them, added up.
            most_bytes: that they had at any one moment; where some were refused it, that as well.
            device_bytes: of the device.
        """
        beyond = (most_bytes - typical_bytes) / device_bytes
        over = beyond > self.ratio(jobs)
        for key in (jobs, 0):
            if key not in self._pools:
                # So many are needed for the quantile to be one of them, and not the largest.
                enough = round(1 / self._over_ratio)
                confidence = 1 - self._over_ratio
                self._pools[key] = Residuals(confidence, size=5 * enough, enough=enough, gain=0.0)
            self._pools[key].add(beyond)
        self._largest = max(self._largest, beyond)
        return over
