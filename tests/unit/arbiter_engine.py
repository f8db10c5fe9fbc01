# SPDX-License-Identifier: Apache-2.0
"""A modelled machine in virtual time: engines that run launches in order, clients that announce.

Each (device, lane) is one engine, first launched first run. Clients keep their queue filled up to
the window, stop where the next kernel would end after the quantum, announce that, and yield when
their last kernel has ended. Messages take `wire` ns each way. The engines' own records of who was
busy when are the truth that charges and shares are judged by.
"""

from __future__ import annotations

import heapq
import itertools
import random
from dataclasses import dataclass, field

from arbiter_core import DEAD, GRANULE, MS, SEND, STANDARD, TICK, Act, Core, Msg

from harp.lease_wire import Op

US = 1000
QUEUE = 2 * MS  #: how much a client queues where no window bounds it


@dataclass
class Proc:
    """One process: a kernel length in ns, or a range it is drawn from; one device and lane."""

    kernel: int | tuple[int, int] = 200 * US
    dev: int = 0
    lane: int = 0
    burst: int = 0  #: kernels per request; 0: works without a pause
    idle: int = 0  #: between requests
    begins: int = 0
    announces: bool = True
    error: float = 0.0  #: of the announced rest, relative
    dies: int = 0  #: when, after the start; 0: never
    owner: Job | None = None
    client: int = 0
    epoch: int = 0
    open: bool = False
    closed: bool = False  #: launches no more in this turn
    wants: bool = False
    quantum: int = 0
    deadline: int = 0
    window: int = 0
    left: int = 0
    asked: int = 0
    first: int = 0
    said: int = 0
    told: int = 0
    queue_end: int = 0
    renewals: int = 0
    opens: int = 0
    drain: int = 0  #: number of the latest plan to yield; older ones are void
    dead: bool = False
    ran: list[tuple[int, int]] = field(default_factory=list)
    latencies: list[int] = field(default_factory=list)  #: request to the end of its last kernel


@dataclass
class Job:
    """A tenant and its processes."""

    procs: list[Proc]
    share: int = 0
    cap: int = 0
    cls: int = STANDARD
    flags: int = 0
    tenant: int = 0

    def busy(self, begin: int, end: int, lane: int = 0, dev: int = 0) -> int:
        spans = (s for p in self.procs if (p.lane, p.dev) == (lane, dev) for s in p.ran)
        return sum(max(0, min(hi, end) - max(lo, begin)) for lo, hi in spans)


def job(*, share: int = 0, cap: int = 0, cls: int = STANDARD, **proc: object) -> Job:
    """A tenant of one process."""
    return Job([Proc(**proc)], share=share, cap=cap, cls=cls)  # type: ignore[arg-type]


