# SPDX-License-Identifier: Apache-2.0
"""Any sequence of events: the arbiter's invariants hold, no OOM is false, nobody starves.

Model clients keep the contract of lease.h (or are stopped, or die). The oracle of a denial: at some
instant between question and answer the request did not fit into limit or capacity, where peers are
counted with what they use, plus their slack only if they do not answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from arbiter_core import DEAD, GRANULE, MESSAGE, MS, SECOND, SEND, WATCHED, Act, Core, Msg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from harp.lease_wire import VERSION, Deny, Op

CAPACITY = 12
CONTEXT = 1  # what a context is expected to take
LIMITS = (3, 5, 0)
SLACK = {True: 1, False: 32}  # granules, with and without a limit
WAIT = 5 * SECOND


@dataclass
class Question:
    bytes: int
    asked: int
    overhead: bool
    #: at some instant since it was asked it did not fit
    blocked: bool = False


@dataclass
class Client:
    id: int
    tenant: int
    used: int = 0
    slack: int = 0
    overhead: int = 0
    told: int = 0  #: overhead the device says
    own: int = 0  #: of that, what is said to be the tenant's own doing
    stopped: bool = False
    inbox: list[Msg] = field(default_factory=list)
    questions: dict[int, Question] = field(default_factory=dict)
    gate: int | None = None

    @property
    def extra(self) -> int:
        """Overhead charged beyond the leases of its class."""
        return max(0, self.told - self.overhead)

    @property
    def counted(self) -> int:
        """What of that counts against the limit."""
        return min(self.own, self.extra)


class Arbiter(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.core = Core(quantum_ns=5 * MS, clients=64)
        self.core.add_device(CAPACITY * GRANULE, overhead=CONTEXT * GRANULE)
        self.core.step(WATCHED, msg=Msg(a=1))
        self.clients: dict[int, Client] = {}
        self.dead: dict[int, Client] = {}
        self.tenants: list[int] = []
        self.seq = 0

    @initialize()
    def tenants_exist(self) -> None:
        self.tenants = [
            self.core.add_tenant(limit=limit * GRANULE, share=share)
            for limit, share in zip(LIMITS, (300_000, 0, 0), strict=True)
        ]
        for which in range(3):
            self.join(which)

    # --- the model ---------------------------------------------------------------------------

    def limit(self, tenant: int) -> int:
        return LIMITS[self.tenants.index(tenant)]

    def room(self, tenant: int, *, overhead: bool, drained: bool) -> int:
        """Granules that fit if everyone who answers gives back what it does not use."""
        live = list(self.clients.values())
        held = {c.id: c.used + (c.slack if c.stopped or c.inbox else 0) for c in live}
        dead = [] if drained else list(self.dead.values())
        total = sum(held[c.id] + c.overhead + c.extra for c in live)
        total += sum(c.used + c.slack + c.overhead + c.extra for c in dead)
        free = CAPACITY - total
        if not self.limit(tenant):
            free -= sum(self.promised(t, held, dead) for t in self.tenants if self.limit(t))
        rooms = [free]
        if self.limit(tenant) and not overhead:
            mine = sum(held[c.id] + c.counted for c in live if c.tenant == tenant)
            mine += sum(c.used + c.slack + c.counted for c in dead if c.tenant == tenant)
            rooms.append(self.limit(tenant) - mine)
        return min(rooms)

    def promised(self, tenant: int, held: dict[int, int], dead: list[Client]) -> int:
        """What a tenant with a limit may still come for, a first context included."""
        own = [c for c in self.clients.values() if c.tenant == tenant]
        gone = [c for c in dead if c.tenant == tenant]
        mine = sum(held[c.id] for c in own) + sum(c.used + c.slack for c in gone)
        mine += sum(c.counted for c in [*own, *gone])
        contexts = sum(c.overhead + c.extra - c.counted for c in [*own, *gone])
        return max(0, self.limit(tenant) - mine) + max(0, CONTEXT - contexts)

    def watch_questions(self) -> None:
        for client in self.clients.values():
            for q in client.questions.values():
                late = self.core.now - q.asked >= WAIT
                q.blocked |= (
                    self.room(client.tenant, overhead=q.overhead, drained=not late) < q.bytes
                )

    def handle(self, acts: list[Act]) -> None:
        self.watch_questions()
        for act in acts:
            if act.kind != SEND or act.client not in self.clients:
                continue
            client, msg = self.clients[act.client], act.msg
            match msg.op:
                case Op.RECALL_MEM:
                    client.inbox.append(msg)
                case Op.MEM_GRANT:
                    q = client.questions.pop(msg.seq)
                    assert msg.bytes == q.bytes * GRANULE
                    if q.overhead:
                        client.overhead += q.bytes
                    else:
                        client.used += q.bytes
                    self.check_sums(client.tenant)
                    self.watch_questions()  # another one may be denied in the same breath
                case Op.MEM_DENY:
                    q = client.questions.pop(msg.seq)
                    assert q.blocked, f"false OOM: {q} of {client}"
                    if msg.a == Deny.DRAINING:
                        assert self.core.now - q.asked >= WAIT
                case Op.OPEN_GATE:
                    client.gate = msg.epoch
                case Op.CLOSE_GATE:
                    assert client.gate == msg.epoch
                case _:
                    pass
        self.watch_questions()

    def check_sums(self, tenant: int) -> None:
        """Something was granted just now: invariants (1) and (2) of core.h."""
        everyone = [*self.clients.values(), *self.dead.values()]
        total = sum(c.used + c.slack + c.overhead + c.extra for c in everyone)
        assert total <= CAPACITY or any(c.extra for c in everyone)
        mine = sum(c.used + c.slack for c in everyone if c.tenant == tenant)
        assert not self.limit(tenant) or mine <= self.limit(tenant)

    def tell(self, client: Client, op: Op, **fields: int) -> None:
        self.handle(self.core.tell(client.id, op, dev=0, **fields))

    def pick(self, data: st.DataObject, *, running: bool = True) -> Client | None:
        those = [c for c in self.clients.values() if not (running and c.stopped)]
        return data.draw(st.sampled_from(those)) if those else None

    # --- what can happen -----------------------------------------------------------------------

    @precondition(lambda self: len(self.clients) < 7)
    @rule(which=st.sampled_from([0, 0, 0, 1, 2]))
    def join(self, which: int) -> None:
        client = self.core.join(self.tenants[which])
        assert client
        self.clients[client] = Client(client, self.tenants[which])
        self.handle(self.core.last)

    @rule(
        data=st.data(),
        size=st.sampled_from([1, 1, 2, 3, 6]),
        overhead=st.sampled_from([False, False, True]),
    )
    def ask(self, data: st.DataObject, size: int, overhead: bool) -> None:
        client = self.pick(data)
        if client is None:
            return
        if not overhead:
            taken = min(size, client.slack)  # its own unused lease first
            client.slack -= taken
            client.used += taken
            size -= taken
        if size == 0:
            return
        self.seq += 1
        client.questions[self.seq] = Question(size, self.core.now, overhead)
        self.watch_questions()
        cls = int(overhead)
        self.tell(client, Op.LEASE_MEM, seq=self.seq, bytes=size * GRANULE, cls=cls)

    @rule(data=st.data(), size=st.integers(1, 4))
    def free(self, data: st.DataObject, size: int) -> None:
        client = self.pick(data)
        if client is None:
            return
        size = min(size, client.used)
        client.used -= size
        client.slack += size
        beyond = client.slack - SLACK[bool(self.limit(client.tenant))]
        if beyond > 0:
            client.slack -= beyond
            self.tell(client, Op.RETURN_MEM, bytes=beyond * GRANULE)
        self.watch_questions()

    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        client = self.pick(data)
        if client is None or not client.inbox:
            return
        recall = client.inbox.pop(0)
        given, client.slack = client.slack, 0
        self.tell(client, Op.RECALLED, seq=recall.seq, bytes=given * GRANULE)

    @rule(data=st.data())
    def stop_or_go_on(self, data: st.DataObject) -> None:
        client = self.pick(data, running=False)
        if client is not None:
            client.stopped = not client.stopped

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        client = self.pick(data, running=False)
        if client is None:
            return
        del self.clients[client.id]
        if client.used + client.slack + client.overhead + client.extra:
            self.dead[client.id] = client
        self.handle(self.core.step(DEAD, client.id))

    @rule(data=st.data())
    def drain(self, data: st.DataObject) -> None:
        if not self.dead:
            return
        gone = data.draw(st.sampled_from(sorted(self.dead)))
        del self.dead[gone]
        assert self.core.admin(Op.DRAINED, client=gone, dev=0).op == Op.OK
        self.handle(self.core.last)

    @rule(data=st.data(), size=st.integers(0, 3), own=st.sampled_from([0, 0, 1, 3]))
    def correct_overhead(self, data: st.DataObject, size: int, own: int) -> None:
        client = self.pick(data, running=False)
        if client is None:
            return
        client.told, client.own = size, min(own, size)
        self.watch_questions()
        counted = {"bytes": size * GRANULE, "limit_bytes": client.own * GRANULE}
        self.core.admin(Op.SET_OVERHEAD, client=client.id, dev=0, **counted)
        self.handle(self.core.last)

    @rule(data=st.data())
    def want(self, data: st.DataObject) -> None:
        client = self.pick(data)
        if client is not None:
            self.tell(client, Op.WANT_TIME)

    @rule(data=st.data(), used=st.integers(0, 20 * MS), more=st.booleans(), off=st.integers(-1, 1))
    def give(self, data: st.DataObject, used: int, more: bool, off: int) -> None:
        client = self.pick(data)
        if client is None or client.gate is None or client.gate + off < 0:
            return
        epoch = client.gate + off
        if off == 0:
            client.gate = None
        self.tell(client, Op.YIELD_TIME, epoch=epoch, used_ns=used, a=int(more))

    @rule(data=st.data(), used=st.integers(0, 2**64 - 1))
    def report(self, data: st.DataObject, used: int) -> None:
        client = self.pick(data)
        if client is not None:
            self.tell(client, Op.USED_TIME, epoch=client.gate or 0, used_ns=used)

    @rule(ns=st.sampled_from([MS // 10, MS, 10 * MS, 600 * MS, 1200 * MS, 6 * SECOND]))
    def wait(self, ns: int) -> None:
        until = self.core.now + ns
        while (due := self.core.next()) <= until:
            before = self.core.now = max(self.core.now, due)
            self.handle(self.core.step(6))
            assert self.core.next() > before, "tick after tick"
        self.core.now = until
        self.watch_questions()

    @rule(data=st.data(), body=st.binary(min_size=256, max_size=256))
    def babble(self, data: st.DataObject, body: bytes) -> None:
        """A client of its own that says anything: it may lose its connection, nothing else."""
        del data
        client = self.core.join(self.tenants[2])
        self.handle(self.core.last)
        msg = Msg.from_buffer_copy(body)
        msg.version, msg.op = VERSION, msg.op % 12
        if msg.op in (Op.LEASE_MEM, Op.ADOPT_MEM, Op.WANT_TIME):
            msg.op = Op.RETURN_MEM
        self.handle(self.core.step(MESSAGE, client, msg))
        self.handle(self.core.step(DEAD, client))

    # --- what must hold ------------------------------------------------------------------------

    @invariant()
    def numbers_are_the_models(self) -> None:
        for tenant in self.tenants:
            use = self.core.use(tenant)
            mine = [c for c in self.clients.values() if c.tenant == tenant]
            gone = [c for c in self.dead.values() if c.tenant == tenant]
            assert use.leased_bytes == sum(c.used + c.slack for c in mine) * GRANULE
            assert use.bytes == sum(c.used + c.slack + c.counted for c in gone) * GRANULE
            assert use.overhead_bytes == sum(c.overhead + c.extra for c in mine) * GRANULE
            assert use.peak_bytes >= use.leased_bytes

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        for client in self.clients.values():
            for q in client.questions.values():
                assert self.core.now - q.asked <= WAIT

    def teardown(self) -> None:
        list(self.core.advance(10 * SECOND))
        self.core.close()


Arbiter.TestCase.settings = settings(
    max_examples=250,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestArbiter = Arbiter.TestCase
