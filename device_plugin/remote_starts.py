# SPDX-License-Identifier: Apache-2.0
"""Starts of containers whose GPU is elsewhere: as starts.py, with a lease in a tenant's place.

A lease may be lost while its container runs (its node was restarted): the keeper looks for another
one, and the pod is told. Fail-static ends there: without the pool there is no GPU to go on with.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import structlog

from device_plugin.book import Grant, grant_id
from device_plugin.identity import Pod
from device_plugin.remote_keeper import Keeper
from device_plugin.remote_share import PoolSlots, capped, remote_limits, remote_refine
from device_plugin.starts import Starts
from harp.errors import DaemonError, HarpError
from harp.keep_wire import Held
from harp.model import Limits

__all__ = ["RemoteStarts"]

_log = structlog.get_logger(__name__)
_REASON = "HarpRemote"


class RemoteStarts(Starts):
    """All starts of this node with a remote share; args as Starts, whose tenants are a Keeper."""

    maker = "harp remote keep"
    _slots: PoolSlots
    _tenants: Keeper

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        #: {grant id: its pod}, of starts that are under way
        self._starting: dict[str, Pod] = {}
        #: {key: why its lease is lost, as its pod was told}; the sweep's
        self._told: dict[str, str] = {}

    def sweep(self) -> None:
        """See Starts; also say whose lease is lost."""
        try:
            super().sweep()
        finally:
            self._tell_lost(self._tenants.held())

    def _bare(self, ids: Collection[str]) -> Grant:
        means = remote_limits(self._slots, ids)
        return Grant(grant_id(ids), frozenset(ids), (), means, share=means)

    def _refined(self, share: Limits, key: str, pod: Pod) -> Limits:
        try:
            limits, problems = remote_refine(share, pod.annotations)
        except HarpError as error:
            self._events.tell(pod, _REASON, _words(error))
            raise
        for problem in problems:
            self._events.tell(pod, "HarpAnnotation", problem.message)
        self._starting[key] = pod
        return limits

    def _give(self, grant: Grant, others: Sequence[Grant], waited: Callable[[], bool]) -> Grant:
        try:
            given = super()._give(grant, others, waited)
        except HarpError as error:
            if pod := self._starting.get(grant.id):
                self._events.tell(pod, _REASON, _words(error))
            raise
        finally:
            pod = self._starting.pop(grant.id, None)
        held = self._tenants.given(grant.id)
        if pod is None or held is None or not grant.limits.mem_bytes:
            return given
        got_bytes = min((d.mem_limit_bytes for d in held.devices), default=0)
        if said := capped(grant.limits.mem_bytes, got_bytes):
            self._events.tell(pod, "HarpAnnotation", said)
        return given

    def _again(self, grant: Grant) -> None:
        try:
            super()._again(grant)
        except DaemonError as error:
            # A node's word on this one, for the keeper has just answered: others have their turn.
            _log.error("lease_not_taken_again", grant=grant.id, reason=error.message)

    def _tell_lost(self, held: Collection[Held]) -> None:
        lost = {one.key: one.why for one in held if not one.node}
        owners = {g.id: g.owner for g in self.living() if g.owner is not None}
        new = {key for key, why in lost.items() if self._told.get(key) != why and key in owners}
        self._told = {key: why for key, why in self._told.items() if key in lost}
        if not new:
            return
        pods, answered = self._whose.ask({owners[key].pod_key for key in new})
        if answered:  # else they are told at the next sweep
            self._told |= {key: lost[key] for key in new}
        for key in sorted(new):
            for pod in pods:
                if pod.key == owners[key].pod_key:
                    text = f"container {owners[key].container} has no GPU now: {lost[key]}"
                    self._events.tell(pod, _REASON, text)


def _words(error: HarpError) -> str:
    return f"{error.message}; {error.hint}" if error.hint else error.message
