# SPDX-License-Identifier: Apache-2.0
"""Programs: when they launch what, and when they wait. Pure.

A program has `wanted` launches it would make now; its client makes them when it may and says when
they have ended. Times are modelled, not measured.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from harp.sim.scenario import TenantSpec

__all__ = ["Program"]

#: launches of a program that never waits
ENDLESS = 1 << 60


class Program:
    """One process's host code.

    saturate, copy   never waits
    sync, graph      `queue` launches, waits for them, thinks `think_us`, again
    request          requests come by a Poisson process of `rate_hz` and are served one after the
                     other: `queue` launches, a wait
    """

    def __init__(
        self,
        spec: TenantSpec,
        rng: random.Random,
        at: Callable[[int, Callable[[int], None]], None],
        wake: Callable[[int], None],
    ) -> None:
        self._spec = spec
        self._rng = rng
        self._at = at
        self._wake = wake
        nodes = spec.nodes if spec.load == "graph" else 1
        #: mean length of a launch: what the client's predictor has learnt
        self.launch_ns = max(1, round(spec.kernel_us * 1000)) * nodes
        self.wanted = 0
        self._arrived: list[int] = []  #: times at which waiting requests came
        self.served = 0
        #: ns from arrival, or from the batch's beginning, to its end
        self.latencies_ns: list[int] = []
        self._began_ns = 0
        self._in_batch = False

    def start(self, now: int) -> None:
        """Begin."""
        match self._spec.load:
            case "saturate" | "copy":
                self.wanted = ENDLESS
            case "request":
                self._expect(now)
            case _:
                self._batch(now)

    def length_ns(self, launches: int) -> int:
        """How long so many launches run: their mean plus the spread that is left of them."""
        ns = launches * self.launch_ns
        if self._spec.jitter:
            spread = self._spec.jitter / math.sqrt(launches)
            ns = round(ns * (1 + spread * (2 * self._rng.random() - 1)))
        return max(1, ns)

    def launched(self, launches: int) -> None:
        """So many were handed to the device."""
        if self.wanted != ENDLESS:
            self.wanted -= launches

    def drained(self, now: int) -> None:
        """All that was launched has ended."""
        if self.wanted or not self._in_batch:
            return
        self._in_batch = False
        self.served += 1
        self.latencies_ns.append(now - self._began_ns)
        if self._spec.load == "request":
            self._arrived.pop(0)
            if self._arrived:
                self._serve()
            return
        think_ns = round(self._spec.think_us * 1000)
        if think_ns:
            self._at(now + think_ns, self._again)
        else:
            self._batch(now)

    def _again(self, now: int) -> None:
        self._batch(now)
        self._wake(now)

    def _batch(self, now: int) -> None:
        self._in_batch = True
        self._began_ns = now
        self.wanted = self._spec.queue

    def _expect(self, now: int) -> None:
        gap_ns = round(self._rng.expovariate(self._spec.rate_hz) * 1e9)
        self._at(now + max(1, gap_ns), self._arrive)

    def _arrive(self, now: int) -> None:
        self._arrived.append(now)
        self._expect(now)
        if not self._in_batch:
            self._serve()
            self._wake(now)

    def _serve(self) -> None:
        self._in_batch = True
        self._began_ns = self._arrived[0]
        self.wanted = self._spec.queue
