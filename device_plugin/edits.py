# SPDX-License-Identifier: Apache-2.0
"""Annotations that are edited while a container runs: its grant follows, within its share.

The API server is asked for this node's pods at an interval. While it is away everybody keeps what
he has. What harpd refuses is said as an event, and tried again: it may be a matter of others.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from device_plugin.annotations import PREFIX
from device_plugin.asked import Events, NodePods
from device_plugin.book import Grant
from device_plugin.identity import Pod
from device_plugin.metrics import Part
from device_plugin.starts import Starts
from harp.errors import DaemonUnreachable, HarpError

__all__ = ["Edits"]

_log = structlog.get_logger(__name__)


class Edits:
    """Those of this node. One thread calls.

    Args:
        starts: has the grants.
        pods: the API server.
        events: the same.
        node: this node's name.
    """

    def __init__(self, starts: Starts, pods: NodePods, events: Events, node: str) -> None:
        self._starts = starts
        self._pods = pods
        self._events = events
        self._node = node
        #: {grant id: (its pod's UID, its annotations), as they are in force}
        self._done: dict[str, tuple[str, Mapping[str, str]]] = {}
        self._silent = False

    def look(self) -> None:
        """Do what has been edited since the last look.

        Raises:
            DaemonUnreachable: harpd does not answer; the rest is for the next look.
        """
        grants = [grant for grant in self._starts.living() if grant.owner is not None]
        self._done = {g.id: self._done[g.id] for g in grants if g.id in self._done}
        if not grants:
            return
        try:
            pods = {pod.key: pod for pod in self._pods.here()}
        except DaemonUnreachable as error:
            self._starts.counts.failed(Part.EDITS)
            if not self._silent:
                _log.warning("edits_not_seen", reason=error.message)
            self._silent = True
            return
        self._silent = False
        for grant in grants:
            assert grant.owner is not None
            pod = pods.get(grant.owner.pod_key)
            # Another one of that name is not yet, or no more, whom it was given to.
            if pod is not None and pod.node == self._node and grant.pod_uid in ("", pod.uid):
                self._follow(grant, pod)

    def _follow(self, grant: Grant, pod: Pod) -> None:
        said = {n: text for n, text in pod.annotations.items() if n.startswith(PREFIX)}
        # One that was begun without the API server is the pod's as soon as that is known.
        if grant.pod_uid and self._done.get(grant.id) == (pod.uid, said):
            return
        try:
            self._starts.edit(grant, pod)
        except DaemonUnreachable:
            raise
        except HarpError as error:
            name = grant.owner.container if grant.owner else ""
            why = f"{error.message}; {error.hint}" if error.hint else error.message
            _log.warning("edit_refused", grant=grant.id, owner=str(grant.owner), reason=why)
            message = f"container {name} keeps what it has: {why}"
            self._events.tell(pod, "HarpAnnotation", message)
            return
        self._done[grant.id] = (pod.uid, said)
