# SPDX-License-Identifier: Apache-2.0
"""Which GPU the scheduler extender meant for the container that kubelet is about to serve. Pure.

The extender writes what it chose on the pod, with the binding: harp.dev/gpu, GPUs in the order in
which kubelet serves its containers, one for a share, k for k whole GPUs. But kubelet asks which ids
are best without saying for whom. So: of the pods that are bound to this node and have not begun,
those with a container that asks for so much may be meant. Where all that is written for these is
the same, that is the answer; else there is none, and the plugin chooses by itself.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from device_plugin.book import Grant
from device_plugin.identity import Owner, Pod
from device_plugin.slots import Slots

__all__ = ["ANNOTATION", "hinted", "served"]

ANNOTATION = "harp.dev/gpu"


def hinted(
    slots: Slots, size: int, waiting: Iterable[Pod], have: Collection[Owner], node: str
) -> tuple[int, ...]:
    """The GPUs that a container of `size` slots was promised, as places; () where nobody can say.

    Args:
        slots: of this node.
        size: slots that kubelet asks for.
        waiting: pods that have not begun, as the API server knows them.
        have: containers that have their slots.
        node: this one's name.
    """
    answers = {
        answer
        for pod in waiting
        # Kubelet says when it began with a pod, which is after it has served it.
        if pod.pending and pod.started_s == math.inf and pod.node == node
        for answer in _answers(slots, size, pod, have)
    }
    return answers.pop() if len(answers) == 1 else ()


def served(living: Iterable[Grant], waiting: Iterable[Pod]) -> set[Owner]:
    """Containers that have their slots: not those of a pod that came again under its name."""
    uids = {pod.key: pod.uid for pod in waiting}
    return {
        grant.owner
        for grant in living
        if grant.owner is not None
        and grant.pod_uid in ("", uids.get(grant.owner.pod_key, grant.pod_uid))
    }


def _answers(
    slots: Slots, size: int, pod: Pod, have: Collection[Owner]
) -> Iterable[tuple[int, ...]]:
    """What may be meant for containers of one pod; () stands for one of which nothing is said."""
    told = [_place(slots, word.strip()) for word in pod.annotations.get(ANNOTATION, "").split(",")]
    at = 0
    for container in pod.containers:
        if not container.slots:
            continue
        count = max(1, container.slots // slots.per_gpu)
        mine, at = told[at : at + count], at + count
        owner = Owner(pod.namespace, pod.name, container.name)
        if container.slots == size and owner not in have:
            yield tuple(sorted(mine)) if len(mine) == count and _all_known(mine) else ()


def _all_known(places: Sequence[int]) -> bool:
    return min(places) >= 0 and len(set(places)) == len(places)


def _place(slots: Slots, word: str) -> int:
    """A GPU's place by its UUID or its number; -1: none of ours."""
    for place, gpu in enumerate(slots.gpus):
        if word in (gpu.uuid, str(place)):
            return place
    return -1
