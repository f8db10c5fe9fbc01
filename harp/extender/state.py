# SPDX-License-Identifier: Apache-2.0
"""The cluster as the extender sees it: what was watched, and what was bound a moment ago. Pure.

    watch of nodes ── put_node, drop_node ──────────┐
    watch of pods ─── put_pod, drop_pod ────────────┼── room(node), cpu and memory in use
    bind (core.py) ── assume, confirm, lose, undo ──┘

A pod that is being bound is *assumed* on its node until the watch shows it there: the next decision
may not give its slots again. An assumption ends with the watch, with undo(), or in time: after
LOST_S where an answer was lost, so that nobody knows what became of the request; late where the API
server did say that the pod is bound (then only a pod that was deleted unseen can be meant); never
while an answer is waited for.

Which GPU a pod has is what was written with its binding, as it was seen first; later edits of the
annotation count for nothing. It is doubted, for good, where the plugin may have given another:
where it waited too long, or beside a pod it could be taken for (waiting.py), or where kubelet
refused a pod that we had found room for. All three are read again of the pods after a restart, as
long as they are there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import inf

from harp.extender.objects import NodeInfo, PodInfo
from harp.extender.room import Room, room_of
from harp.extender.waiting import START_S, STUCK_S, clash, together

__all__ = ["CONFIRMED_S", "LOST_S", "Assumption", "Usage", "View"]

#: after a lost answer: the API server works on a request for 60 s at most (its default), and a
#: watch that has died in silence shows after 106 s what came of it (harp/kube/watch.py)
LOST_S = 180.0
#: one that the API server has confirmed
CONFIRMED_S = 300.0
#: of pods that are gone, so many are remembered: news of them that is late says nothing
_GONE_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Usage:
    """What pods ask for on a node, besides shares."""

    cpu_milli: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Assumption:
    """A pod that may be bound."""

    pod: PodInfo  #: with node and GPUs as they are to be
    until_s: float = inf  #: inf: an answer is waited for
    lost: bool = False  #: an answer about it was lost, since when it may be bound at any moment

    @property
    def asked(self) -> bool:
        """Whether an answer is waited for."""
        return self.until_s == inf

    @property
    def confirmed(self) -> bool:
        """Whether the API server has said that it is bound."""
        return not self.asked and not self.lost


class View:
    """All nodes and pods."""

    def __init__(self) -> None:
        #: {name: node}
        self.nodes: dict[str, NodeInfo] = {}
        #: {uid: pod} of the watch, without those that have ended
        self.pods: dict[str, PodInfo] = {}
        #: {uid: assumption}; never of a pod that is bound in `pods`
        self._assumed: dict[str, Assumption] = {}
        #: {node: {uid: pod}}, bound or assumed
        self._on: dict[str, dict[str, PodInfo]] = {}
        #: {node: room}, filled as it is asked for
        self._rooms: dict[str, Room] = {}
        #: UIDs of pods that are gone or have ended, oldest first: none comes back
        self._gone: dict[str, None] = {}
        #: {uid: since when} of pods in `_on` that kubelet has not begun
        self._waiting: dict[str, float] = {}
        #: UIDs of pods in `_on` whose GPU is not what is written
        self._doubted: set[str] = set()
        #: monotonic, of the last event
        self.now_s = 0.0
        #: counts changes of `pods`
        self.changes = 0
        #: counts changes of rooms: while it stands, so do all answers
        self.generation = 0

    def replace_nodes(self, nodes: Iterable[NodeInfo]) -> None:
        """These are all."""
        self.nodes = {node.name: node for node in nodes}
        self._rooms.clear()
        self.generation += 1
        for name in {self._where(uid) for uid in self._waiting}:
            self._look_for_mixups(name)

    def put_node(self, node: NodeInfo) -> None:
        """One is new, or has changed."""
        if self.nodes.get(node.name) != node:  # kubelet writes its node every few seconds
            self.nodes[node.name] = node
            self._change(node.name)
            self._look_for_mixups(node.name)

    def drop_node(self, name: str) -> None:
        """One is gone. Its pods are not, until the watch says so."""
        self.nodes.pop(name, None)
        self._change(name)

    def replace_pods(self, pods: Iterable[PodInfo]) -> None:
        """These are all. Assumptions stay: the list may be older than the binding."""
        there = {pod.uid: pod for pod in pods}
        for uid in self.pods.keys() - there.keys():
            self._forget(uid)
            self._end(uid)
        self.begun(there.values())
        for pod in sorted(there.values(), key=lambda pod: pod.ended):
            self.put_pod(pod)

    def begun(self, pods: Iterable[PodInfo]) -> None:
        """Of these, those that have begun wait no more: ahead of a list that is gone through."""
        for pod in pods:
            if not pod.waits:
                self._waiting.pop(pod.uid, None)

    def put_pod(self, pod: PodInfo) -> None:
        """One is new, or has changed."""
        self.changes += 1
        if pod.ended:
            if pod.rejected and not self.is_gone(pod.uid):
                self._rejected(pod)
            self.drop_pod(pod.uid)
            return
        before, assumed = self.pods.get(pod.uid), self._assumed.get(pod.uid)
        if before is not None and before.node:
            pod = replace(pod, gpus=before.gpus)
        elif pod.node and assumed is not None and assumed.confirmed:
            pod = replace(pod, gpus=assumed.pod.gpus)
        self._forget(pod.uid)
        self.pods[pod.uid] = pod
        if pod.node:
            self._unassume(pod.uid)
            self._put_on(pod)
            if assumed is None and (before is None or not before.node):
                self._look_back(pod)
            if pod.slow:  # longer than we have known it, perhaps
                self._doubt(pod.uid)
        elif assumed is None:
            self._nowhere(pod.uid)

    def drop_pod(self, uid: str) -> None:
        """One is gone, or has ended."""
        self.changes += 1
        self.undo(uid)
        self._forget(uid)
        self._end(uid)

    def is_gone(self, uid: str) -> bool:
        """Whether it was there, and is not any more."""
        return uid in self._gone

    def assume(self, pod: PodInfo, node: str, gpus: tuple[str, ...]) -> None:
        """It is about to be bound; what becomes of it is waited for."""
        before = self._assumed.get(pod.uid)
        if before is not None and before.pod.node != node:
            self.undo(pod.uid)
        self._unassume(pod.uid)
        if pod.uid in self._gone or (pod.uid in self.pods and self.pods[pod.uid].node):
            return  # the watch knows better
        pod = replace(pod, node=node, gpus=gpus)
        self._assumed[pod.uid] = Assumption(pod, lost=before is not None and before.lost)
        self._put_on(pod)

    def confirm(self, uid: str, now_s: float) -> None:
        """The API server says that it is bound."""
        if uid in self._assumed:
            self._assumed[uid] = Assumption(self._assumed[uid].pod, now_s + CONFIRMED_S)

    def lose(self, uid: str, now_s: float) -> None:
        """The answer is lost: it may be bound, now or soon."""
        if uid in self._assumed:
            self._assumed[uid] = Assumption(self._assumed[uid].pod, now_s + LOST_S, lost=True)

    def undo(self, uid: str) -> None:
        """It was not bound."""
        if self._unassume(uid):
            self._nowhere(uid)

    def expire(self, now_s: float) -> tuple[PodInfo, ...]:
        """End assumptions whose time is over; which they were. Who waited too long is doubted."""
        self.now_s = now_s
        for uid in [uid for uid, since_s in self._waiting.items() if since_s + START_S <= now_s]:
            self._doubt(uid)
        over = [uid for uid, one in self._assumed.items() if one.until_s <= now_s]
        pods = tuple(self._assumed[uid].pod for uid in over)
        for uid in over:
            self.undo(uid)
        return pods

    def assumption(self, uid: str) -> Assumption | None:
        """What is assumed of a pod."""
        return self._assumed.get(uid)

    def assumed(self) -> tuple[PodInfo, ...]:
        """Pods that are assumed."""
        return tuple(one.pod for one in self._assumed.values())

    def on(self, node: str) -> tuple[PodInfo, ...]:
        """Pods that are there, or are assumed to be."""
        return tuple(self._on.get(node, {}).values())

    def waiting(self, node: str) -> tuple[PodInfo, ...]:
        """Pods that are there, or are assumed to be, and have not begun."""
        there = self._on.get(node, {})
        return tuple(pod for uid, pod in there.items() if uid in self._waiting)

    def patience_s(self, uid: str) -> float:
        """How long one that waits may go on before it is doubted."""
        return max(0.0, self._waiting[uid] + START_S - self.now_s)

    def stuck(self) -> set[str]:
        """Nodes where one has waited for longer than is usual."""
        since_s = self.now_s - STUCK_S
        return {self._where(uid) for uid, begun_s in self._waiting.items() if begun_s <= since_s}

    def room(self, name: str) -> Room:
        """A node's shares.

        Raises:
            KeyError: no such node.
        """
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = room_of(self.nodes[name], self.on(name))
        return room

    def usage(self, node: str) -> Usage:
        """What the pods there ask for."""
        pods = self.on(node)
        return Usage(sum(pod.cpu_milli for pod in pods), sum(pod.memory_bytes for pod in pods))

    def _unassume(self, uid: str) -> bool:
        assumed = self._assumed.pop(uid, None)
        if assumed is not None:
            self._take_off(assumed.pod)
        return assumed is not None

    def _where(self, uid: str) -> str:
        """The node of a pod in `_on`."""
        assumed = self._assumed.get(uid)
        return assumed.pod.node if assumed is not None else self.pods[uid].node

    def _rejected(self, pod: PodInfo) -> None:
        """Kubelet had no room where we saw some: those that were there lie otherwise."""
        for other in self.on(pod.node) if pod.placed else ():
            before = other.started_s is None or other.started_s <= (pod.started_s or inf)
            if other.uid != pod.uid and before:
                self._doubt(other.uid)

    def _doubt(self, uid: str) -> None:
        """What is written on it counts no more; where there is but one GPU, it is on that."""
        node = self._where(uid)
        pod = self._on[node][uid]
        if node in self.nodes and self.nodes[node].gpus <= 1:
            return
        self._doubted.add(uid)
        if pod.gpus:
            self._on[node][uid] = replace(pod, gpus=())
            self._change(node)

    def _look_for_mixups(self, node: str) -> None:
        """Pods that wait together, one of whom asked nobody."""
        known = self.nodes.get(node)
        waiting = self.waiting(node)
        for pod in waiting if known and len(waiting) > 1 else ():
            assert known is not None
            if clash(known, pod, waiting) is not None:
                self._doubt(pod.uid)

    def _look_back(self, pod: PodInfo) -> None:
        """It was there when we first saw it: who waited beside it, if one of them asked nobody?"""
        others = self._on[pod.node].values() if pod.asks else ()
        for other in [one for one in others if one.placed is not pod.placed]:
            named, nobodys = (pod, other) if pod.placed else (other, pod)
            told = bool(self._on[pod.node][named.uid].gpus)
            if told and nobodys.asks and together(named, nobodys):
                self._doubt(named.uid)

    def _forget(self, uid: str) -> None:
        """What the watch said of it is void."""
        was = self.pods.pop(uid, None)
        if was is not None and was.node:
            self._take_off(was)

    def _nowhere(self, uid: str) -> None:
        """It is on no node, so nothing is known of how it came there."""
        self._waiting.pop(uid, None)
        self._doubted.discard(uid)

    def _end(self, uid: str) -> None:
        self._nowhere(uid)
        self._gone[uid] = None
        if len(self._gone) > _GONE_MAX:
            del self._gone[next(iter(self._gone))]

    def _put_on(self, pod: PodInfo) -> None:
        if pod.uid in self._doubted:
            pod = replace(pod, gpus=())
        self._on.setdefault(pod.node, {})[pod.uid] = pod
        if pod.waits:
            self._waiting.setdefault(pod.uid, self.now_s)
        else:
            self._waiting.pop(pod.uid, None)
        self._change(pod.node)
        if pod.uid in self._waiting:
            self._look_for_mixups(pod.node)

    def _take_off(self, pod: PodInfo) -> None:
        there = self._on.get(pod.node, {})
        there.pop(pod.uid, None)
        if not there:
            self._on.pop(pod.node, None)
        self._change(pod.node)

    def _change(self, node: str) -> None:
        self._rooms.pop(node, None)
        self.generation += 1
