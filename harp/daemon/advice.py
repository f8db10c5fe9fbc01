# SPDX-License-Identifier: Apache-2.0
"""What harpd knows of jobs to come: an adviser, told of every run that is kept.

After a start it reads what history has in a thread of its own; until it is done every need is
unknown, and says so. Runs that end meanwhile are learned after those, in the order of their
numbers, so that two harpds with the same history answer the same.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from harp.errors import HarpError
from harp.estimator.advise import Adviser
from harp.estimator.job import TARGETS, Job, Need, Run

__all__ = ["Advice", "Ended"]

_log = structlog.get_logger(__name__)
READING = "history is being read"
_PRUNE_S = 3600.0
#: names of tenants that have ended are known for so many of them
_NAMES = 4096


@dataclass(frozen=True, slots=True)
class Ended:
    """A tenant that has ended."""

    uid: int
    run: Run


class Advice:
    """One daemon's. All but the reading of history happens on the event loop.

    Args:
        adviser: has learned nothing yet.
    """

    def __init__(self, adviser: Adviser) -> None:
        self._adviser = adviser
        #: why every need is unknown; "": none is for that reason
        self.state = READING
        #: runs learned from
        self.runs = 0
        self._last_number = 0
        #: ended while history was being read
        self._waiting: list[Run] = []
        #: {name: the last tenant of that name that ended}, oldest first
        self._ended: OrderedDict[str, Ended] = OrderedDict()

    async def keep(self, runs: Callable[[], Iterable[Run]]) -> None:
        """fill(), and then forget what is too old, once an hour, for ever."""
        await self.fill(runs)
        while True:
            await asyncio.sleep(_PRUNE_S)
            if gone := self._adviser.prune(time.time()):
                _log.info("estimates_pruned", keys=gone)

    async def fill(self, runs: Callable[[], Iterable[Run]]) -> None:
        """Learn from what is kept.

        Args:
            runs: yields them in the order of their numbers; called and drained in a thread.
        """
        began_s = time.monotonic()
        try:
            await asyncio.to_thread(self._read, runs)
        except HarpError as error:
            self.state = error.message
            _log.warning("history_not_read", reason=error.message, effect="needs are unknown")
            return
        waiting, self._waiting = self._waiting, []
        for run in waiting:
            self._learn(run)
        self.state = ""
        _log.info("history_read", runs=self.runs, took_s=round(time.monotonic() - began_s, 3))

    def learn(self, run: Run) -> None:
        """A run has ended, and is kept."""
        if self.state == READING:
            self._waiting.append(run)
        elif not self.state:
            self._learn(run)

    def still(self, run: Run) -> None:
        """A run goes on, and has come so far: what is beyond its bound counts at once."""
        if self.state:
            return
        try:
            self._adviser.still(run)
        except Exception:  # noqa: BLE001 - as below
            _log.exception("run_not_followed")

    def remember(self, name: str, ended: Ended) -> None:
        """A tenant of that name has ended."""
        self._ended.pop(name, None)
        self._ended[name] = ended
        if len(self._ended) > _NAMES:
            self._ended.popitem(last=False)

    def ended(self, name: str) -> Ended | None:
        """The last tenant of that name that ended since harpd began."""
        return self._ended.get(name)

    def ask(self, job: Job) -> list[Need]:
        """What a job will need: all targets, in their order."""
        if self.state:
            return [_unknown(job, target, self.state) for target in TARGETS]
        found = self._adviser.ask(job, time.time())
        return [found[target] for target in TARGETS]

    def explain(self, job: Job) -> list[str]:
        """Why it answers so."""
        if self.state:
            return [f"unknown: {self.state}"]
        return self._adviser.explain(job, time.time())

    def _read(self, runs: Callable[[], Iterable[Run]]) -> None:
        for run in runs():
            self._learn(run)

    def _learn(self, run: Run) -> None:
        if run.number <= self._last_number:
            return  # read from history already
        self._last_number = run.number
        try:
            self._adviser.learn(run)
        except Exception:  # noqa: BLE001 - one odd run may end neither harpd nor what it knows
            _log.exception("run_not_learned", run=run.number)
        else:
            self.runs += 1


def _unknown(job: Job, target: str, why: str) -> Need:
    asked = {
        "gpu_mem_bytes": float(job.asked_mem_bytes),
        "share_ratio": job.asked_share_ratio,
    }.get(target)
    return Need(
        target=target,
        typical=None,
        bound=asked or None,
        confidence=0.0,
        known=False,
        level="request",
        runs=0,
        reason=f"unknown: {why}",
    )
