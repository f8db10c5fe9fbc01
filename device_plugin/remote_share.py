# SPDX-License-Identifier: Apache-2.0
"""Shares of GPUs elsewhere: slots that stand for parts of any one GPU, and what a pod says. Pure.

The slots of a node bound what its pods may ask for in all; they are of no GPU. 25 of them are 25 %
of the memory and of the time of one GPU, of whichever node of the pool takes the lease. How much
memory that is only that node knows.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from device_plugin.allocator import Reason, Refused, check
from device_plugin.annotations import PREFIX, Problem, refine
from device_plugin.answer import INSIDE, Answer, Mount
from device_plugin.slots import Gpu, Slot, Slots
from harp.errors import ConfigError
from harp.inject import remote_env
from harp.keep_wire import NEAR
from harp.model import Limits
from harp.units import PPM, format_size

__all__ = [
    "SLOTS",
    "SLOTS_MAX",
    "PoolSlots",
    "capped",
    "part_ppm",
    "remote_answer",
    "remote_limits",
    "remote_refine",
]

SLOTS = 400
SLOTS_MAX = 10_000
#: of one GPU
_WHOLE = 100
_POOL = "remote"
_SHIM, _BOX = INSIDE / "shim", INSIDE / "remote"
_NAMES = ("libcuda.so.1", "libnvidia-ml.so.1")
#: memory of a GPU that is not known yet: nothing that an annotation says is above it
_ANY_BYTES = 1 << 62
_ANSWERS = ("required", "preferred")


class PoolSlots(Slots):
    """The slots of a node for shares elsewhere; to kubelet they are of one thing, the pool."""

    def __init__(self, count: int = SLOTS) -> None:
        """Name them.

        Raises:
            ConfigError: too many, or none.
        """
        if not 1 <= count <= SLOTS_MAX:
            raise ConfigError(f"{count} slots for remote shares", f"1 to {SLOTS_MAX}")
        self.gpus = (Gpu(_POOL, 0, 0),)
        self.per_gpu = count
        self._ids = tuple(f"{_POOL}-{number}" for number in range(count))
        self.all = {name: Slot(0, number) for number, name in enumerate(self._ids)}


def part_ppm(count: int) -> int:
    """The part of a GPU that so many slots are."""
    return count * PPM // _WHOLE


def remote_limits(slots: PoolSlots, ids: Collection[str]) -> Limits:
    """What these ids stand for; how much memory their part is, is not known here.

    Raises:
        Refused: they are no share; a pod's status will say why.
    """
    check(slots, ids)
    if len(ids) > _WHOLE:
        raise Refused(
            Reason.NOT_WHOLE,
            f"{len(ids)} slots are more than one GPU, and a remote share is of one",
            f"ask for at most {_WHOLE}, in several containers if need be",
        )
    return Limits(share_ppm=part_ppm(len(ids)), limit_ppm=part_ppm(len(ids)))


def remote_refine(
    share: Limits, annotations: Mapping[str, str]
) -> tuple[Limits, tuple[Problem, ...]]:
    """What a pod's containers get: their share, as the pod's annotations lower it.

    Returns:
        The limits; mem_bytes is 0 where the pod does not say less than its part. What could not be
        done as it was said.

    Raises:
        ConfigError: the pod does not want a GPU elsewhere, or not for sure.
    """
    name = f"{PREFIX}remote"
    said = annotations.get(name, _ANSWERS[0])
    if said == "preferred":
        raise ConfigError(
            f'{name}: "preferred" is not in this version: which of two resources a pod gets would'
            " be the scheduler's to choose, which counts one",
            f'say "required" and ask for {PREFIX}remote-gpu-share, or ask for {PREFIX}gpu-share',
        )
    if said != "required":
        near = difflib.get_close_matches(said, _ANSWERS, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{name}: {said[:80]!r} is no answer{meant}", 'write "required"')
    others = {key: text for key, text in annotations.items() if key != name}
    limits, problems = refine(replace(share, mem_bytes=_ANY_BYTES), others)
    if limits.oversubscribe:
        limits = replace(limits, oversubscribe=False)
        text = f"{PREFIX}oversubscribe is not for remote shares; it is ignored"
        problems = (*problems, Problem(f"{PREFIX}oversubscribe", text))
    if annotations.get(f"{PREFIX}estimate") == "auto":
        text = f"{PREFIX}estimate is not for remote shares: what ran elsewhere is not known here"
        problems = (*problems, Problem(f"{PREFIX}estimate", text))
    if limits.mem_bytes == _ANY_BYTES:
        limits = replace(limits, mem_bytes=0)
    return limits, problems


def capped(asked_bytes: int, got_bytes: int) -> str:
    """What to tell a pod whose memory is less than it said; "" if it is not."""
    if got_bytes >= asked_bytes:
        return ""
    return (
        f"{PREFIX}memory: {format_size(asked_bytes)} is more than the share has on the GPU that it"
        f" got, {format_size(got_bytes)}; it gets that. Ask for a larger {PREFIX}remote-gpu-share"
    )


def remote_answer(shim: str, box: str, library_dirs: Sequence[str]) -> Answer:
    """What a container with a remote share gets: nothing of this node but our own files.

    Args:
        shim: folder of our libraries, on the host.
        box: the folder in which its socket is.
        library_dirs: where its image's loader may look for a driver.
    """
    env = remote_env({}, shim=_SHIM, socket=_BOX / NEAR, log=_BOX / "shim.log")
    del env["LD_LIBRARY_PATH"]  # the image's own stays
    del env["HARP_LOG"]  # the box is read-only in there
    env["NVIDIA_VISIBLE_DEVICES"] = "void"
    mounts = [Mount(str(_SHIM), shim), Mount(str(_BOX), box)]
    for folder in library_dirs:
        for library in _NAMES:
            mounts.append(Mount(f"{folder}/{library}", f"{shim}/{library}"))
            bare = library.removesuffix(".1")
            mounts.append(Mount(f"{folder}/{bare}", f"{shim}/{library}"))
    return Answer(env, tuple(mounts), ())
