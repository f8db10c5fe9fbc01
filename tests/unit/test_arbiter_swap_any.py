# SPDX-License-Identifier: Apache-2.0
"""Any sequence of events beside memory that leaves the device: nothing lies where no room is, no
denial is false, and in the end everybody who wants has had a turn.

Model clients keep the contract of lease.h, or are stopped, or die. What lies on the device is what
they have been granted and told, never less than what they could have there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from arbiter_core import DEAD, GRANULE, MS, SECOND, SEND, TICK, WATCHED, Act, Core, Msg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from harp.lease_wire import GRANT_OVERSUBSCRIBE, MemClass, Op

CAPACITY = 20
CONTEXT = 1
#: limit, oversubscribes
TENANTS = ((14, True), (12, True), (0, True), (4, False))
DEVICE, OVERHEAD, SWAP = MemClass.DEVICE, MemClass.OVERHEAD, MemClass.SWAP


@dataclass
class Question:
    granules: int
    cls: int
    asked: int
    blocked: bool = False  #: at some instant it did not fit, by itself or into the limit


@dataclass
class Client:
    id: int
    tenant: int
    held: dict[int, int] = field(default_factory=lambda: {DEVICE: 0, OVERHEAD: 0, SWAP: 0})
    on: int = 0  #: SWAP memory that may lie on the device
    away: bool = False
    pinned: bool = False
    stopped: bool = False
    moves: list[Msg] = field(default_factory=list)  #: EVICT and RESTORE not yet answered
    recalls: list[Msg] = field(default_factory=list)
    questions: dict[int, Question] = field(default_factory=dict)
    gates: dict[int, int] = field(default_factory=dict)  #: {lane: epoch}
    wants: set[int] = field(default_factory=set)

    def physical(self) -> int:
        return self.held[DEVICE] + self.held[OVERHEAD] + self.on


class Swapping(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.core = Core(clients=64)
        self.core.add_device(CAPACITY * GRANULE, overhead=CONTEXT * GRANULE)
        self.core.step(WATCHED, msg=Msg(a=1))
        self.clients: dict[int, Client] = {}
        self.dead: dict[int, Client] = {}
        self.tenants: list[int] = []
        self.seq = 0

    @initialize()
    def tenants_exist(self) -> None:
        for limit, swaps in TENANTS:
            flags = GRANT_OVERSUBSCRIBE if swaps else 0
            self.tenants.append(self.core.add_tenant(limit=limit * GRANULE, flags=flags))
        for which in range(4):
            self.join(which)

    # --- the model ---------------------------------------------------------------------------

    def given(self, tenant: int) -> tuple[int, bool]:
        return TENANTS[self.tenants.index(tenant)]

    def everyone(self) -> list[Client]:
        return [*self.clients.values(), *self.dead.values()]

    def of(self, tenant: int) -> list[Client]:
        return [c for c in self.everyone() if c.tenant == tenant]

    def movable(self, tenant: int) -> int:
        live = [c for c in self.clients.values() if c.tenant == tenant]
        return sum(c.held[SWAP] - (c.on if c.pinned else 0) for c in live)

    def limit_room(self, tenant: int) -> int:
        limit, _ = self.given(tenant)
        used = sum(c.held[DEVICE] + (c.held[SWAP]) for c in self.of(tenant))
        return limit - used if limit else CAPACITY

    def room(self, tenant: int, cls: int) -> int:
        """If all had left that can leave; contexts and limits of others kept back."""
        fixed = sum(c.held[DEVICE] + c.held[OVERHEAD] for c in self.everyone())
        fixed += sum(c.on for c in self.everyone() if c.pinned or c.id in self.dead)
        most = max(self.movable(t) for t in self.tenants if cls != SWAP or t == tenant)
        limit, swaps = self.given(tenant)
        kept = 0
        for other in self.tenants:
            most_other, does = self.given(other)
            if other == tenant or not (swaps or not limit) or not (most_other or does):
                continue
            if not does:
                kept += max(0, self.limit_room(other))
            kept += max(0, CONTEXT - sum(c.held[OVERHEAD] for c in self.of(other)))
        return CAPACITY - fixed - most - kept

    def watch(self) -> None:
        for client in self.clients.values():
            for q in client.questions.values():
                room = self.room(client.tenant, q.cls)
                if q.cls != OVERHEAD:
                    room = min(room, self.limit_room(client.tenant))
                q.blocked |= room < q.granules

    def handle(self, acts: list[Act]) -> None:
        self.watch()
        for act in acts:
            if act.kind != SEND or act.client not in self.clients:
                continue
            client, msg = self.clients[act.client], act.msg
            match msg.op:
                case Op.RECALL_MEM:
                    client.recalls.append(msg)
                case Op.EVICT:
                    given_up = "gate_overdue" in self.core.log  # then it drains first
                    assert not client.gates or given_up, "its gate was open"
                    client.away = True
                    client.moves.append(msg)
                case Op.RESTORE:
                    client.away = False
                    client.on = client.held[SWAP]
                    client.moves.append(msg)
                    self.check_room()
                case Op.MEM_GRANT:
                    q = client.questions.pop(msg.seq)
                    client.held[q.cls] += q.granules
                    if q.cls == SWAP and not client.away:
                        client.on += q.granules
                    self.check_room()
                    assert self.limit_room(client.tenant) >= 0
                    self.watch()
                case Op.MEM_DENY:
                    q = client.questions.pop(msg.seq)
                    late = self.core.now - q.asked >= 5 * SECOND
                    assert q.blocked or late, f"false OOM: {q} of {client}"
                case Op.OPEN_GATE:
                    assert not client.away
                    assert not any(m.op == Op.RESTORE for m in client.moves), "not back yet"
                    client.gates[msg.cls] = msg.epoch
                    client.wants.discard(msg.cls)
                case _:
                    pass
        self.watch()

    def check_room(self) -> None:
        assert sum(c.physical() for c in self.everyone()) <= CAPACITY

    def tell(self, client: Client, op: Op, **fields: int) -> None:
        self.handle(self.core.tell(client.id, op, dev=0, **fields))

    def pick(self, data: st.DataObject, *, running: bool = True) -> Client | None:
        those = [c for c in self.clients.values() if not (running and c.stopped)]
        return data.draw(st.sampled_from(those)) if those else None

    # --- what can happen -----------------------------------------------------------------------

    @precondition(lambda self: len(self.clients) < 8)
    @rule(which=st.sampled_from([0, 0, 1, 1, 2, 3]))
    def join(self, which: int) -> None:
        client = self.core.join(self.tenants[which])
        self.clients[client] = Client(client, self.tenants[which])
        self.handle(self.core.last)

    @rule(
        data=st.data(),
        granules=st.integers(1, 12),
        cls=st.sampled_from([SWAP, SWAP, SWAP, DEVICE, OVERHEAD]),
    )
    def ask(self, data: st.DataObject, granules: int, cls: int) -> None:
        client = self.pick(data)
        if client is None:
            return
        if not self.given(client.tenant)[1] and cls == SWAP:
            cls = DEVICE
        granules = granules if cls == SWAP else 1 + granules // 6
        self.seq += 1
        client.questions[self.seq] = Question(granules, cls, self.core.now)
        self.tell(client, Op.LEASE_MEM, seq=self.seq, bytes=granules * GRANULE, cls=cls)

    @rule(data=st.data(), granules=st.integers(1, 8), cls=st.sampled_from([SWAP, SWAP, DEVICE]))
    def free(self, data: st.DataObject, granules: int, cls: int) -> None:
        client = self.pick(data)
        if client is None:
            return
        granules = min(granules, client.held[cls])
        client.held[cls] -= granules
        if cls == SWAP:
            client.on = min(client.on, client.held[SWAP])
        self.tell(client, Op.RETURN_MEM, bytes=granules * GRANULE, cls=cls)

    @rule(data=st.data(), fails=st.sampled_from([False] * 7 + [True]))
    def move(self, data: st.DataObject, fails: bool) -> None:
        client = self.pick(data)
        if client is None or not client.moves or client.gates:
            return
        self.do_move(client, fails=fails)

    def do_move(self, client: Client, *, fails: bool = False) -> None:
        msg = client.moves.pop(0)
        last = not client.moves
        op = Op.EVICTED if msg.op == Op.EVICT else Op.RESTORED
        if last and msg.op == Op.EVICT:
            client.pinned |= fails
            client.away = not fails
            client.on = client.on if fails else 0
        elif last:
            client.away = fails
            client.on = 0 if fails else client.on
        fails = fails and last
        self.tell(client, op, seq=msg.seq, b=int(fails), used_ns=MS)

    @rule(data=st.data())
    def recalled(self, data: st.DataObject) -> None:
        client = self.pick(data)
        if client is not None and client.recalls:
            self.tell(client, Op.RECALLED, seq=client.recalls.pop(0).seq)

    @rule(data=st.data(), what=st.sampled_from([Op.EVICTED, Op.RESTORED]), seq=st.integers(0, 9))
    def babble(self, data: st.DataObject, what: Op, seq: int) -> None:
        """An answer to nothing, or to an older question."""
        client = self.pick(data)
        if client is not None and not any(m.seq == seq for m in client.moves):
            self.tell(client, what, seq=seq)

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
        client.held[SWAP] = client.on
        client.pinned = False
        if client.physical():
            self.dead[client.id] = client
        self.handle(self.core.step(DEAD, client.id))

    @rule()
    def drain(self) -> None:
        for gone in list(self.dead):
            del self.dead[gone]
            self.core.admin(Op.DRAINED, client=gone, dev=0)
            self.handle(self.core.last)

    @rule(data=st.data(), lane=st.integers(0, 1))
    def want(self, data: st.DataObject, lane: int) -> None:
        client = self.pick(data)
        if client is not None and lane not in client.gates:
            client.wants.add(lane)
            self.tell(client, Op.WANT_TIME, cls=lane)

    @rule(data=st.data(), used=st.integers(0, 20 * MS), more=st.booleans())
    def give(self, data: st.DataObject, used: int, more: bool) -> None:
        client = self.pick(data)
        if client is not None:
            self.do_yield(client, used, more=more)

    def do_yield(self, client: Client, used: int, *, more: bool) -> None:
        for lane, epoch in list(client.gates.items()):
            del client.gates[lane]
            if more:
                client.wants.add(lane)
            self.tell(client, Op.YIELD_TIME, cls=lane, epoch=epoch, used_ns=used, a=int(more))

    @rule(ns=st.sampled_from([MS, 10 * MS, 100 * MS, 600 * MS, 2 * SECOND, 6 * SECOND]))
    def wait(self, ns: int) -> None:
        until = self.core.now + ns
        while (due := self.core.next()) <= until:
            before = self.core.now = max(self.core.now, due)
            self.handle(self.core.step(TICK))
            assert self.core.next() > before, "tick after tick"
        self.core.now = until
        self.watch()

    # --- what must hold ------------------------------------------------------------------------

    @invariant()
    def questions_are_answered(self) -> None:
        for client in self.clients.values():
            for q in client.questions.values():
                assert self.core.now - q.asked <= 60 * SECOND

    def teardown(self) -> None:
        """All go on and answer: whoever wants gets a turn, but where what stays leaves no room."""
        try:
            self.all_go_on()
        finally:
            self.core.close()

    def all_go_on(self) -> None:
        self.drain()
        for client in self.clients.values():
            client.stopped = False
        waiting = {(c.id, lane) for c in self.clients.values() for lane in c.wants}
        for _ in range(1500):
            for client in list(self.clients.values()):
                while client.recalls:
                    self.tell(client, Op.RECALLED, seq=client.recalls.pop(0).seq)
                self.do_yield(client, 10 * MS, more=True)
                while client.moves:
                    self.do_move(client)
            self.wait(10 * MS)
            waiting -= {(c.id, n) for c in self.clients.values() for n in c.gates}
            if not waiting:
                return
        pinned = any(c.pinned for c in self.clients.values())
        rows = [m for m in self.core.snapshot() if m.op == Op.SNAP_RESIDENCY]
        where = [(m.tenant, m.a, m.leased_bytes // GRANULE, m.quantum_ns) for m in rows]
        assert pinned or not waiting, f"never had a turn: {waiting} of {where}"


Swapping.TestCase.settings = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestSwapping = Swapping.TestCase
