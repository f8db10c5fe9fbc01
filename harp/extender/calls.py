# SPDX-License-Identifier: Apache-2.0
"""What kube-scheduler calls, without HTTP: filter, prioritize, bind; JSON in and out.

Only the leader answers: another has not seen what the leader bound a moment ago. So a replica that
does not lead is not ready (GET /readyz), a Service sends it nothing, and who calls it all the same
hears an error and is hung up on, so that the next call goes to the leader.

kube-scheduler tries a pod anew the moment it sees a change, and our watch may be some milliseconds
behind its own. A "no" from old news would leave the pod to its next round, a minute or five later.
So where no node fits we wait for a change before we say so, a moment for all pods together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from harp.errors import ConfigError
from harp.extender.bind import Binder
from harp.extender.core import Done, NodeSeen, Outcome, step
from harp.extender.decide import Filtered, Scorer, filter_nodes
from harp.extender.metrics import Meter
from harp.extender.objects import NodeInfo, PodInfo
from harp.extender.state import View
from harp.kube.client import Object

__all__ = ["BadRequestError", "Extender", "Patience", "UnreadyError"]

#: how long a "no" waits for a change, and for how long no other does if none came: kube-scheduler
#: asks for one pod after the other
_WAIT_S = 0.3
_SURE_S = 1.0


class BadRequestError(Exception):
    """A body that cannot be answered."""

    def __init__(self, message: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(message)
        self.status = status


class UnreadyError(Exception):
    """We may not answer."""


@dataclass(slots=True)
class Patience:
    """Whether it is worth waiting for a change."""

    generation: int = -1  #: of the view, at which nothing came
    until_s: float = 0.0  #: when that is old news

    def is_over(self, generation: int, now_s: float) -> bool:
        """We have waited, just now, and nothing came."""
        return generation == self.generation and now_s < self.until_s

    def end(self, generation: int, now_s: float) -> None:
        """Nothing came."""
        self.generation, self.until_s = generation, now_s + _SURE_S


@dataclass(frozen=True, slots=True)
class Extender:
    """The three calls, without HTTP."""

    view: View
    lock: threading.Condition  #: of the view, the scorer and `patience`; notified of changes
    scorer: Scorer
    binder: Binder
    meter: Meter
    synced: Callable[[], bool]
    leads: Callable[[], bool]
    patience: Patience = field(default_factory=Patience)

    @property
    def lack(self) -> str:
        """Why this replica does not answer; empty: it does."""
        if not self.synced():
            return "HARP's extender does not see the cluster, yet or any more; see its log"
        return "" if self.leads() else "this replica of HARP's extender is not the leader"

    def filter(self, args: Object) -> Object:
        """Nodes on which the pod fits.

        Raises:
            BadRequestError: no pod, or no nodes.
            UnreadyError: see `lack`.
        """
        self._check()
        pod, nodes, names = _asked(args)
        with self.lock:
            self._learn(nodes or [])
            found = self._judge(pod, names)
        self.meter.filtered(len(found.fitting), len(found.full), len(found.never))
        fitting = set(found.fitting)
        # Both maps: kube-scheduler before 1.21 knows the first alone.
        result: dict[str, object] = {
            "FailedNodes": {**found.full, **found.never},
            "FailedAndUnresolvableNodes": found.never,
            "Error": "",
        }
        if nodes is None:
            result["NodeNames"] = list(found.fitting)
        else:
            kept = [node for node in nodes if _name_of(node) in fitting]
            result["Nodes"] = {"apiVersion": "v1", "kind": "NodeList", "items": kept}
        return result

    def prioritize(self, args: Object) -> list[Object]:
        """How good each is.

        Raises:
            BadRequestError: as filter().
            UnreadyError: as filter().
        """
        self._check()
        pod, nodes, names = _asked(args)
        with self.lock:
            self._learn(nodes or [])
            scores = self.scorer.scores(self.view, pod, names)
        return [{"Host": name, "Score": score} for name, score in scores.items()]

    def bind(self, args: Object, gone: Callable[[], bool] = lambda: False) -> Object:
        """Bind.

        Args:
            args: who, and where.
            gone: whether nobody waits for the answer any more.

        Raises:
            BadRequestError: it does not say which pod or node.
            UnreadyError: as filter().
        """
        self._check()
        asked = {key: _field(args, key) for key in ("PodNamespace", "PodName", "PodUID", "Node")}
        for key, value in asked.items():
            if not isinstance(value, str) or (not value and key != "PodUID"):
                raise BadRequestError(f"{key} is missing in the binding: is this kube-scheduler?")
        done: Done = self.binder.bind(*map(str, asked.values()), gone=gone)
        self.meter.bound(done.outcome)
        return {"Error": "" if done.outcome is Outcome.BOUND else done.why}

    def _judge(self, pod: PodInfo, names: Sequence[str]) -> Filtered:
        self.view.now_s = self.binder.now_s()
        found = filter_nodes(self.view, pod, names)
        end_s = time.monotonic() + _WAIT_S
        while names and not found.fitting:
            generation, now_s = self.view.generation, time.monotonic()
            if self.patience.is_over(generation, now_s):
                break
            while self.view.generation == generation and now_s < end_s:
                self.lock.wait(end_s - now_s)
                now_s = time.monotonic()
            if self.view.generation == generation:
                self.patience.end(generation, now_s)
                break
            found = filter_nodes(self.view, pod, names)
        return found

    def _check(self) -> None:
        if lack := self.lack:
            raise UnreadyError(f"{lack}; the pod is tried again")

    def _learn(self, nodes: list[Object]) -> None:
        """Nodes that the watch has not told of yet; else the watch is newer."""
        for body in nodes:
            if _name_of(body) not in self.view.nodes:
                step(self.view, NodeSeen(_read(NodeInfo.of, body)), self.binder.now_s())


def _asked(args: Object) -> tuple[PodInfo, list[Object] | None, list[str]]:
    body = _field(args, "Pod")
    if not isinstance(body, Mapping):
        raise BadRequestError("Pod is missing: is this kube-scheduler?")
    pod = _read(PodInfo.of, body)
    names = _field(args, "NodeNames")
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return pod, None, names
    nodes = _field(args, "Nodes")
    # An empty NodeList of Go is null.
    items = (nodes.get("items") or []) if isinstance(nodes, Mapping) else None
    if not isinstance(items, list):
        raise BadRequestError("neither NodeNames nor Nodes: is this kube-scheduler?")
    return pod, items, [_name_of(node) for node in items]


def _field(args: Object, name: str) -> object:
    if name in args:
        return args[name]
    return next((args[key] for key in args if key.lower() == name.lower()), None)


def _name_of(node: object) -> str:
    meta = node.get("metadata") if isinstance(node, Mapping) else None
    name = meta.get("name") if isinstance(meta, Mapping) else None
    if not isinstance(name, str):
        raise BadRequestError("a node without a name")
    return name


def _read(of: Callable[[Object], Any], body: Object) -> Any:
    try:
        return of(body)
    except (ConfigError, AttributeError, TypeError) as error:
        raise BadRequestError(str(error)) from error