class Machine:
    def __init__(
        self, jobs: list[Job], *, devices: int = 1, wire: int = 30 * US, seed: int = 0, **core: int
    ) -> None:
        self.core = Core(**core)  # type: ignore[arg-type]
        self.wire = wire
        self.random = random.Random(seed)
        for number in range(devices):
            self.core.add_device(100 * GRANULE, number=number + 1)
        self.start = self.core.now
        self.jobs = jobs
        self.order = itertools.count()
        self.queue: list[tuple[int, int, str, Proc, object]] = []
        self.free_at: dict[tuple[int, int], int] = {}
        self.procs: dict[int, Proc] = {}
        for each in jobs:
            given = {"share": each.share, "cap": each.cap, "cls": each.cls, "flags": each.flags}
            each.tenant = self.core.add_tenant(0, **given)
            for dev in range(1, devices):
                self.core.set_tenant(each.tenant, dev, **given)
            for proc in each.procs:
                proc.owner = each
                proc.client = self.core.join(each.tenant)
                self.procs[proc.client] = proc
                self.later(self.start + proc.begins, "request", proc)
                if proc.dies:
                    self.later(self.start + proc.dies, "die", proc)

    def later(self, at: int, what: str, proc: Proc, arg: object = None) -> None:
        heapq.heappush(self.queue, (at, next(self.order), what, proc, arg))

    def sent(self, acts: list[Act]) -> None:
        for act in acts:
            if act.kind == SEND and not self.procs[act.client].dead:
                self.later(self.core.now + self.wire, "told", self.procs[act.client], act.msg)

    def tell(self, proc: Proc, op: Op, **fields: int) -> None:
        self.later(self.core.now + self.wire, "say", proc, (op, self.core.now, fields))

    def run(self, ns: int) -> None:
        until = self.core.now + ns
        while True:
            due = self.core.next()
            at = self.queue[0][0] if self.queue else until + 1
            if min(due, at) > until:
                self.core.now = until
                return
            if due <= at:
                self.core.now = max(due, self.core.now)
                self.sent(self.core.step(TICK))
                continue
            at, _, what, proc, arg = heapq.heappop(self.queue)
            self.core.now = max(at, self.core.now)
            if not proc.dead:
                getattr(self, f"on_{what}")(proc, arg)

    # what happens

    def on_say(self, proc: Proc, arg: tuple[Op, int, dict[str, int]]) -> None:
        op, said, fields = arg
        if "age_ns" in fields:
            fields["age_ns"] += self.core.now - said
        self.sent(self.core.tell(proc.client, op, dev=proc.dev, cls=proc.lane, **fields))

    def on_die(self, proc: Proc, _: object) -> None:
        proc.dead = True  # its queued kernels are killed with it
        proc.ran = [(lo, min(hi, self.core.now)) for lo, hi in proc.ran if lo < self.core.now]
        self.sent(self.core.step(DEAD, proc.client))

    def on_request(self, proc: Proc, _: object) -> None:
        proc.left = proc.burst
        proc.asked = self.core.now
        if proc.open and not proc.closed:
            self.pump(proc)
        elif not proc.wants and not proc.open:
            proc.wants = True
            self.tell(proc, Op.WANT_TIME)

    def on_told(self, proc: Proc, msg: Msg) -> None:
        if msg.op == Op.OPEN_GATE:
            if msg.a and not (proc.open and msg.epoch == proc.epoch):
                return
            if not msg.a:
                assert not proc.open, "opened twice"
                proc.first = proc.said = 0
                proc.opens += 1
            elif proc.closed:
                proc.renewals += 1
            proc.open, proc.closed, proc.wants, proc.epoch = True, False, False, msg.epoch
            proc.deadline = self.core.now + msg.quantum_ns if msg.quantum_ns else 0
            proc.window = msg.window_ns
            proc.drain += 1
            self.pump(proc, fresh=not msg.a)
        elif msg.op == Op.CLOSE_GATE and proc.open and msg.epoch == proc.epoch:
            self.stop(proc)

    def length(self, proc: Proc) -> int:
        if isinstance(proc.kernel, int):
            return proc.kernel
        return self.random.randint(*proc.kernel)

    def on_pump(self, proc: Proc, drain: int) -> None:
        if proc.open and not proc.closed and drain == proc.drain:
            self.pump(proc)

    def pump(self, proc: Proc, *, fresh: bool = False) -> None:
        """Launch what may be, then stop or come back."""
        now, engine = self.core.now, (proc.dev, proc.lane)
        if now - proc.told >= 10 * MS:
            proc.told = now
            self.tell(proc, Op.USED_TIME, **self.metered(proc))
        ahead = min(proc.window or QUEUE, QUEUE)
        while not proc.burst or proc.left:
            ns = self.length(proc)
            begin = max(now, self.free_at.get(engine, 0))
            mine = max(now, proc.queue_end)
            if not fresh and proc.deadline and mine + ns > proc.deadline:
                self.stop(proc)
                return
            if not fresh and mine - now + ns > ahead and mine > now:
                proc.drain += 1
                self.later(mine - max(0, ahead - ns), "pump", proc, proc.drain)
                return
            fresh = False
            proc.queue_end = self.free_at[engine] = begin + ns
            proc.ran.append((begin, begin + ns))
            proc.first = proc.first or begin
            if proc.burst:
                proc.left -= 1
                if not proc.left:
                    proc.latencies.append(proc.queue_end - proc.asked)
                    self.later(proc.queue_end + proc.idle, "request", proc)
        self.stop(proc)

    def stop(self, proc: Proc) -> None:
        if proc.closed:
            return
        proc.closed = True
        proc.drain += 1
        now = self.core.now
        rest = max(0, proc.queue_end - now)
        if proc.announces and rest:
            rest = int(rest * (1 + self.random.uniform(-proc.error, proc.error)))
            more = int(not proc.burst or proc.left > 0)
            self.tell(proc, Op.USED_TIME, a=1, window_ns=rest, c=more, **self.metered(proc))
        self.later(max(now, proc.queue_end), "drained", proc, proc.drain)

    def metered(self, proc: Proc) -> dict[str, int]:
        now = self.core.now
        ended = [hi for _, hi in proc.ran[-400:] if hi <= now]
        start = max(proc.first, proc.said)
        end = ended[-1] if ended else 0
        if not proc.first or end <= start:
            return {"epoch": proc.epoch, "used_ns": 0, "age_ns": 0}
        proc.said = end
        return {"epoch": proc.epoch, "used_ns": end - start, "age_ns": now - end}

    def on_drained(self, proc: Proc, drain: int) -> None:
        if drain != proc.drain or not proc.open or not proc.closed:
            return
        proc.open = proc.closed = False
        proc.wants = not proc.burst or proc.left > 0
        self.tell(proc, Op.YIELD_TIME, a=int(proc.wants), **self.metered(proc))
