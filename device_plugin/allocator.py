# SPDX-License-Identifier: Apache-2.0
"""Which slots a container had best get, whether those it got are a share, what that means. Pure.

    GetPreferredAllocation ── prefer() ── placement core (which GPU) ── ids
    Allocate               ── check() ─── Share, or Refused with a remedy ── limits() ── Limits

A share is of one GPU, or whole GPUs. Kubelet knows neither: it counts slots, so it may hand out
slots of several GPUs where no GPU has enough. check() alone decides, whatever was preferred.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from device_plugin.slots import Gpu, Slots
from harp.errors import QuotaExceeded
from harp.model import Limits
from harp.scheduler import WHOLE_MILLI, Fragmentation, Node, Pod, make, typical
from harp.scheduler.cluster import Cluster
from harp.units import PPM, format_size

__all__ = ["Chooser", "Reason", "Refused", "Share", "check", "least_slots", "limits", "prefer"]

#: memory is leased in pieces of this size (harp.lease_wire); less is no limit that could be kept
_GRANULE_BYTES = 2 << 20


class Reason(enum.Enum):
    """Why a set of slots is no share; the values are label values of a metric."""

    EMPTY = "empty"
    UNKNOWN = "unknown_id"
    TWICE = "id_twice"
    NOT_WHOLE = "not_whole"  #: more than one GPU, and no whole number of them
    FRAGMENTED = "fragmented"  #: no GPU had enough, so kubelet took from several
    TOO_SMALL = "too_small"


class Refused(QuotaExceeded):
    """A set of slots that no container can have."""

    def __init__(self, reason: Reason, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Share:
    """So many slots of one GPU, or all slots of several."""

    gpus: tuple[int, ...]  #: places in Slots.gpus, ascending
    slots: int  #: of each of them


class Chooser:
    """Which GPU of this node: the placement core's word, on a cluster of this one node.

    Without a workload to tell what free parts are worth that is best fit: the GPU with least free
    that has enough, of equal ones the lower index.
    """

    def __init__(self, workload: Iterable[Pod] = (), policy: str = "hybrid") -> None:
        self._shapes = typical(workload)
        self._policy = policy
        #: {GPUs of a node: tables of the workload}
        self._tables: dict[int, Fragmentation] = {}

    def choose(self, free: Sequence[int], per_gpu: int, slots: int, count: int) -> tuple[int, ...]:
        """`count` GPUs for `slots` slots of each; () where they do not fit.

        Args:
            free: slots of each GPU.
            per_gpu: slots of a whole one.
            slots: asked for, of each.
            count: how many GPUs.
        """
        fitting = tuple(gpu for gpu, have in enumerate(free) if have >= slots)
        if len(fitting) <= count:  # nothing to choose
            return fitting if len(fitting) == count else ()
        # Thousandths round parts of 400 slots down, but who has fewer never seems to have enough.
        milli = tuple(_milli(have, per_gpu) for have in free)
        cluster = Cluster([Node("node", 0, 0, milli)])
        tables = self._tables.get(len(milli))
        if tables is None:
            tables = Fragmentation(self._shapes, cluster.models, len(milli))
            self._tables[len(milli)] = tables
        policy = make(self._policy, cluster, tables, 0)
        return tuple(
            sorted(policy.gpus(cluster, Pod("pod", 0, 0, count, _milli(slots, per_gpu)), 0))
        )


def _milli(slots: int, per_gpu: int) -> int:
    return max(1, slots * WHOLE_MILLI // per_gpu) if slots else 0


def prefer(
    slots: Slots,
    available: Iterable[str],
    must: Collection[str],
    size: int,
    chooser: Chooser,
    *,
    hint: Collection[int] = (),
) -> tuple[str, ...]:
    """The ids that a container of `size` slots had best get; () where it cannot have a share.

    Args:
        slots: of this node.
        available: ids that are free and healthy.
        must: those that it has already; they are in the answer.
        size: how many in all.
        chooser: of GPUs.
        hint: GPUs that it had best be of, if they have enough; places in Slots.gpus.
    """
    if hint:
        mine = {name for name in available if name in slots.all and slots.all[name].gpu in hint}
        if ids := prefer(slots, mine, must, size, chooser):
            return ids
    places = [slots.all[name] for name in {*available, *must} if name in slots.all]
    count = Counter(place.gpu for place in places)
    free = [count[gpu] for gpu in range(len(slots.gpus))]
    needed = {slots.all[name].gpu for name in must if name in slots.all}
    if size <= 0 or len(must) > size:
        return ()
    if size % slots.per_gpu == 0:
        gpus = _whole(slots, free, needed, size // slots.per_gpu, chooser)
        return tuple(name for gpu in gpus for name in slots.ids(gpu))
    if size > slots.per_gpu or len(needed) > 1:
        return ()
    if needed:
        free = [have if gpu in needed else 0 for gpu, have in enumerate(free)]
    gpus = chooser.choose(free, slots.per_gpu, size, 1)
    if not gpus:
        return ()
    # Low numbers first, so that the same questions always have the same answers.
    rest = [place for place in places if place.gpu == gpus[0] and slots.id(place) not in must]
    rest.sort(key=lambda place: place.number)
    return (*sorted(must), *(slots.id(place) for place in rest[: size - len(must)]))


def _whole(
    slots: Slots, free: Sequence[int], needed: Collection[int], count: int, chooser: Chooser
) -> tuple[int, ...]:
    """Free GPUs, those in `needed` among them; on one NUMA node if one has enough."""
    whole = [gpu for gpu, have in enumerate(free) if have == slots.per_gpu]
    if len(whole) < count or not set(needed) <= set(whole):
        return ()
    more = count - len(needed)
    groups = [[gpu for gpu in whole if slots.gpus[gpu].numa == numa] for numa in _numas(slots)]
    # The smallest group that is large enough: a larger one may serve a larger request.
    near = sorted((g for g in groups if len(g) >= count and set(needed) <= set(g)), key=len)
    among = near[0] if near else whole
    rest = [slots.per_gpu if g in among and g not in needed else 0 for g in range(len(free))]
    chosen = chooser.choose(rest, slots.per_gpu, slots.per_gpu, more) if more else ()
    return tuple(sorted((*needed, *chosen))) if len(chosen) == more else ()


def _numas(slots: Slots) -> list[int]:
    return sorted({gpu.numa for gpu in slots.gpus if gpu.numa >= 0})


def check(slots: Slots, ids: Collection[str], largest_free: int | None = None) -> Share:
    """The share that these ids are.

    Args:
        slots: of this node.
        ids: as kubelet gave them, in any order.
        largest_free: the most free slots one GPU had when kubelet chose, for the words alone.

    Raises:
        Refused: none; a pod's status will say why.
    """
    if not ids:
        raise Refused(Reason.EMPTY, "no slot is asked for", f"ask for 1 to {slots.per_gpu}")
    unknown = sorted(name for name in ids if name not in slots.all)
    if unknown:
        raise Refused(
            Reason.UNKNOWN,
            f"no slot {unknown[0]!r} on this node ({len(unknown)} of {len(ids)} are unknown)",
            "delete the pod: the node's GPUs or slots per GPU have changed since it was placed",
        )
    if len(set(ids)) != len(ids):
        raise Refused(Reason.TWICE, f"{len(ids)} slots, some named twice", "restart kubelet")
    count = Counter(slots.all[name].gpu for name in ids)
    gpus = tuple(sorted(count))
    if len(gpus) == 1 or all(have == slots.per_gpu for have in count.values()):
        return Share(gpus, count[gpus[0]])
    raise _scattered(slots, count, len(ids), largest_free)


def _scattered(slots: Slots, count: Counter[int], size: int, largest_free: int | None) -> Refused:
    whole = f"whole GPUs: a multiple of {slots.per_gpu}"
    if size > slots.per_gpu and size % slots.per_gpu:
        return Refused(
            Reason.NOT_WHOLE,
            f"{size} slots are more than one GPU and not {whole}",
            f"ask for at most {slots.per_gpu}, or for {size // slots.per_gpu * slots.per_gpu} or"
            f" {-(-size // slots.per_gpu) * slots.per_gpu}",
        )
    told = ", ".join(f"{count[gpu]} of GPU {slots.gpus[gpu].index}" for gpu in sorted(count))
    if size > slots.per_gpu:
        needs, most = f"{size // slots.per_gpu} whole GPUs, which are not free", ""
    else:
        most = "" if largest_free is None else str(largest_free)
        needs = (
            f"one GPU; largest free share on one GPU is {most}, need {size}"
            if most
            else ("one GPU, and none has enough")
        )
    return Refused(
        Reason.FRAGMENTED,
        f"{size} slots must be of {needs} (kubelet gave {told})",
        f"ask for {'at most ' + most if most and most != '0' else 'less'}, wait for others to end,"
        " or let HARP's scheduler extender choose the node",
    )


def limits(slots: Slots, share: Share) -> Limits:
    """What a share means: the same part of memory and of time of each of its GPUs.

    Slots of a GPU never add up to more than it has: parts are rounded down, and what processes cost
    before their first allocation comes out of their own part. One context comes beside the limit;
    each further one the arbiter takes off it (`context_bytes`).

    Raises:
        Refused: that leaves no memory.
    """
    gpus = [slots.gpus[gpu] for gpu in share.gpus]
    parts = [gpu.memory_bytes * share.slots // slots.per_gpu for gpu in gpus]
    left = [part - _context_bytes(gpu) for part, gpu in zip(parts, gpus, strict=True)]
    if min(left) < _GRANULE_BYTES:
        raise _too_small(slots, gpus[left.index(min(left))], share.slots)
    smallest = min(left) // _GRANULE_BYTES * _GRANULE_BYTES  # one limit holds on each
    ppm = share.slots * PPM // slots.per_gpu
    return Limits(
        mem_bytes=smallest,
        share_ppm=ppm,
        limit_ppm=ppm,
        context_bytes=min(map(_context_bytes, gpus)),
    )


def least_slots(slots: Slots, ids: Collection[str], wanted: Limits) -> int:
    """So many slots would give these limits; of several GPUs only whole ones are to be had.

    Args:
        slots: of the node.
        ids: a share.
        wanted: no more than it gives.
    """
    share = check(slots, ids)
    if len(share.gpus) > 1:
        return len(ids)
    gpu = slots.gpus[share.gpus[0]]
    memory = -(-(wanted.mem_bytes + _context_bytes(gpu)) * slots.per_gpu // gpu.memory_bytes)
    return min(len(ids), max(1, memory, -(-wanted.share_ppm * slots.per_gpu // PPM)))


def _context_bytes(gpu: Gpu) -> int:
    """What a context is leased as."""
    return -(-gpu.context_bytes // _GRANULE_BYTES) * _GRANULE_BYTES


def _too_small(slots: Slots, gpu: Gpu, count: int) -> Refused:
    least = -(-(_context_bytes(gpu) + _GRANULE_BYTES) * slots.per_gpu // gpu.memory_bytes)
    part = gpu.memory_bytes * count // slots.per_gpu >> 20
    return Refused(
        Reason.TOO_SMALL,
        f"{count} slots of GPU {gpu.index} are {part} MiB, and a context alone takes"
        f" {format_size(gpu.context_bytes)}",
        f"ask for at least {least}",
    )
