# SPDX-License-Identifier: Apache-2.0
"""Tenants that are held for nobody: their plugin died before it wrote them down, or lost its book.

A held tenant lives until it is removed, so somebody must: whoever has a folder among our grants, is
in no book and has not been on kubelet's list for a while.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import structlog

from device_plugin import book
from device_plugin.asked import Holders
from device_plugin.book import grant_id, size_of
from device_plugin.starts import Starts
from device_plugin.tenants import Stray, drop_folder

__all__ = ["Orphans", "StrayTenants"]

_log = structlog.get_logger(__name__)


class StrayTenants(Protocol):
    """harpd, as far as its held tenants go."""

    def held_in(self, grants: Path) -> Mapping[str, Stray]:
        """Tenants by grant id, as far as their folders lie in that one.

        Raises:
            DaemonError: harpd does not answer.
        """
        ...

    def remove_named(self, name: str, folder: Path) -> None:
        """End a tenant, if it lives and that folder is its own.

        Raises:
            DaemonError: harpd does not answer.
        """
        ...


class Orphans:
    """Those of this node. One thread calls.

    Args:
        grants: folder of grant folders.
        starts: has the book.
        tenants: harpd.
        holders: kubelet.
    """

    def __init__(
        self, grants: Path, starts: Starts, tenants: StrayTenants, holders: Holders
    ) -> None:
        self._grants = grants
        self._starts = starts
        self._tenants = tenants
        self._holders = holders
        #: {grant id: since when nobody is known to have it, monotonic}
        self._since_s: dict[str, float] = {}

    def sweep(self) -> None:
        """End those whose time is over, and take away folders that nobody has.

        Raises:
            DaemonError: kubelet or harpd does not answer; nothing was ended.
        """
        holdings = self._holders.holdings()
        listed = {grant_id(holding.ids) for holding in holdings}
        strays = self._tenants.held_in(self._grants)
        folders = {path.name for path in self._grants.glob("*/")}
        ours = {name for name in folders | set(strays) if size_of(name)}
        nobodys = ours - listed - {g.id for g in self._starts.living()}
        now_s = time.monotonic()
        self._since_s = {key: self._since_s.get(key, now_s) for key in nobodys}
        due = sorted(k for k, since_s in self._since_s.items() if now_s - since_s >= book.GONE_S)
        # Kubelet's list may be short of pods that are here; see Whose.
        unlisted = self._starts.unlisted(holdings) if due else ()
        if unlisted is None:
            return
        for key in due:
            stray = strays.get(key)
            if size_of(key) in unlisted:
                continue
            if stray is not None and stray.busy:
                _log.warning("orphan_used", grant=key, tenant=stray.name)
                continue
            with self._starts.nobodys(key) as still:
                if not still:
                    continue  # a container starts with just these slots
                if stray is not None:
                    self._tenants.remove_named(stray.name, self._grants / key)
                drop_folder(self._grants / key)
            _log.warning("orphan_ended", grant=key, tenant=stray.name if stray else "")
