# SPDX-License-Identifier: Apache-2.0
"""A container is about to start: what its estimate makes of its grant, and what its pod is told."""

from __future__ import annotations

from dataclasses import replace

import structlog

from device_plugin.allocator import least_slots
from device_plugin.annotations import PREFIX
from device_plugin.asked import Events
from device_plugin.book import Cap, Grant, Made
from device_plugin.estimates import REASON, Estimates, Modes, cap_of, capped, word_of
from device_plugin.identity import Container, Pod
from device_plugin.slots import Slots
from harp.errors import HarpError
from harp.estimator.modes import Mode

__all__ = ["Lowering"]

_log = structlog.get_logger(__name__)


class Lowering:
    """Of one node's containers.

    Args:
        slots: of the node.
        events: who tells pods.
        estimates: who says what containers will need; None: nobody.
        modes: what comes of that.
    """

    def __init__(
        self,
        slots: Slots,
        events: Events,
        estimates: Estimates | None = None,
        modes: Modes | None = None,
    ) -> None:
        self._slots = slots
        self._events = events
        self._estimates = estimates
        self._modes = modes or Modes()

    def kept(self, grant: Grant, pod: Pod) -> Cap:
        """What stays in force of a running container's, as its pod is by now."""
        return grant.cap if self._modes.of(pod) is Mode.ENFORCE else Cap()

    def estimated(self, grant: Grant, pod: Pod, before: Grant | None) -> Grant:
        """The grant as estimates lower it, where its pod is one for which they may.

        Args:
            grant: with the limits it has without.
            pod: its.
            before: who has had its slots: harpd may be away.
        """
        name = grant.owner.container if grant.owner else ""
        container = next((c for c in pod.containers if c.name == name), Container(name))
        made = Made(container.image, pod.maker, container.command)
        grant = replace(grant, made=made)
        mode = self._modes.of(pod)
        if mode is Mode.OBSERVE or self._estimates is None:
            return grant
        try:
            needs = self._estimates.needs(grant)
        except HarpError as error:
            _log.warning("not_estimated", grant=grant.id, reason=error.message)
            same = before is not None and (before.owner, before.pod_uid) == (grant.owner, pod.uid)
            cap = self.kept(before, pod) if before is not None and same else Cap()
            return replace(grant, limits=capped(grant.limits, cap), cap=cap)
        cap = cap_of(grant.limits, needs)
        if cap == Cap():
            return grant
        done = mode is Mode.ENFORCE
        word = word_of(name, grant.limits, needs, cap, done=done)
        least = least_slots(self._slots, grant.ids, capped(grant.limits, cap))
        if least < len(grant.ids):
            word = f"{word}; {PREFIX}gpu-share: {least} would do"
        self._events.tell(pod, REASON, word)
        return replace(grant, limits=capped(grant.limits, cap), cap=cap) if done else grant
