# SPDX-License-Identifier: Apache-2.0
"""The extender as a whole: two watches, the election, and the servers.

One thread each. They share the view, under one lock that is never held over a call to the API
server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog

from harp.errors import ConfigError
from harp.extender.bind import Binder
from harp.extender.calls import Extender
from harp.extender.core import (
    Event,
    Expired,
    NodeGone,
    NodeSeen,
    NodesListed,
    PodGone,
    PodSeen,
    PodsListed,
    TookOver,
    step,
)
from harp.extender.decide import Scorer
from harp.extender.metrics import Meter
from harp.extender.objects import NodeInfo, PodInfo
from harp.extender.server import Server, Tls
from harp.extender.state import View
from harp.kube.client import ApiServer, Object
from harp.kube.lease import Elector, Tempo
from harp.kube.watch import Follower, list_all

__all__ = ["LEASE", "Options", "Service"]

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
LEASE = "harp-scheduler-extender"
_NODES = "/api/v1/nodes"
_PODS = "/api/v1/pods"
#: watches that fail for so long show no more what others do: a restart of an API server is shorter
_BLIND_S = 20.0

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Options:
    """How to serve."""

    bind: Address = ("127.0.0.1", 8888)  #: for kube-scheduler
    metrics: Address | None = None  #: a second place, for GET alone, in plain HTTP
    policy: str = "hybrid"
    tls: Tls | None = None  #: of `bind`
    elect: bool = True
    namespace: str = "default"  #: of the lease
    me: str = ""  #: this replica, unlike any other
    tempo: Tempo | None = None  #: of the election


class Service:
    """One replica.

    Args:
        api: the API server.
        options: how.

    Raises:
        ConfigError: as Server.
    """

    def __init__(self, api: ApiServer, options: Options) -> None:
        self.view = View()
        #: of the view; notified when that changes
        self.lock = threading.Condition()
        self._api = api
        self._followers = (
            Follower(api, _NODES, _Nodes(self._happened)),
            Follower(api, _PODS, _Pods(self._happened)),
        )
        self._elector = (
            Elector(
                api,
                options.namespace,
                LEASE,
                options.me,
                acquired=self._acquired,
                may=self.synced,
                tempo=options.tempo,
            )
            if options.elect
            else None
        )
        self._binder = Binder(
            self.view,
            self.lock,
            api,
            leads=self.leads,
            leader=self._leader,
            refresh=None if options.elect else self._acquired,
        )
        meter = Meter(self.view, self.lock, synced=self.synced, leads=self.leads)
        scorer = Scorer(options.policy)
        extender = Extender(
            self.view, self.lock, scorer, self._binder, meter, self.synced, self.leads
        )
        self.server = Server(extender, *options.bind, tls=options.tls)
        self.metrics = (
            Server(extender, *options.metrics, read_only=True) if options.metrics else None
        )
        self._watchers = _threads(nodes=self._followers[0].run, pods=self._followers[1].run)
        self._servers = _threads(
            serve=self.server.serve, **({"metrics": self.metrics.serve} if self.metrics else {})
        )
        self._electing = _threads(elect=self._elector.run) if self._elector else []

    def start(self) -> None:
        """Begin; returns at once."""
        for thread in (*self._watchers, *self._servers, *self._electing):
            thread.start()

    def stop(self) -> None:
        """End. The lease is given up once nothing is being bound; if that takes long, not."""
        idle = self._binder.close()
        if self._elector:
            self._elector.stop(release=idle)
        for thread in self._electing:
            thread.join()
        self.server.stop()
        if self.metrics:
            self.metrics.stop()
        for follower in self._followers:
            follower.stop()
        for thread in (*self._watchers, *self._servers):
            thread.join()

    def synced(self) -> bool:
        """Whether the cluster has been seen as a whole, and still is."""
        return all(follower.follows(_BLIND_S) for follower in self._followers)

    def leads(self) -> bool:
        """Whether this replica may bind."""
        return self._elector is None or self._elector.leads()

    def _leader(self) -> str:
        return self._elector.leader if self._elector else ""

    def _acquired(self) -> None:
        """What the leader before us bound may not have reached our watch: it is read now."""
        keep = self._elector.keep if self._elector else lambda: None
        items, _ = list_all(self._api, _PODS, keep)
        self._happened(TookOver(tuple(_readable(items, PodInfo.of))))

    def _happened(self, event: Event) -> None:
        with self.lock:
            actions = step(self.view, event, time.monotonic())
            self.lock.notify_all()
        for action in actions:
            if isinstance(action, Expired):
                _log.warning("assumption_expired", pod=action.pod.key, node=action.pod.node)


@dataclass(frozen=True, slots=True)
class _Nodes:
    """Sink of the watch of nodes."""

    happened: Callable[[Event], None]

    def replace(self, items: Sequence[Object]) -> None:
        self.happened(NodesListed(tuple(_readable(items, NodeInfo.of))))

    def put(self, item: Object) -> None:
        for node in _readable([item], NodeInfo.of):
            self.happened(NodeSeen(node))

    def gone(self, item: Object) -> None:
        self.happened(NodeGone(str(item["metadata"]["name"])))


@dataclass(frozen=True, slots=True)
class _Pods:
    """Sink of the watch of pods."""

    happened: Callable[[Event], None]

    def replace(self, items: Sequence[Object]) -> None:
        self.happened(PodsListed(tuple(_readable(items, PodInfo.of))))

    def put(self, item: Object) -> None:
        for pod in _readable([item], PodInfo.of):
            self.happened(PodSeen(pod))

    def gone(self, item: Object) -> None:
        self.happened(PodGone(str(item["metadata"]["uid"])))


def _threads(**runs: Callable[[], None]) -> list[threading.Thread]:
    return [threading.Thread(target=run, name=name, daemon=True) for name, run in runs.items()]


def _readable(items: Sequence[Object], of: Callable[[Object], _T]) -> list[_T]:
    """Those that can be read; one odd object may not stop the watch of all."""
    found = []
    for item in items:
        try:
            found.append(of(item))
        except ConfigError as error:
            _log.warning("object_not_read", reason=error.message)
    return found
