# SPDX-License-Identifier: Apache-2.0
"""The seam between leases and the processes that serve them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from harp.remote.events import Lease, Session

__all__ = ["Sessions", "Worker"]


@dataclass(frozen=True, slots=True)
class Worker:
    """What a client must know of the worker that waits for it."""

    endpoint: str = ""  #: host:port of GpuSession; "": that of Remote
    bulk_streams: int = 0  #: connections for streams of Bulk, beside Session's, that it takes


class Sessions(Protocol):
    """Workers, one per session.

    For each session: one start(); if that returned, any number of tell(), and end(), until one has
    returned. Nothing is called while another call for the same session is on its way. Each may be
    cancelled when it takes longer than 10 s.
    """

    async def start(self, lease: Lease, session: Session, token: str) -> Worker:
        """Start a worker; returns when its client may come. What it raises leaves nothing.

        Args:
            lease: what it may have.
            session: whose.
            token: what its client must say.
        """

    async def end(self, session: Session, reason: str) -> int:
        """End it and wait until its memory is free; returns how much that was."""

    async def tell(self, session: Session, drain_s: float) -> None:
        """Let its client know that the node drains, by then; 0: without end."""

    async def held(self) -> Mapping[str, int]:
        """{session_id: device memory that its worker holds}; who holds none may be left out."""
