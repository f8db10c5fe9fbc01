# SPDX-License-Identifier: Apache-2.0
"""What harpd knows of jobs to come: an adviser, told of every run that is kept.

After a start it reads what an earlier harpd had learned (learned.py), and of history what came
after, in a thread of its own; until it is done every need is unknown, and says so. Runs that end
meanwhile are learned after those, in the order of their numbers, so that two harpds with the same
history answer the same. What is learned is saved once a minute and at the end. A file that is
damaged, then or later, costs the time to read all of history again, and no more. Totals of what
bounds did go on after a harpd that saved them at its end; after another one they begin at 0: one
that goes back a little is taken for a counter that has begun anew and grown to what it shows.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import structlog

from harp.errors import HarpError, HistoryError, LearnedLost
from harp.estimator.advise import Adviser
from harp.estimator.job import TARGETS, Job, Need, Run
from harp.estimator.learned import Learned, Point, digest, maker
from harp.estimator.state import Keys
from harp.estimator.track import WINDOW_S, Track

__all__ = ["Advice", "Ended"]

_log = structlog.get_logger(__name__)
READING = "history is being read"
_PRUNE_S, _SAVE_S = 3600.0, 60.0
#: runs that are learned, and keys that are changed, before they are saved at the latest
_SAVE_RUNS, _SAVE_KEYS = 2000, 2048
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
        file: where what is learned is kept; None: nowhere.
        track: is kept there too.
    """

    def __init__(
        self, adviser: Adviser, *, file: Path | None = None, track: Track | None = None
    ) -> None:
        self._adviser = adviser
        self._file = file
        self._track = track or Track()
        self._track.whole = file is None
        self._learned: Learned | None = None
        #: why every need is unknown; "": none is for that reason
        self.state = READING
        #: runs learned from
        self.runs = 0
        self._last: Run | None = None
        #: where the file is
        self._saved = Point(0, "", 0)
        self._resumed = 0  #: runs that it had learned at the start
        self._goes_on = False  #: its totals are the last that were shown
        self._failing = False
        self._saving: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closing = False
        #: nobody reads
        self._idle = threading.Event()
        self._idle.set()
        #: ended while history was being read
        self._waiting: list[Run] = []
        #: {name: the last tenant of that name that ended}, oldest first
        self._ended: OrderedDict[str, Ended] = OrderedDict()

    async def keep(self, runs: Callable[[int], Iterable[Run]]) -> None:
        """fill(), save what comes, and forget what is too old once an hour; for ever."""
        pruned_s = time.monotonic()
        while True:
            if self.state == READING:
                await self.fill(runs)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SAVE_S):
                    await self._wake.wait()
            self._wake.clear()
            prunes = time.monotonic() - pruned_s >= _PRUNE_S
            if prunes and not self.state:
                pruned_s = time.monotonic()
                self._prune()
            await self.save(pruned=prunes)

    async def fill(self, runs: Callable[[int], Iterable[Run]]) -> None:
        """Take up what was learned, and learn the rest.

        Args:
            runs: yields those with larger numbers, in their order; called and drained in a thread.
        """
        began_s = time.monotonic()
        self._idle.clear()
        try:
            await asyncio.to_thread(self._read, runs)
        except HarpError as error:
            self.state, self._track.whole = error.message, True
            _log.warning("history_not_read", reason=error.message, effect="needs are unknown")
            return
        if self._closing:
            return
        self._resume_track()
        waiting, self._waiting = self._waiting, []
        self.state = ""
        for run in waiting:
            if self._last is None or run.number > self._last.number:  # else it was read as well
                self.learn(run)
        took_s = round(time.monotonic() - began_s, 3)
        _log.info("history_read", runs=self.runs, learned_before=self._resumed, took_s=took_s)

    async def save(self, *, pruned: bool = False) -> None:
        """Save what was learned since; one that is being saved is waited for.

        Args:
            pruned: keys seen later than now were seen now.
        """
        if self._saving is not None:
            await asyncio.shield(self._saving)
        if not self.state and self._learned is not None:
            saves = self._save(self._learned, pruned=pruned, last=self._closing)
            self._saving = asyncio.create_task(saves)
            try:
                await asyncio.shield(self._saving)
            finally:
                if self._saving.done():
                    self._saving = None

    async def close(self) -> None:
        """Save what is not saved yet, and close the file; nobody asks any more."""
        self._closing = True
        await asyncio.to_thread(self._idle.wait)
        await self.save()
        if self._learned is not None:
            self._learned.close()
            self._learned = None

    def learn(self, run: Run) -> None:
        """A run has ended, and is kept."""
        if self.state == READING:
            self._waiting.append(run)
        elif not self.state:
            try:
                self._learn(run)
            except LearnedLost as error:
                self._lose(error)
            if len(self._adviser.keys.changed) >= _SAVE_KEYS:
                self._wake.set()

    def still(self, run: Run) -> None:
        """A run goes on, and has come so far: what is beyond its bound counts at once."""
        if self.state:
            return
        try:
            self._adviser.still(run)
        except LearnedLost as error:
            self._lose(error)
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
        if not self.state:
            try:
                found = self._adviser.ask(job, time.time())
                return [found[target] for target in TARGETS]
            except LearnedLost as error:
                self._lose(error)
        return [_unknown(job, target, self.state) for target in TARGETS]

    def explain(self, job: Job) -> list[str]:
        """Why it answers so."""
        if not self.state:
            try:
                return self._adviser.explain(job, time.time())
            except LearnedLost as error:
                self._lose(error)
        return [f"unknown: {self.state}"]

    def _read(self, runs: Callable[[int], Iterable[Run]]) -> None:
        try:
            try:
                self._read_rest(self._open(runs))
            except LearnedLost as error:
                self._forget(error.message)
                self._read_rest(runs(0))
            if self._learned is not None and not self._closing:
                try:
                    self._goes_on = self._learned.go_on()
                except HistoryError as error:
                    self._say_failing(error)
        finally:
            self._idle.set()

    def _open(self, runs: Callable[[int], Iterable[Run]]) -> Iterable[Run]:
        """Take up what the file has; returns the runs that it has not."""
        every = runs(0)  # raises without a history: then the file beside it is another harpd's
        if self._file is None:
            return every
        try:
            self._learned = Learned(self._file, maker(self._adviser.config), self._dropped)
        except HistoryError as error:
            _log.error("learned_not_kept", reason=error.message, hint=error.hint)
            self._file = None
            return every
        point = self._learned.point
        if point is not None and point.number:
            rest = iter(runs(point.number - 1))
            run = next(rest, None)
            if run is not None and run.number == point.number and digest(run) == point.digest:
                try:
                    adviser = Adviser(self._adviser.config, Keys(self._learned))
                    adviser.read(self._learned.parts)
                except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
                    raise LearnedLost(f"{self._file} cannot be read: {error}") from error
                self._adviser, self._last = adviser, run
                self._saved, self.runs = point, point.runs
                self._resumed = point.runs
                return rest
            self._dropped(f"history's run {point.number} is not the one that it ends with")
            self._learned.empty()
        self._adviser = Adviser(self._adviser.config, Keys(self._learned))
        return every

    def _read_rest(self, runs: Iterable[Run]) -> None:
        for count, run in enumerate(runs, 1):
            if self._closing:
                break
            self._learn(run)
            if count % _SAVE_RUNS == 0 and self._learned is not None:
                self._save_now(self._learned)
        if self._closing and self._learned is not None:
            self._save_now(self._learned)

    def _dropped(self, why: str) -> None:
        effect = "all of history is read again"
        _log.warning("learned_dropped", file=str(self._file), reason=why, effect=effect)

    def _forget(self, why: str) -> None:
        """Begin anew, without a file."""
        self._dropped(why)
        learned, self._learned, self._file = self._learned, None, None
        if learned is not None:
            learned.close()
            learned.remove()
        self._adviser = Adviser(self._adviser.config)
        self.runs, self._last, self._saved = 0, None, Point(0, "", 0)
        self._resumed = 0

    def _lose(self, error: LearnedLost) -> None:
        self._forget(error.message)
        self.state = READING
        self._wake.set()

    def _resume_track(self) -> None:
        try:
            if self._learned is not None and self._learned.track is not None:
                if not self._goes_on:
                    _log.warning(
                        "totals_begin_anew", reason="the harpd before did not save its own"
                    )
                self._track.resume(
                    self._learned.track, self._learned.verdicts(), totals=self._goes_on
                )
        except (LearnedLost, ValueError, TypeError, KeyError) as error:
            _log.warning("coverage_not_kept", reason=str(error), effect="it is counted anew")
        self._track.whole = True

    def _prune(self) -> None:
        try:
            if gone := self._adviser.prune(time.time()):
                _log.info("estimates_pruned", keys=gone)
        except LearnedLost as error:
            self._lose(error)

    def _point(self) -> Point:
        last = self._last
        return Point(0, "", 0) if last is None else Point(last.number, digest(last), self.runs)

    def _save_now(self, learned: Learned) -> None:
        """In the thread that reads."""
        point = self._point()
        try:
            learned.take(self._adviser, point)
        except HistoryError as error:
            self._say_failing(error)
            return
        self._saved, self._failing = point, False

    async def _save(self, learned: Learned, *, pruned: bool, last: bool) -> None:
        keys, now_s, point = self._adviser.keys, time.time(), self._point()
        verdicts = self._track.take()
        changed, gone = keys.take()
        if not (changed or gone or verdicts or pruned or last or point != self._saved):
            return
        rows = [(key, state.seen_s, state.packed()) for key, state in changed]
        try:
            await asyncio.to_thread(
                learned.save,
                point,
                rows,
                gone,
                self._adviser.write(),
                track=self._track.plain(),
                last=last,
                verdicts=verdicts,
                since_s=now_s - WINDOW_S,
                now_s=now_s if pruned else None,
            )
        except HistoryError as error:
            keys.not_saved(changed)
            self._track.put_back(verdicts)
            self._say_failing(error)
            return
        keys.saved(gone)
        if self._failing:
            _log.info("learned_is_kept_again")
        self._saved, self._failing = point, False

    def _say_failing(self, error: HistoryError) -> None:
        if not self._failing and self._learned is not None:
            effect = "it is kept in memory, and the next harpd learns it again"
            _log.error("learned_not_kept", reason=error.message, hint=error.hint, effect=effect)
        self._failing = True

    def _learn(self, run: Run) -> None:
        if self._last is not None and run.number <= self._last.number:
            effect = "it is learned when all of history is read again"
            _log.error("run_came_late", run=run.number, after=self._last.number, effect=effect)
            return
        self._last = run
        try:
            self._adviser.learn(run)
        except LearnedLost:
            raise
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
