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
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Ambiguous", "Container", "Holding", "Kind", "Match", "Owner", "Pod", "Unknown", "find"]


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
    return Match(_first([o for o in owners if o.pod_key == keys[0]], pod), pod)  # (2)


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
    ready = [c for c in mine if not c.running and not c.ended] or [
        c
        for c in mine
        if not c.running  # one that ended starts again
    ]
    # An init container that ended is started again only with its pod: the others come before.
    ready.sort(key=lambda c: c.ended and c.kind is Kind.INIT)
    return by_name[ready[0].name] if ready else owners[0]
