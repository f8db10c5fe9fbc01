# SPDX-License-Identifier: Apache-2.0
"""The calls of a trace, made again: a thread for each of its threads, in the order it had.

A call begins when all have ended that had ended before it began, so what overlapped may overlap.
Results and answers are compared as they come, copies to the host once their stream has passed.
This process may be ended by the driver: harp.trace.apart keeps one for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from harp.errors import TraceError, WireError
from harp.trace.bare import BARE, LOOK_UPS, make_bare
from harp.trace.compare import NOT_READY, compared, is_poll
from harp.trace.driver import Driver
from harp.trace.entries import base_name
from harp.trace.mapping import Unknown, World, requested
from harp.trace.records import Call, CallFlag, Kind, Way
from harp.trace.report import Divergence, Made, Report
from harp.trace.tape import Tape
from harp.wire import SYMBOLS, decode_reply, decode_request, encode_request

__all__ = ["Again", "replay"]

#: a poll that had been answered is asked again until it is
_POLL_S = 60.0
#: host memory of copies that are under way, before the device is waited for
_HELD_BYTES = 256 << 20


def replay(
    tape: Tape, library: Path, *, hang_s: float = 60, begun: Callable[[int], None] = lambda _: None
) -> Report:
    """Make all calls to the driver at `library`; `begun` hears the number of each before.

    Raises:
        TraceError: the trace was made with other tables, or the driver cannot be loaded.
    """
    return Again(tape, Driver(library), hang_s, begun).run()


class Again:
    """One replay."""

    def __init__(
        self, tape: Tape, driver: Driver, hang_s: float, begun: Callable[[int], None]
    ) -> None:
        self._tape, self._driver, self._hang_s, self._begun = tape, driver, hang_s, begun
        self._world = World(images=frozenset(tape.images))
        self._lanes: dict[int, ThreadPoolExecutor] = {}
        self._under_way: dict[Future[Made], tuple[Call, dict[str, Any]]] = {}
        self._fetched: list[tuple[Call, int, bytes, Any]] = []  # to be compared after a wait
        self._held_bytes = 0
        self.report = Report(calls=len(tape.calls))

    def run(self) -> Report:
        """All of it."""
        for call in self._tape.calls:
            if not self._settle(before_ns=call.begin_ns):
                break
            if self._held_bytes > _HELD_BYTES:
                self._wait_for_device(call)
            self._begin(call)
        else:
            if self._settle(before_ns=None) and self._tape.calls:
                self._wait_for_device(self._tape.calls[-1])
        for lane in self._lanes.values():
            lane.shutdown(wait=not self.report.hung, cancel_futures=True)
        self.report.divergences.sort(key=lambda d: d.call)
        return self.report

    # --- one call ---

    def _begin(self, call: Call) -> None:
        """Have its thread make it, if it can be made."""
        try:
            work, asked = self._work(call)
        except Unknown as why:
            self.report.leave_out(call, str(why))
            return
        except (TraceError, WireError) as error:
            self.report.leave_out(call, error.message)
            return
        self._begun(call.sequence)
        lane = self._lanes.get(call.thread)
        if lane is None:
            lane = self._lanes[call.thread] = ThreadPoolExecutor(1)
        self._under_way[lane.submit(work)] = (call, asked)

    def _work(self, call: Call) -> tuple[Callable[[], Made], dict[str, Any]]:
        """How to make it, and what it asks for as recorded. Raises Unknown, HarpError."""
        name = call.symbol.name
        if SYMBOLS.get(name, call.symbol.op) != call.symbol.op:
            raise Unknown("its name and its op are not of one function")
        fn = self._driver.function(name)
        if CallFlag.RAW in call.flags or not call.symbol.op:
            row = BARE.get(base_name(name))
            if base_name(name) in LOOK_UPS:
                raise Unknown("a look-up of functions or texts, with which nothing happens")
            if row is None:
                raise Unknown("not described by rows of the wire: its arguments are bare")
            return make_bare(fn, row, call, self._world), {}
        op = call.symbol.op
        asked = decode_request(op, call.request, apart=True)
        body = encode_request(op, requested(op, asked, self._world), apart=True)
        sent = {
            number: data
            for (number, way), data in self._tape.data_of(call.sequence).items()
            if way is Way.SEND
        }
        keep = call.symbol.kind is Kind.COPY

        def work() -> Made:
            made = self._driver.make(op, fn, body, sent, self._tape.images)
            if is_poll(name) and call.result == 0:
                made = self._driver.until(lambda m: m.result != NOT_READY, made, _POLL_S)
            return made

        self._held_bytes += call.size if keep else 0
        return work, asked

    # --- what came ---

    def _settle(self, *, before_ns: int | None) -> bool:
        """Wait for calls that had ended by then, None: all; whether they did."""
        while True:
            due = [
                future
                for future, (call, _) in self._under_way.items()
                if before_ns is None or call.end_ns <= before_ns or future.done()
            ]
            if not due:
                return True
            done, _ = wait(due, timeout=self._hang_s, return_when=FIRST_COMPLETED)
            if not done:
                call, _ = self._under_way[due[0]]
                was = f"returned after {(call.end_ns - call.begin_ns) / 1e9:.3f} s"
                self._hang(call, was)
                return False
            for future in done:
                call, asked = self._under_way.pop(future)
                self._came(call, asked, future.result())

    def _hang(self, call: Call, was: str) -> None:
        now = f"not within {self._hang_s:g} s"
        self.report.diverge(Divergence(call.sequence, call.symbol.name, "hang", was, now))
        self.report.hung = True

    def _came(self, call: Call, asked: Mapping[str, Any], made: Made) -> None:
        """Compare a call with what was recorded, and learn what it has made."""
        if made.refused:
            self.report.leave_out(call, made.refused)
            return
        self.report.count(call, made.took_ns)
        now: dict[str, Any] | None = None
        was: dict[str, Any] | None = None
        if asked and made.reply and call.reply and CallFlag.NO_REPLY not in call.flags:
            op = call.symbol.op
            try:
                was = decode_reply(op, dict(asked), call.reply, apart=True)[1]
                now = decode_reply(op, made.asked, made.reply, apart=True)[1]
            except WireError:
                was = now = None
                self.report.unread += 1
        for found in compared(call, made, was, now, self._world):
            self.report.diverge(found)
        for (number, way), data in self._tape.data_of(call.sequence).items():
            if way is Way.FETCH and call.result == made.result == 0:
                self._fetched.append((call, number, data, made.transfers.get(number)))
        if not base_name(call.symbol.name).endswith("Async"):
            self._compare_fetched(only=call)

    def _wait_for_device(self, last: Call) -> None:
        """Let the device come to an end, so that all copies have arrived."""
        if not self._settle(before_ns=None):
            return
        for future in [lane.submit(self._driver.synchronize) for lane in self._lanes.values()]:
            try:
                future.result(self._hang_s)
            except TimeoutError:
                self._hang(last, "the device has not come to an end")
                return
        self._compare_fetched(only=None)
        self._driver.let_go()
        self._held_bytes = 0

    def _compare_fetched(self, *, only: Call | None) -> None:
        left = []
        for call, number, data, buffer in self._fetched:
            if only is not None and call is not only:
                left.append((call, number, data, buffer))
                continue
            came = bytes(buffer)[: len(data)] if buffer is not None else b""
            self.report.compared_bytes += len(data)
            if came != data:
                at = next(
                    (i for i, (x, y) in enumerate(zip(data, came, strict=False)) if x != y), 0
                )
                self.report.diverge(
                    Divergence(
                        call.sequence,
                        call.symbol.name,
                        f"data of transfer {number}, byte {at}",
                        data[at : at + 8].hex(" "),
                        came[at : at + 8].hex(" ") or "nothing",
                    )
                )
        self._fetched = left
