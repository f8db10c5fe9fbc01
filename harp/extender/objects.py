# SPDX-License-Identifier: Apache-2.0
"""Nodes and pods as far as a share's place depends on them, read from the API server's JSON. Pure.

| where | name | who writes it | value |
|---|---|---|---|
| pod, annotation | harp.dev/gpu | the extender, with the binding | its GPUs: "GPU-4f", "0,1" |
| node, annotation | harp.dev/gpus | who knows on the node | [{"uuid": "GPU-4f", "healthy": true}] |
| node, annotation or label | harp.dev/slots-per-gpu | who set it for the plugin | 100, 200, 400 |

A pod's GPUs are listed in the order in which kubelet serves its containers, one for a share, k for
k whole GPUs, with commas between. A GPU is named by its UUID where the node's harp.dev/gpus says
it, else by its place: its number among the node's GPUs that HARP has, in NVML's order, from 0, as
the device plugin counts them. Both are read.

A pod that kubelet took long after it was bound is on a GPU that is not known: others may have been
bound meanwhile, and the plugin cannot tell them apart (waiting.py). From when to when it waited is
written on it, so that this is known after a restart of the extender too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_CEILING, Decimal
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from harp.errors import ConfigError

__all__ = ["GPU", "GPUS", "RESOURCE", "SLOTS_PER_GPU", "SLOW_S", "Claim", "NodeInfo", "PodInfo"]

RESOURCE = "harp.dev/gpu-share"
GPU = "harp.dev/gpu"
GPUS = "harp.dev/gpus"
SLOTS_PER_GPU = "harp.dev/slots-per-gpu"
#: from the binding to kubelet's start, by two machines' clocks; below waiting.START_S
SLOW_S = 45.0
_PER_GPU = 100
_MODEL = "nvidia.com/gpu.product"
#: kubelet's reason where Allocate says no
_REJECTED = "UnexpectedAdmissionError"
#: slots and GPUs a node can have; what is above is somebody's mistake
_SLOTS_MAX = 1 << 16
#: what a quantity of CPUs or memory counts as at most; no machine has as much
_MOST = 1 << 50


@dataclass(frozen=True, slots=True)
class Claim:
    """What one container asks for."""

    container: str
    slots: int


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """A node with shares, or without: then it has 0 slots."""

    name: str
    slots: int = 0  #: of all its GPUs
    healthy: int = 0  #: of those that may be given
    per_gpu: int = _PER_GPU
    cpu_milli: int = 0  #: that pods may have
    memory_bytes: int = 0
    model: str = ""
    uuids: tuple[str, ...] = ()  #: of its GPUs by place; empty: not known
    known_ill: frozenset[int] = frozenset()  #: places of GPUs that are said to be ill

    @property
    def gpus(self) -> int:
        """How many it has."""
        return self.slots // self.per_gpu

    @property
    def ill(self) -> int:
        """How many of them are not to be given, by what kubelet says; not which."""
        return min(self.gpus, -(-(self.slots - self.healthy) // self.per_gpu))

    def name_of(self, place: int) -> str:
        """What a pod's annotation calls the GPU at this place."""
        return self.uuids[place] if self.uuids else str(place)

    def place_of(self, name: str) -> int:
        """The reverse; -1: there is none of that name."""
        if name in self.uuids:
            return self.uuids.index(name)
        # As written by name_of(), not "+1" or "01".
        return int(name) if name in map(str, range(self.gpus)) else -1

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> NodeInfo:
        """As the API server writes it.

        Raises:
            ConfigError: it has no name, or a number is none.
        """
        meta, status = _part(body, "metadata"), _part(body, "status")
        name = _name(meta, "node")
        capacity, allocatable = _part(status, "capacity"), _part(status, "allocatable")
        per_gpu = _PER_GPU
        for where in ("labels", "annotations"):
            if text := _part(meta, where).get(SLOTS_PER_GPU):
                per_gpu = _count(text, f"{SLOTS_PER_GPU} of node {name}")
        if not per_gpu:
            raise ConfigError(f"{SLOTS_PER_GPU} of node {name} is 0", "100, 200 or 400")
        slots = _count(capacity.get(RESOURCE, "0"), f"{RESOURCE} of node {name}")
        healthy = _count(allocatable.get(RESOURCE, "0"), f"{RESOURCE} of node {name}")
        uuids, known_ill = _said(_part(meta, "annotations").get(GPUS), slots // per_gpu)
        return cls(
            name,
            slots,
            min(slots, healthy),
            per_gpu,
            _quantity(allocatable, "cpu", 1000),
            _quantity(allocatable, "memory"),
            str(_part(meta, "labels").get(_MODEL, "")),
            uuids,
            known_ill,
        )


@dataclass(frozen=True, slots=True)
class PodInfo:
    """A pod."""

    uid: str
    namespace: str
    name: str
    node: str = ""  #: empty: not bound
    claims: tuple[Claim, ...] = ()  #: in the order in which kubelet serves them
    cpu_milli: int = 0
    memory_bytes: int = 0
    gpus: tuple[str, ...] = ()  #: names, in the order of the claims; empty: not known
    ended: bool = False
    managed: bool = False  #: it names the resource, be it 0: else kube-scheduler binds it itself
    asks: tuple[int, ...] = ()  #: slots of its containers, init containers first, without zeros
    #: since when kubelet could take it, by the API server's clock; None: not known
    since_s: float | None = None
    started_s: float | None = None  #: kubelet's clock; None: it has not said that it took the pod
    slow: bool = False  #: kubelet took it long after it was bound: its GPU is not known
    placed: bool = False  #: who bound it has said which GPU, or that it is not known
    rejected: bool = False  #: kubelet found no slots for it on its node

    @property
    def key(self) -> str:
        """For people."""
        return f"{self.namespace}/{self.name}"

    @property
    def waits(self) -> bool:
        """Whether the plugin may yet be asked for GPUs for it."""
        return bool(self.asks) and self.started_s is None and not self.ended

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> PodInfo:
        """As the API server, or kube-scheduler, writes it.

        Raises:
            ConfigError: it has no name, or a number is none.
        """
        meta, spec = _part(body, "metadata"), _part(body, "spec")
        name, namespace = _name(meta, "pod"), str(meta.get("namespace") or "default")
        mains = [_asks(one) for one in spec.get("containers") or ()]
        inits = [_asks(one) for one in spec.get("initContainers") or ()]
        sidecars = [one for one in inits if one.stays]
        passing = [one for one in inits if not one.stays]
        staying = [*sidecars, *mains]
        overhead = _part(spec, "overhead")
        status = _part(body, "status")
        started_s = _seconds(status.get("startTime"))
        bound_s, placed = _bound_s(status), GPU in _part(meta, "annotations")
        slow = bound_s is not None and started_s is not None and started_s - bound_s > SLOW_S
        return cls(
            uid=str(meta.get("uid") or f"{namespace}/{name}"),
            namespace=namespace,
            name=name,
            node=str(spec.get("nodeName") or ""),
            claims=_claims(staying, passing),
            cpu_milli=max(sum(one.cpu for one in staying), *(one.cpu for one in passing), 0)
            + _quantity(overhead, "cpu", 1000),
            memory_bytes=max(
                sum(one.memory for one in staying), *(one.memory for one in passing), 0
            )
            + _quantity(overhead, "memory"),
            gpus=() if slow else _places(_part(meta, "annotations")),
            ended=status.get("phase") in ("Succeeded", "Failed"),
            managed=any(one.named for one in (*mains, *inits)),
            asks=tuple(one.slots for one in (*inits, *mains) if one.slots),
            since_s=_since_s(meta, bound_s, started_s, placed=placed),
            started_s=started_s,
            slow=slow,
            placed=placed,
            rejected=status.get("phase") == "Failed" and status.get("reason") == _REJECTED,
        )


@dataclass(frozen=True, slots=True)
class _Asks:
    container: str
    slots: int
    cpu: int
    memory: int
    stays: bool  #: as long as the pod: a sidecar
    named: bool  #: the resource stands there


def _asks(container: Mapping[str, Any]) -> _Asks:
    resources = _part(container, "resources")
    asked = {**_part(resources, "limits"), **_part(resources, "requests")}
    name = str(container.get("name") or "")
    slots = _count(asked.get(RESOURCE, "0"), f"{RESOURCE} of container {name}")
    stays = container.get("restartPolicy") == "Always"
    cpu, memory = _quantity(asked, "cpu", 1000), _quantity(asked, "memory")
    return _Asks(name, slots, cpu, memory, stays, RESOURCE in asked)


def _claims(staying: list[_Asks], passing: list[_Asks]) -> tuple[Claim, ...]:
    """What the pod needs at once, in kubelet's order.

    Kubelet lets later containers have the slots of init containers that are done. So those cost
    nothing beside the largest of the others, unless they ask for more than it: then it counts as
    that much. Kubelet may put the two together less well; that is not foreseen here.
    """
    claims = [Claim(one.container, one.slots) for one in staying if one.slots]
    most = max((Claim(o.container, o.slots) for o in passing), key=lambda c: c.slots, default=None)
    if most is None or not most.slots:
        return tuple(claims)
    if not claims:
        return (most,)
    at = max(range(len(claims)), key=lambda place: claims[place].slots)
    if claims[at].slots < most.slots:
        claims[at] = Claim(claims[at].container, most.slots)
    return tuple(claims)


def _places(annotations: Mapping[str, Any]) -> tuple[str, ...]:
    text = annotations.get(GPU)
    if not isinstance(text, str) or not text:
        return ()
    return tuple(name.strip() for name in text.split(","))


def _bound_s(status: Mapping[str, Any]) -> float | None:
    """When the API server wrote the binding."""
    for one in status.get("conditions") or ():
        if isinstance(one, Mapping) and one.get("type") == "PodScheduled":
            return _seconds(one.get("lastTransitionTime"))
    return None


def _since_s(
    meta: Mapping[str, Any], bound_s: float | None, started_s: float | None, *, placed: bool
) -> float | None:
    """Since when kubelet could take a pod.

    Of one that came with its node's name kubelet itself writes the binding, when it takes it: since
    it was made it has waited.
    """
    by_kubelet = bound_s is None or (started_s is not None and bound_s >= started_s)
    return _seconds(meta.get("creationTimestamp")) if by_kubelet and not placed else bound_s


def _seconds(text: object) -> float | None:
    try:
        return datetime.fromisoformat(text).timestamp() if isinstance(text, str) else None
    except ValueError:
        return None


def _said(text: object, gpus: int) -> tuple[tuple[str, ...], frozenset[int]]:
    """UUIDs and ill places of harp.dev/gpus. If that is not of so many GPUs, it is not believed."""
    try:
        rows = json.loads(text) if isinstance(text, str) else None
        uuids = tuple(str(row["uuid"]) for row in rows or ())
        ill = frozenset(at for at, row in enumerate(rows or ()) if not row.get("healthy", True))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return (), frozenset()
    good = len(set(uuids)) == len(uuids) == gpus and not any("," in uuid for uuid in uuids)
    return (uuids, ill) if good else ((), frozenset())


def _part(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = body.get(key)
    return part if isinstance(part, Mapping) else {}


def _name(meta: Mapping[str, Any], what: str) -> str:
    name = meta.get("name")
    if not isinstance(name, str) or not name:
        raise ConfigError(f"a {what} without metadata.name", "is this a Kubernetes object?")
    return name


def _count(text: object, what: str) -> int:
    count = _number(text)
    if count is None or not 0 <= count <= _SLOTS_MAX or count != int(count):
        raise ConfigError(f"{what} is {str(text)[:40]!r}", f"a whole number, 0 to {_SLOTS_MAX}")
    return int(count)


def _quantity(where: Mapping[str, Any], key: str, times: int = 1) -> int:
    """Rounded up. For scores alone: what is no quantity counts as nothing."""
    count = _number(where.get(key, "0"))
    if count is None or count <= 0:
        return 0
    return int((min(count, Decimal(_MOST)) * times).to_integral_value(ROUND_CEILING))


def _number(text: object) -> Decimal | None:
    try:
        found = parse_quantity(str(text))
    except ValueError:
        return None
    return found if isinstance(found, Decimal) and found.is_finite() else None
