# SPDX-License-Identifier: Apache-2.0
"""Whom the plugin asks and tells about pods: kubelet's list, the API server."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import structlog

from device_plugin.identity import Holding, Pod

__all__ = ["Events", "Holders", "LoggedEvents", "NoPods", "NodePods", "Pods"]

_log = structlog.get_logger(__name__)


class Holders(Protocol):
    """Kubelet's list of who has which slots."""

    def holdings(self) -> Sequence[Holding]:
        """All of the node.

        Raises:
            DaemonUnreachable: kubelet does not answer.
        """
        ...


class Pods(Protocol):
    """The API server, as far as a start needs it."""

    def named(self, keys: Collection[tuple[str, str]]) -> Sequence[Pod]:
        """Those of these pods, by namespace and name, that it knows.

        Raises:
            DaemonUnreachable: it does not answer.
        """
        ...


class NodePods(Pods, Protocol):
    """The same, with what is asked of all pods of this node."""

    def here(self, *, pending: bool = False) -> Sequence[Pod]:
        """All of this node; or those that have not begun, asked with little patience.

        Raises:
            DaemonUnreachable: it does not answer.
        """
        ...


class Events(Protocol):
    """Where something is said of a pod, for its owner to read."""

    def tell(self, pod: Pod, reason: str, message: str) -> None:
        """One event; never fails."""
        ...


class NoPods:
    """No API server: containers get what their slots say, annotations are not read."""

    def named(self, keys: Collection[tuple[str, str]]) -> Sequence[Pod]:
        """None is known."""
        del keys
        return ()

    def here(self, *, pending: bool = False) -> Sequence[Pod]:
        """None is known."""
        del pending
        return ()


class LoggedEvents:
    """No API server: what would be an event is in the plugin's log alone."""

    def tell(self, pod: Pod, reason: str, message: str) -> None:
        """One line."""
        _log.warning("pod_event", pod=f"{pod.namespace}/{pod.name}", reason=reason, message=message)
