# SPDX-License-Identifier: Apache-2.0
"""How many containers share a GPU, and how much of it stays free for the unforeseen. Pure.

Upper bounds of single containers add up to far more than their sum ever is: not all peak at once.
So containers are packed by what each is expected to need, and the GPU keeps one buffer for the sum.
How large follows from the past alone: the smallest buffer with which GPUs packed in earlier windows
would have been exceeded no more often than is allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["BUFFERS", "Load", "Packed", "buffer_for", "overloaded", "pack", "packed"]

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
