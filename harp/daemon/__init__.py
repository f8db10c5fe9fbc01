# SPDX-License-Identifier: Apache-2.0
"""harpd: discovery, grants, watchdog, control API."""

from __future__ import annotations

from harp.daemon.app import main, run

__all__ = ["main", "run"]
