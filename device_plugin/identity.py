# SPDX-License-Identifier: Apache-2.0
"""Whose slots these are: ids and what kubelet and the API server say -> a container. Pure.

Kubelet says at PreStartContainer which ids are about to be used, not by whom. Its pod resources
list says who has which ids, without a pod's UID and without saying who is about to start; the API
server says that, some moments late. So:

(1) Who has exactly these ids in kubelet's list is a candidate, nobody else.
(2) Candidates of one pod are one owner: an init container's ids are given on to the containers
    after it, and what they may use is the pod's to say. The container that is to start first is
    named.
(3) Of several pods (a kubelet that still lists a dead one) those that the API server knows as ended
    or as another node's are out. Then those win that are pending, then those with a container that
    does not run, and of these the one that kubelet started last.
(4) If that leaves two, nobody is named: the container gets what its ids alone say.
(5) Kubelet's list leaves out init containers (but for sidecars); their pods say that they ask for
    so many. Where nobody is listed with these ids, it is one that is yet to run: of the pod whose
    later containers have some of the ids, else of the one pod that has none listed. Who had just
    these ids has them as long as its pod is there.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = [
    "Ambiguous",
    "Container",
    "Holding",
    "Kind",
    "Match",
    "Owner",
    "Pod",
    "Unknown",
    "find",
    "find_init",
    "of_others",
]


@dataclass(frozen=True, slots=True, order=True)
class Owner:
    """A container, by names."""

    namespace: str
    pod: str
    container: str

    @property
    def pod_key(self) -> tuple[str, str]:
        """Its pod, by names."""
        return self.namespace, self.pod

    def __str__(self) -> str:
        return f"{self.namespace}/{self.pod}/{self.container}"


@dataclass(frozen=True, slots=True)
class Holding:
    """A container's slots, as kubelet lists them."""

    owner: Owner
    ids: frozenset[str]


class Kind(enum.Enum):
    """When a container runs."""

    INIT = "init"  #: before the others, one after the other
    SIDECAR = "sidecar"  #: an init container that stays
    MAIN = "main"


