# SPDX-License-Identifier: Apache-2.0
"""What is free on one node, and whether a pod surely fits there. Pure.

Kubelet and the plugin decide on the node which GPU a container gets; the scheduler decides before
that. So a node is taken only if the pod fits *however* the shares that are not known lie. What is
known is a GPU by its place; what is not is a share that lies on some GPU (`adrift`), or a GPU of
which nobody says that it is the ill one.

(1) A GPU with f free is spoiled for an ask of r when f - r + 1 slots of it are taken by others.
    Shares adrift have a volume and a number; each lies on one GPU. So they spoil at most as many
    GPUs as they are, and at most as many as their volume pays for, cheapest first. What is left is
    sure: it is there in every case, if not always on the same GPU.
(2) Where all is known, the GPU is the one that the plugin will choose: the one with least free that
    has enough, of equal ones the lower place; container after container. A test compares the two.
(3) Where it is not, a new share is adrift as well: to name a GPU would be to guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from harp.extender.objects import Claim, NodeInfo, PodInfo

__all__ = ["Fit", "Room", "best", "fit", "largest", "misfit", "room_of", "sure"]


@dataclass(frozen=True, slots=True)
class Room:
    """One node."""

    per_gpu: int
    free: tuple[int, ...]  #: slots of each GPU, as far as shares are known
    adrift: tuple[int, ...] = ()  #: slots of shares on some one GPU each
    ill: int = 0  #: GPUs that are not to be given, nobody says which

    @property
    def known(self) -> bool:
        """Whether every share's GPU is known."""
        return not self.adrift and not self.ill


@dataclass(frozen=True, slots=True)
class Fit:
    """A pod fits."""

    gpus: tuple[int, ...]  #: places in the order of the claims; empty: on which is not known


def room_of(node: NodeInfo, pods: Iterable[PodInfo]) -> Room:
    """A node with these pods on it. What they say cannot be true together is adrift."""
    free = [node.per_gpu] * node.gpus
    adrift: list[int] = []
    for pod in sorted(pods, key=lambda one: (one.key, one.uid)):
        wanted = [_split(claim.slots, node.per_gpu) for claim in pod.claims]
        places = [node.place_of(name) for name in pod.gpus]
        complete = len(places) == sum(count for count, _ in wanted)
        for count, each in wanted:
            gpus, places = places[:count], places[count:]
            if complete and _taken(free, gpus, each):
                continue
            adrift += [each] * count
    for place in node.known_ill:
        free[place] = 0
    ill = max(0, node.ill - len(node.known_ill))
    return Room(node.per_gpu, tuple(free), tuple(adrift), ill)


def _taken(free: list[int], gpus: Sequence[int], each: int) -> bool:
    """Take `each` slots of these GPUs, all or none."""
    good = len(set(gpus)) == len(gpus) and all(gpu >= 0 and free[gpu] >= each for gpu in gpus)
    for gpu in gpus if good else ():
        free[gpu] -= each
    return good


def sure(room: Room, slots: int) -> int:
    """How many GPUs have so many slots free in any case; see (1)."""
    costs = sorted(have - slots + 1 for have in room.free if have >= slots)
    del costs[max(0, len(costs) - room.ill) :]
    volume, spoiled = sum(room.adrift), 0
    for cost in costs:
        if spoiled == len(room.adrift) or cost > volume:
            break
        volume -= cost
        spoiled += 1
    return len(costs) - spoiled


def largest(room: Room) -> int:
    """The largest share of one GPU that is free in any case."""
    low, high = 0, room.per_gpu
    while low < high:
        middle = (low + high + 1) // 2
        if sure(room, middle):
            low = middle
        else:
            high = middle - 1
    return low


def misfit(claims: Sequence[Claim], node: NodeInfo) -> str:
    """Why the pod can never be on this node, whoever leaves; empty: it may."""
    if not node.gpus:
        return "the node has no harp.dev/gpu-share"
    for claim in claims:
        if claim.slots > node.per_gpu and claim.slots % node.per_gpu:
            return (
                f"{claim.slots} slots are more than one GPU and not whole GPUs:"
                f" a multiple of {node.per_gpu}"
            )
        if claim.slots > node.slots:
            return f"the node has {node.gpus} GPUs, need {claim.slots // node.per_gpu}"
    return ""


def fit(room: Room, claims: Sequence[Claim]) -> Fit | str:
    """Where a pod's containers go; or why they do not surely fit."""
    places: list[int] = []
    certain = room.known
    for claim in claims:
        count, each = _split(claim.slots, room.per_gpu)
        if sure(room, each) < count:
            return _lack(room, count, each)
        if not certain:
            room = replace(room, adrift=(*room.adrift, *[each] * count))
            continue
        chosen = best(room.free, count, each)
        places += chosen
        free = [have - each * (gpu in chosen) for gpu, have in enumerate(room.free)]
        room = replace(room, free=tuple(free))
    return Fit(tuple(places) if certain else ())


def best(free: Sequence[int], count: int, each: int) -> tuple[int, ...]:
    """(2): `count` GPUs for `each` slots of each, ascending; fewer where they do not fit."""
    fitting = [gpu for gpu, have in enumerate(free) if have >= each]
    return tuple(sorted(sorted(fitting, key=lambda gpu: (free[gpu], gpu))[:count]))


def _split(slots: int, per_gpu: int) -> tuple[int, int]:
    """On how many GPUs, and how many slots of each."""
    if slots <= per_gpu:
        return 1, slots
    return -(-slots // per_gpu), per_gpu


def _lack(room: Room, count: int, each: int) -> str:
    if count == 1:
        words = f"largest free share on one GPU is {largest(room)}, need {each}"
    else:
        words = f"{sure(room, each)} whole GPUs are free, need {count}"
    why = []
    if room.adrift:
        why.append(f"the GPU of {len(room.adrift)} shares is not known")
    if room.ill:
        why.append(f"{room.ill} GPUs are not healthy")
    return f"{words} ({', '.join(why)})" if why else words
