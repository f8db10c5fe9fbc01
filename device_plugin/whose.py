# SPDX-License-Identifier: Apache-2.0
"""Asks kubelet and the API server whose slots are about to be used; identity.py decides."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import structlog

from device_plugin.asked import Events, Holders, NodePods
from device_plugin.book import Grant
from device_plugin.identity import (
    Ambiguous,
    Holding,
    Kind,
    Match,
    Owner,
    Pod,
    Unknown,
    find,
    find_init,
    of_others,
)
from harp.errors import DaemonUnreachable, HarpError

__all__ = ["Found", "Patience", "Whose"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a start waits; kubelet waits 30 s and then tries again."""

    identity_s: float = 5.0  #: for kubelet to list the container
    harpd_s: float = 15.0  #: for a harpd that is being restarted
    pause_s: float = 0.1  #: between two looks


@dataclass(frozen=True, slots=True)
class Found:
    """Who it is, as far as can be said."""

    who: Match | Ambiguous | Unknown
    sure: bool  #: to wait would tell no more
    holdings: Sequence[Holding] = ()  #: kubelet's list
    taken: Owner | None = None  #: who has some of the slots and shares them with nobody


class Whose:
    """Of this node. Called from several threads.

    Args:
        holders: kubelet.
        pods: the API server.
        events: the same.
        node: this node's name.
        patience: how long to wait for others.
    """

    def __init__(
        self, holders: Holders, pods: NodePods, events: Events, node: str, patience: Patience
    ) -> None:
        self._holders = holders
        self._pods = pods
        self._events = events
        self._node = node
        self._patience = patience

    def find(self, bare: Grant, before: Grant | None, living: Collection[frozenset[str]]) -> Found:
        """Who it is, when that is sure or patience is at its end.

        Args:
            bare: what is about to start.
            before: the grant that these slots stand for so far.
            living: slots of each grant.
        """
        deadline = time.monotonic() + self._patience.identity_s
        while True:
            found = self._look(bare, before, living)
            if found.sure or time.monotonic() >= deadline:
                return found
            time.sleep(self._patience.pause_s)

    def _look(self, bare: Grant, before: Grant | None, living: Collection[frozenset[str]]) -> Found:
        """Who it is as far as can be said now.

        Two that kubelet lists will be one when it has cleared up. A pod that the API server does
        not know may be a static one, whose mirror comes when it comes: that is not waited for.
        """
        try:
            holdings = self._holders.holdings()
        except DaemonUnreachable as error:
            _log.warning("kubelet_silent", reason=error.message)
            return Found(Unknown(), sure=False)
        near = {h.owner.pod_key for h in holdings if h.ids == bare.ids}
        if near:
            pods, answered = self.ask(near)
            found = find(bare.ids, holdings, pods, self._node)
            return Found(found, answered and isinstance(found, Match), holdings)
        # An init container, which kubelet does not list.
        near = {h.owner.pod_key for h in holdings if h.ids & bare.ids}
        had = None
        if before is not None and before.owner is not None:
            had = before.owner, before.pod_uid
            near.add(before.owner.pod_key)
        pods, answered = self.ask(near)
        who: Match | Unknown = Unknown()
        try:
            waiting = {pod.key: pod for pod in self._pods.here(pending=True)}
            waiting |= {pod.key: pod for pod in pods}
            who = find_init(bare.ids, holdings, waiting.values(), self._node, had)
        except HarpError as error:
            _log.warning("api_silent", reason=error.message)
            answered = False
        if isinstance(who, Match):
            return Found(who, answered, holdings)
        taken = of_others(bare.ids, holdings, pods, () if answered else living)
        return Found(who, sure=False, holdings=holdings, taken=taken)

    def ask(self, keys: Collection[tuple[str, str]]) -> tuple[Sequence[Pod], bool]:
        """Those of these pods that the API server knows; whether it answered."""
        try:
            return self._pods.named(keys), True
        except DaemonUnreachable as error:
            _log.warning("api_silent", reason=error.message)
            return (), False

    def gone(self, grants: Sequence[Grant], holdings: Sequence[Holding]) -> Sequence[Grant] | None:
        """Of grants that kubelet does not list, those that the API server does not know either.

        Init containers are in no list of kubelet's. And a kubelet that has just begun lists nobody,
        or static pods alone, until it was told of the others: be that in an hour, their containers
        go on meanwhile.

        Returns:
            None: nobody knows.
        """
        pods, answered = self.ask({g.owner.pod_key for g in grants if g.owner is not None})
        here = {pod.key: pod for pod in pods if pod.node == self._node and not pod.ended}
        sizes: Collection[int] | None = ()
        if any(grant.owner is None for grant in grants):
            sizes = self.unlisted(holdings)
        if not answered or sizes is None:
            return None

        def ended(grant: Grant) -> bool:
            if grant.owner is None:
                return len(grant.ids) not in sizes
            pod = here.get(grant.owner.pod_key)
            if pod is None or grant.pod_uid not in ("", pod.uid):
                return True
            mine = [c for c in pod.containers if c.name == grant.owner.container]
            if not mine or mine[0].kind is not Kind.INIT:
                return not mine
            # One of the same size may have taken its slots over, when the API server was late.
            size = len(grant.ids)
            mine += [c for c in pod.containers if c.kind is Kind.INIT and c.slots == size]
            # With an empty list all go on: an init container that ended may be one that runs again.
            return bool(holdings) and all(c.ended for c in mine)

        return [grant for grant in grants if ended(grant)]

    def unlisted(self, holdings: Sequence[Holding]) -> Collection[int] | None:
        """How many slots containers have that are here for the API server, not for kubelet's list.

        Returns:
            None: nobody knows.
        """
        try:
            pods = self._pods.here()
        except HarpError as error:
            _log.warning("api_silent", reason=error.message)
            return None
        listed = {holding.owner for holding in holdings}
        return {
            container.slots
            for pod in pods
            if pod.node == self._node and not pod.ended
            for container in pod.containers
            if Owner(*pod.key, container.name) not in listed
            and not (container.kind is Kind.INIT and container.ended)
        }

    def say_unsure(self, candidates: Sequence[Owner]) -> None:
        """Tell the pods of all who could be it."""
        names = ", ".join(map(str, candidates))
        _log.warning("owner_ambiguous", candidates=names)
        pods, _ = self.ask({owner.pod_key for owner in candidates})
        for pod in pods:
            self._events.tell(
                pod,
                "HarpOwnerAmbiguous",
                f"kubelet lists the same slots for {names}: annotations are not read, the container"
                " gets what its harp.dev/gpu-share says",
            )