@dataclass(frozen=True, slots=True)
class Container:
    """A container as the API server knows it."""

    name: str
    kind: Kind = Kind.MAIN
    running: bool = False
    ended: bool = False  #: terminated, and not yet about to start again
    slots: int = 0  #: that it asks for
    image: str = ""
    command: tuple[str, ...] = ()  #: and its arguments; empty: the image's own


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as the API server knows it; a static one is known by its mirror."""

    namespace: str
    name: str
    uid: str
    node: str
    containers: tuple[Container, ...]  #: init containers first, in the pod's order
    ended: bool = False  #: Succeeded or Failed
    pending: bool = False
    started_s: float = math.inf  #: when kubelet took it; inf: it has not said so yet
    annotations: Mapping[str, str] = field(default_factory=dict)
    maker: str = ""  #: namespace/Kind/name of what made it, and others like it; "": nobody did

    @property
    def key(self) -> tuple[str, str]:
        """By names."""
        return self.namespace, self.name

    @property
    def starting(self) -> bool:
        """Whether a container of it is yet to start, or to start again."""
        return any(not c.running for c in self.containers)


@dataclass(frozen=True, slots=True)
class Match:
    """The one container."""

    owner: Owner
    pod: Pod | None  #: None: the API server does not know it, or was not asked


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """Several could be it."""

    candidates: tuple[Owner, ...]


@dataclass(frozen=True, slots=True)
class Unknown:
    """Kubelet lists nobody with these ids."""


def find(
    ids: Collection[str], holdings: Iterable[Holding], pods: Sequence[Pod], node: str
) -> Match | Ambiguous | Unknown:
    """The container that is about to use these ids.

    Args:
        ids: all that it has of our resource.
        holdings: kubelet's list.
        pods: of this node at least, as far as the API server knows them.
        node: this one's name.
    """
    wanted = frozenset(ids)
    owners = sorted({h.owner for h in holdings if h.ids == wanted})  # (1)
    if not owners:
        return Unknown()
    known = {pod.key: pod for pod in pods}
    keys = sorted({owner.pod_key for owner in owners})
    if len(keys) > 1:
        keys = _likely(keys, known, node)
    if len(keys) != 1:
        return Ambiguous(tuple(owners))  # (4)
    pod = known.get(keys[0])
    mine = [owner for owner in owners if owner.pod_key == keys[0]]
    if pod is not None:  # (5): an init container may have them before
        mine += [Owner(*pod.key, name) for name in _before(pod, len(wanted), mine)]
    return Match(_first(mine, pod), pod)  # (2)


def find_init(
    ids: Collection[str],
    holdings: Iterable[Holding],
    pods: Iterable[Pod],
    node: str,
    before: tuple[Owner, str] | None = None,
) -> Match | Unknown:
    """The init container that is about to use ids that nobody is listed with; (5).

    One that runs or has ended for the API server may be about to start again: its pod is not named
    for that alone, but then no other is either.

    Args:
        ids: all that it has of our resource.
        holdings: kubelet's list.
        pods: that have not begun, that have some of the ids, that had all of them: as the API
            server knows them.
        node: this one's name.
        before: who had exactly these ids last, with its pod's UID.
    """
    wanted = frozenset(ids)
    holdings = list(holdings)
    later = {holding.owner.pod_key for holding in holdings}
    theirs = {holding.owner.pod_key for holding in holdings if holding.ids & wanted}
    found: list[list[tuple[Pod, list[Container]]]] = [[], [], [], []]
    first, had, sure, may = found
    for pod in pods:
        mine = [c for c in pod.containers if c.kind is Kind.INIT and c.slots == len(wanted)]
        if not mine or not _may_start(pod, node):
            continue
        waiting = [c for c in mine if not (c.running or c.ended)]
        if before is not None and before[0].pod_key == pod.key and before[1] in ("", pod.uid):
            had.append((pod, (waiting or [c for c in mine if c.name == before[0].container])[:1]))
        elif pod.key in theirs:
            # A slot is one pod's: of one that is yet to begin it is not whoever had them before,
            # though the API server may know him still.
            (first if waiting else sure).append((pod, (waiting or mine)[:1]))
        elif pod.key not in later and not theirs:
            may.append((pod, waiting[:1]))
    likely = first or had or sure or may
    if len(likely) != 1 or not likely[0][1]:
        return Unknown()
    pod, (container,) = likely[0]
    return Match(Owner(pod.namespace, pod.name, container.name), pod)


def of_others(
    ids: Collection[str],
    holdings: Iterable[Holding],
    pods: Iterable[Pod],
    living: Collection[frozenset[str]],
) -> Owner | None:
    """Who has some of these slots, that nobody is listed with, and can share them with nobody.

    A pod's containers have slots in common with its own init containers alone. So whoever starts
    with these is none of that pod's: its start is one that nobody waits for any more.

    Args:
        ids: all that it has of our resource.
        holdings: kubelet's list.
        pods: those that have some of them, as far as the API server knows them.
        living: of the pods that it was not asked for, slots of containers that may run.
    """
    wanted = frozenset(ids)
    known = {pod.key: pod for pod in pods}
    for holding in sorted(holdings, key=lambda h: h.owner):
        if not holding.ids & wanted:
            continue
        pod = known.get(holding.owner.pod_key)
        if pod is None:
            if holding.ids in living:
                return holding.owner
        elif not pod.ended and not any(
            c.kind is Kind.INIT and c.slots == len(wanted) for c in pod.containers
        ):
            return holding.owner
    return None


def _before(pod: Pod, size: int, listed: Collection[Owner]) -> list[str]:
    """Init containers that have not ended and may have had the slots of a listed container.

    Kubelet keeps what init containers had for those after them, and each of these takes of it
    first: one whose slots cannot all come from there has some that no init container had.
    """
    names = {owner.container for owner in listed}
    kept, seen, found = 0, [], []
    for container in pod.containers:
        if container.kind is Kind.INIT:
            kept = max(kept, container.slots)
            if container.slots == size and not container.ended:
                seen.append(container.name)
            continue
        if container.name in names and kept >= size:
            found += [name for name in seen if name not in found and name not in names]
        kept = max(0, kept - container.slots)
    return found


def _likely(
    keys: Sequence[tuple[str, str]], known: Mapping[tuple[str, str], Pod], node: str
) -> list[tuple[str, str]]:
    """(3)."""
    # One that the API server does not know may be a static pod whose mirror is yet to come.
    alive = [key for key in keys if key not in known or _may_start(known[key], node)]
    if len(alive) <= 1:
        return alive
    if any(key not in known for key in alive):
        return alive
    pods = [known[key] for key in alive]
    pods = [p for p in pods if p.pending] or [p for p in pods if p.starting] or pods
    newest = max(pod.started_s for pod in pods)
    return [pod.key for pod in pods if pod.started_s == newest]


def _may_start(pod: Pod, node: str) -> bool:
    return not pod.ended and pod.node == node


def _first(owners: Sequence[Owner], pod: Pod | None) -> Owner:
    """Of one pod's containers the one that starts first and has neither started nor ended."""
    if pod is None:
        return owners[0]
    by_name = {owner.container: owner for owner in owners}
    mine = [c for c in pod.containers if c.name in by_name]
    # An init container that ended is started again only with its pod: the others come before.
    later = [c for c in mine if c.kind is not Kind.INIT]
    ready = (
        [c for c in mine if not c.running and not c.ended]
        or [c for c in later if not c.running]  # one that ended starts again
        or later  # the API server is late
        or [c for c in mine if not c.running]
    )
    return by_name[ready[0].name] if ready else owners[0]
