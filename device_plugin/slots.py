# SPDX-License-Identifier: Apache-2.0
"""The ids that kubelet counts: slots of GPUs, `<start of the GPU's UUID>-<slot>`. Pure.

A slot stands for the same part of its GPU's memory and of its time, so the two cannot come from
different GPUs. An id names its GPU by its UUID, not by its index: kubelet keeps ids over a restart
of the machine, after which the driver may count in another order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from harp.errors import ConfigError
from harp.model import uuid_bytes

__all__ = ["LIST_BYTES_MAX", "SLOTS_PER_GPU", "Gpu", "Slot", "Slots"]

#: what a GPU may be split into; the first is the default
SLOTS_PER_GPU = (100, 200, 400)
#: the longest list we hand out; kubelet receives 4 MiB, and so long a list is one per slot and look
LIST_BYTES_MAX = 1 << 20
#: digits of the UUID in an id, more where two GPUs of the node begin alike
_DIGITS = (8, 16, 32)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU of this node."""

    uuid: str
    index: int  #: in NVML's order, for people
    memory_bytes: int
    context_bytes: int = 0  #: what one process costs before its first allocation
    numa: int = -1  #: node it is attached to; -1: not known


@dataclass(frozen=True, slots=True, order=True)
class Slot:
    """One slot of one GPU."""

    gpu: int  #: its place in Slots.gpus
    number: int  #: from 0


class Slots:
    """All slots of a node."""

    def __init__(self, gpus: Iterable[Gpu], per_gpu: int = SLOTS_PER_GPU[0]) -> None:
        """Name them.

        Raises:
            ConfigError: a number of slots that is none of SLOTS_PER_GPU, a UUID that is none or
                there twice, or a list that is too long for kubelet.
        """
        #: by index
        self.gpus = tuple(sorted(gpus, key=lambda gpu: gpu.index))
        self.per_gpu = per_gpu
        if per_gpu not in SLOTS_PER_GPU:
            raise ConfigError(
                f"{per_gpu} slots per GPU",
                f"one of {', '.join(map(str, SLOTS_PER_GPU))}: parts that are whole to 0.25 %",
            )
        names = _short([gpu.uuid for gpu in self.gpus])
        #: {id: slot}, by GPU and number; each slot has one id: "a-1" is one, "a-01" is not
        self.all = {
            f"{name}-{number}": Slot(gpu, number)
            for gpu, name in enumerate(names)
            for number in range(per_gpu)
        }
        self._ids = tuple(self.all)
        if self.list_bytes > LIST_BYTES_MAX:
            raise ConfigError(
                f"{len(self.gpus)} GPUs of {per_gpu} slots are a list of {self.list_bytes} bytes,"
                f" above the {LIST_BYTES_MAX} that HARP sends to kubelet",
                "choose fewer slots per GPU",
            )

    def id(self, slot: Slot) -> str:
        """What kubelet calls a slot."""
        return self._ids[slot.gpu * self.per_gpu + slot.number]

    def ids(self, gpu: int) -> tuple[str, ...]:
        """What it calls those of a GPU."""
        return self._ids[gpu * self.per_gpu : (gpu + 1) * self.per_gpu]

    @property
    def list_bytes(self) -> int:
        """Size of the list as ListAndWatch sends it when every GPU is unhealthy: the longest."""
        return sum(_device_bytes(name, self.gpus[at.gpu].numa) for name, at in self.all.items())


def _short(uuids: list[str]) -> list[str]:
    try:
        full = [uuid_bytes(uuid).hex() for uuid in uuids]
    except ValueError as error:
        raise ConfigError(f"a GPU's UUID is none: {error}", f"there are {uuids}") from error
    if len(set(full)) != len(full):
        raise ConfigError(f"a GPU is there twice: {uuids}", "name each GPU once")
    return [
        next(
            one[:digits]
            for digits in _DIGITS
            if sum(other[:digits] == one[:digits] for other in full) == 1
        )
        for one in full
    ]


def _device_bytes(name: str, numa: int) -> int:
    """One entry of the list in protobuf's encoding: a tag and a length before each part."""
    body = 2 + len(name) + 2 + len("Unhealthy")
    if numa >= 0:
        node = 1 + _varint_bytes(numa) if numa else 0  # proto3 leaves out a number that is 0
        body += 2 + 2 + node
    return 1 + _varint_bytes(body) + body


def _varint_bytes(value: int) -> int:
    return max(1, -(-value.bit_length() // 7))
