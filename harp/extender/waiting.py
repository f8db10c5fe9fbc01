# SPDX-License-Identifier: Apache-2.0
"""Pods that are bound and that kubelet has not begun: which of them the plugin may mix up. Pure.

Kubelet asks the plugin for slots without saying for which pod. The plugin looks for pods that are
bound to its node and have no startTime; where all that ask for so much are promised the same GPUs,
it gives these (device_plugin/hint.py), else it chooses by itself. Then two pods may have each
other's GPU, and what is written on them is wrong for as long as they live.

So no pod is bound beside a waiting one that asks for as much and is promised another GPU. Nor is
one that is promised none: the plugin may put it where the waiting one was to go. Kubelet says a
moment later that it has begun. If it does not in START_S, the GPU of the waiting one counts as not
known (room.py), and the other is bound with none named.

Who asked nobody (nodeName, another scheduler) comes all the same. That the two waited together is
seen while it is so, and written on both: together() reads it after a restart of the extender.
"""

from __future__ import annotations

from collections.abc import Iterable

from harp.extender.objects import NodeInfo, PodInfo

__all__ = ["START_S", "STUCK_S", "answers", "clash", "together"]

#: longer than the 40 to 50 s after which a node whose kubelet is silent gets no more pods
START_S = 60.0
#: one that waits for so long will not begin in a moment: other nodes are better
STUCK_S = 5.0
#: between the API server's clock and a node's, and what times written in whole seconds leave out
_CLOCKS_S = 2.0


def answers(node: NodeInfo, pod: PodInfo) -> dict[int, set[tuple[int, ...]]]:
    """What the plugin would find promised to this pod's containers: {slots: GPUs by place}.

    () stands for a container of which nothing is said.
    """
    told = [node.place_of(name) for name in pod.gpus]
    found: dict[int, set[tuple[int, ...]]] = {}
    at = 0
    for slots in pod.asks:
        count = max(1, slots // node.per_gpu)
        mine, at = told[at : at + count], at + count
        good = len(set(mine)) == count and min(mine) >= 0
        found.setdefault(slots, set()).add(tuple(sorted(mine)) if good else ())
    return found


def clash(node: NodeInfo, pod: PodInfo, waiting: Iterable[PodInfo]) -> PodInfo | None:
    """One of those waiting there for which, or for whose GPU, the plugin could take this pod's."""
    if node.gpus <= 1:
        return None
    mine = answers(node, pod)
    for other in waiting:
        if other.uid == pod.uid:
            continue
        theirs = answers(node, other)
        if bool(pod.gpus) != bool(other.gpus) or any(
            len(mine[slots] | theirs[slots]) > 1 for slots in mine.keys() & theirs.keys()
        ):
            return other
    return None


def together(pod: PodInfo, other: PodInfo) -> bool:
    """Whether two may have waited at one time, by what is written on them."""
    if pod.since_s is None or other.since_s is None:
        return False
    # One that has not begun waits still.
    until_s, others_until_s = pod.started_s, other.started_s
    return (others_until_s is None or pod.since_s <= others_until_s + _CLOCKS_S) and (
        until_s is None or other.since_s <= until_s + _CLOCKS_S
    )
