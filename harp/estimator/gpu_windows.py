# SPDX-License-Identifier: Apache-2.0
"""GPU-windows as they pass: what a GPU's jobs needed together, held against what is typical. Pure.

A window is a stretch of time in which a GPU has the same jobs, all of them with an estimate. It
ends when one comes or goes, and after `length_s`; then the buffer learns of it. A short one says
nothing: jobs had no time to come to their peaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harp.estimator.packing import Buffer

__all__ = ["LENGTH_S", "Gpu", "Windows"]

LENGTH_S = 600.0
#: of `length_s`, at least
_SHORTEST = 0.1


@dataclass(slots=True)
class _Window:
    """One that goes on."""

    begun_s: float
    typical: Mapping[int, int]  #: {job: bytes}
    most_bytes: int = 0
    now_bytes: int = 0


@dataclass(slots=True)
class Gpu:
    """What is known of one GPU."""

    device_bytes: int
    typical_bytes: int | None = 0  #: of its jobs now; None: not known of all of them
    jobs: int = 0  #: now
    windows: int = 0  #: that have passed
    over: int = 0  #: of them, those that needed more than sum and buffer
    full: int = 0  #: allocations refused to who was within its limit


class Windows:
    """All GPUs'.

    Args:
        buffer: told of each window.
        length_s: of the longest.
    """

    def __init__(self, buffer: Buffer, length_s: float = LENGTH_S) -> None:
        self.buffer = buffer
        self._length_s = length_s
        #: {uuid: GPU}
        self.of: dict[str, Gpu] = {}
        self._open: dict[str, _Window] = {}

    def see(
        self,
        uuid: str,
        device_bytes: int,
        typical: Mapping[int, int | None],
        held_bytes: int,
        now_s: float,
    ) -> None:
        """A look at a GPU.

        Args:
            uuid: which.
            device_bytes: of it.
            typical: {job: what it typically needs; None: not known}; of all jobs on it.
            held_bytes: what they have now.
            now_s: monotonic.
        """
        gpu = self.of.setdefault(uuid, Gpu(device_bytes))
        gpu.device_bytes, gpu.jobs = device_bytes, len(typical)
        known = {job: size for job, size in typical.items() if size is not None}
        gpu.typical_bytes = sum(known.values()) if len(known) == len(typical) else None
        window = self._open.get(uuid)
        if window is not None and (
            window.typical != known
            or gpu.typical_bytes is None
            or now_s - window.begun_s >= self._length_s
        ):
            self._close(uuid, now_s)
            window = None
        if not known or gpu.typical_bytes is None:
            return
        if window is None:
            window = self._open[uuid] = _Window(now_s, known)
        window.now_bytes = held_bytes
        window.most_bytes = max(window.most_bytes, held_bytes)

    def refused(self, uuid: str, asked_bytes: int) -> None:
        """The GPU was full for a job within its limit: it needed so much more."""
        gpu = self.of.get(uuid)
        if gpu is not None:
            gpu.full += 1
        window = self._open.get(uuid)
        if window is not None:
            window.most_bytes = max(window.most_bytes, window.now_bytes + asked_bytes)

    def _close(self, uuid: str, now_s: float) -> None:
        window, gpu = self._open.pop(uuid), self.of[uuid]
        if now_s - window.begun_s < self._length_s * _SHORTEST:
            return
        typical = sum(window.typical.values())
        gpu.windows += 1
        gpu.over += self.buffer.see(
            len(window.typical), typical, window.most_bytes, gpu.device_bytes
        )
