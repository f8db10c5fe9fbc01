# SPDX-License-Identifier: Apache-2.0
"""The modelled machine of arbiter_engine.py with memory that leaves the device and comes back.

Each client moves its memory at a fixed rate, and says how long that took. The sum of what lies on
the device is checked whenever it grows: that is the truth the arbiter's own sums are judged by.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from arbiter_core import GRANULE, MS, STANDARD, Msg
from arbiter_engine import Job, Machine, Proc

from harp.lease_wire import GRANT_OVERSUBSCRIBE, MemClass, Op

GRANULE_NS = 2 * MS // 10  #: 10 GB/s
CAPACITY = 100


@dataclass
class Swapper(Proc):
    """A process whose memory can leave the device, in granules."""

    asks: tuple[tuple[int, int], ...] = ()  #: (when, granules)
    refuses: bool = False  #: cannot take its memory off the device
    fails: int = 0  #: so often it cannot bring it back
    stops: tuple[int, int] = (0, 0)  #: SIGSTOP and SIGCONT; (0, 0): never
    swap: int = 0
    on: int = 0
    away: bool = False
    moving_until: int = 0
    moves: list[tuple[int, int]] = field(default_factory=list)
    granted: list[int] = field(default_factory=list)
    denied: int = 0
    asked_at: int = 0
    waited: int = 0  #: longest for an answer to LEASE_MEM
    heard: list[Msg] = field(default_factory=list)
    stopped: bool = False


def swapper(
    granules: int, *, share: int = 0, cls: int = STANDARD, at: int = 0, **proc: object
) -> Job:
    """A tenant of one process that works all the time."""
    asks = ((at, granules),) if granules else ()
    proc.setdefault("begins", at + MS)
    proc.setdefault("kernel", 2 * MS)
    one = Swapper(asks=asks, **proc)  # type: ignore[arg-type]
    return Job([one], share=share, cls=cls, flags=GRANT_OVERSUBSCRIBE)


class SwapMachine(Machine):
    def __init__(self, jobs: list[Job], **core: int) -> None:
        super().__init__(jobs, **core)
        self.evictions = 0
        for proc in self.swappers():
            for at, granules in proc.asks:
                self.later(self.start + at, "ask", proc, granules)
            begin, end = proc.stops
            if end:
                self.later(self.start + begin, "stop_process", proc)
                self.later(self.start + end, "cont_process", proc)

    def swappers(self) -> list[Swapper]:
        return [p for p in self.procs.values() if isinstance(p, Swapper)]

    def on_ask(self, proc: Swapper, granules: int) -> None:
        proc.asked_at = self.core.now
        size = granules * GRANULE
        self.tell(proc, Op.LEASE_MEM, seq=1, cls=MemClass.SWAP, bytes=size, lane=MemClass.SWAP)

    def on_say(self, proc: Proc, arg: tuple[Op, int, dict[str, int]]) -> None:
        op, _, fields = arg
        if op not in (Op.LEASE_MEM, Op.RETURN_MEM, Op.EVICTED, Op.RESTORED, Op.RECALLED):
            super().on_say(proc, arg)
            return
        if "lane" in fields:
            fields["cls"] = fields.pop("lane")
        self.sent(self.core.tell(proc.client, op, dev=proc.dev, **fields))

    # a stopped process hears later

    def on_stop_process(self, proc: Swapper, _: object) -> None:
        proc.stopped = True

    def on_cont_process(self, proc: Swapper, _: object) -> None:
        proc.stopped = False
        heard, proc.heard = proc.heard, []
        for msg in heard:
            self.on_told(proc, msg)
        if proc.open and not proc.closed:
            self.pump(proc)

    def on_told(self, proc: Proc, msg: Msg) -> None:
        if not isinstance(proc, Swapper):
            super().on_told(proc, msg)
            return
        if proc.stopped:
            proc.heard.append(msg)
            return
        match msg.op:
            case Op.EVICT:
                if proc.open:  # it was stopped, and given up: first its gate
                    assert proc.stops[1], "evicted while its gate is open"
                    self.stop(proc)
                    proc.moving_until = max(proc.moving_until, proc.queue_end)
                proc.away = True
                self.move(proc, proc.on, "gone", msg.seq)
            case Op.RESTORE:
                assert not proc.open
                proc.away = False
                self.arrives(proc, proc.swap - proc.on)
                self.move(proc, proc.on, "back", msg.seq)
            case Op.MEM_GRANT:
                granules = msg.bytes // GRANULE
                proc.granted.append(self.core.now)
                proc.waited = max(proc.waited, self.core.now - proc.asked_at)
                proc.swap += granules
                if not proc.away:
                    self.arrives(proc, granules)
            case Op.MEM_DENY:
                proc.denied += 1
            case Op.RECALL_MEM:
                self.tell(proc, Op.RECALLED, seq=msg.seq)
            case _:
                assert not (proc.away and msg.op == Op.OPEN_GATE), "opened while it is away"
                super().on_told(proc, msg)

    def on_drained(self, proc: Proc, drain: int) -> None:
        if isinstance(proc, Swapper) and proc.stopped:
            self.later(self.core.now + MS, "drained", proc, drain)
        else:
            super().on_drained(proc, drain)

    def pump(self, proc: Proc, *, fresh: bool = False) -> None:
        if isinstance(proc, Swapper) and proc.stopped:
            return
        super().pump(proc, fresh=fresh)

    def on_device(self) -> int:
        return sum(p.on for p in self.swappers() if not p.dead)

    def arrives(self, proc: Swapper, granules: int) -> None:
        proc.on += granules
        assert self.on_device() <= CAPACITY, "more on the device than fits"

    def move(self, proc: Swapper, granules: int, how: str, seq: int) -> None:
        begin = max(self.core.now, proc.moving_until)
        proc.moving_until = begin + granules * GRANULE_NS
        self.later(proc.moving_until, how, proc, (seq, begin))

    def on_gone(self, proc: Swapper, arg: tuple[int, int]) -> None:
        seq, begin = arg
        if proc.stopped:
            self.later(self.core.now + 10 * MS, "gone", proc, arg)
        elif proc.refuses:
            proc.away = False
            self.tell(proc, Op.EVICTED, seq=seq, b=1)
        else:
            self.evictions += proc.on > 0
            self.answer(proc, Op.EVICTED, seq, begin)
            proc.on = 0

    def on_back(self, proc: Swapper, arg: tuple[int, int]) -> None:
        if proc.stopped:
            self.later(self.core.now + 10 * MS, "back", proc, arg)
        elif proc.fails:
            proc.fails -= 1
            proc.on, proc.away = 0, True
            self.tell(proc, Op.RESTORED, seq=arg[0], b=1)
        else:
            self.answer(proc, Op.RESTORED, *arg)

    def answer(self, proc: Swapper, op: Op, seq: int, begin: int) -> None:
        now = self.core.now
        proc.moves.append((begin, now))
        self.tell(proc, op, seq=seq, used_ns=now - begin, bytes=proc.on * GRANULE)

    def residency(self, job: Job) -> Msg:
        rows = (m for m in self.core.snapshot() if m.op == Op.SNAP_RESIDENCY)
        return next(m for m in rows if m.tenant == job.tenant)


def swapping_ns(machine: SwapMachine, begin: int, end: int) -> int:
    """Time in which anything moved."""
    spans = sorted(s for p in machine.swappers() for s in p.moves)
    total, at = 0, begin
    for lo, hi in spans:
        begins, ends = max(lo, at), min(hi, end)
        if ends > begins:
            total += ends - begins
            at = ends
    return total
