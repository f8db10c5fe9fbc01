# SPDX-License-Identifier: Apache-2.0
"""A scenario on a virtual clock: clients, engines, and the arbiter's core between them.

Deterministic: one calendar, ties in order of entry, one seed; no clock is read.
"""

from __future__ import annotations

import ctypes
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial

from harp.errors import NativeError
from harp.lease_wire import VERSION, Kind, Lane, Op
from harp.model import TenantClass
from harp.sim.client import Client, Waits
from harp.sim.core import NEVER, Act, Action, Answer, Bridge, Event, Msg
from harp.sim.engine import Engine
from harp.sim.gaps import Gaps
from harp.sim.program import Program
from harp.sim.scenario import Change, Scenario, TenantSpec

__all__ = ["Member", "World"]

_S = 1_000_000_000
#: the core counts from here: 0 means "never" in places
_EPOCH_NS = _S
_MEMORY_BYTES = 1 << 40


@dataclass(slots=True, eq=False)
class Member:
    """One tenant."""

    name: str
    spec: TenantSpec
    number: int  #: the arbiter's
    waits: Waits = field(default_factory=Waits)
    clients: list[Client] = field(default_factory=list)
    #: as SNAP_USE says it at the end
    charged_ns: int = 0
    copy_charged_ns: int = 0
    estimated_ns: int = 0


class World:
    """What happens in one run.

    Args:
        scenario: has at least one tenant.
        library: the policy core, loaded.
        checked: recount all of the core's sums after each step; slow.

    Raises:
        NativeError: the core refuses the scenario, or breaks an invariant.
    """

    def __init__(self, scenario: Scenario, library: ctypes.CDLL, *, checked: bool = False) -> None:
        self.scenario = scenario
        self.now = _EPOCH_NS
        self.end_ns = _EPOCH_NS + round(scenario.seconds * _S)
        self._hop_ns = round(scenario.hop_us * 1000)
        self._checked = checked
        self._calendar: list[tuple[int, int, Callable[[int], None]]] = []
        self._entries = 0
        self._tick_ns = NEVER
        processes = sum(t.count * t.processes for t in scenario.tenants)
        self._bridge = Bridge(
            library,
            quantum_ns=scenario.quantum_us * 1000,
            burst_ns=scenario.burst_us * 1000,
            policy=scenario.policy,
            clients=min(16_384, processes + 16),
            per_tenant=64,
            tenants=min(4096, sum(t.count for t in scenario.tenants) + 1),
        )
        self.gaps = {lane: Gaps(_EPOCH_NS) for lane in Lane}
        self.engines = {lane: self._engine(lane) for lane in Lane}
        self.members: list[Member] = []
        self.steps = 0
        self.turns = dict.fromkeys(Lane, 0)
        #: {the arbiter's number: client}
        self._clients: dict[int, Client] = {}
        self._contexts = 0
        #: {group: (share, limit, class)} as last set
        self._limits = {t.name: (t.share, t.limit, t.klass) for t in scenario.tenants}

    def run(self) -> None:
        """From beginning to end."""
        try:
            self._populate()
            for change in self.scenario.changes:
                self._at_s(change.at_s, partial(self._change, change))
            while self._calendar and self._calendar[0][0] <= self.end_ns:
                when, _, call = heapq.heappop(self._calendar)
                self.now = when
                call(when)
            self.now = self.end_ns
            self._settle()
        finally:
            self._bridge.close()

    def _populate(self) -> None:
        message = Msg(version=VERSION, op=Op.ADD_DEVICE, capacity_bytes=_MEMORY_BYTES)
        message.uuid = (ctypes.c_uint8 * 16)(*([1] * 16))
        self._ask(message)
        for spec in self.scenario.tenants:
            for copy in range(spec.count):
                name = spec.name if spec.count == 1 else f"{spec.name}-{copy + 1}"
                number = self._ask(Msg(version=VERSION, op=Op.ADD_TENANT, uid=1000)).tenant
                member = Member(name, spec, int(number))
                self.members.append(member)
                self._grant(member, spec.share, spec.limit, spec.klass)
                for process in range(spec.processes):
                    rng = random.Random(f"{self.scenario.seed}/{name}/{process}")  # noqa: S311 - a model
                    client = self._client(member, rng)
                    self._at_s(spec.start_s, partial(self._join, member, client))
                    if spec.end_s:
                        self._at_s(spec.end_s, partial(self._die, client))

    def _engine(self, lane: Lane) -> Engine:
        scenario = self.scenario
        # A copy engine has no contexts to change: commands of all run one after the other.
        switch_us = scenario.switch_us if lane is Lane.COMPUTE else 0.0
        return Engine(
            round(scenario.slice_us * 1000),
            round(switch_us * 1000),
            self._at,
            self.gaps[lane].idle,
        )

    def _client(self, member: Member, rng: random.Random) -> Client:
        lane = Lane.COPY if member.spec.load == "copy" else Lane.COMPUTE
        self._contexts += 1
        capped = member.spec.limit > 0

        def wanting(client: Client, wants: bool, now: int) -> None:  # noqa: FBT001 - a callback
            # Under a limit work may have to wait on an idle device: that is no gap.
            if not capped:
                self.gaps[lane].wanting(client.context, wants, now)

        client = Client(
            self._contexts,
            lane,
            engine=self.engines[lane],
            waits=member.waits,
            at=self._at,
            tell=self._tell,
            wanting=wanting,
        )
        client.program = Program(member.spec, rng, self._at, client.pump)
        member.clients.append(client)
        return client

    def _join(self, member: Member, client: Client, now: int) -> None:
        event = Action(kind=Event.JOIN)
        event.msg.tenant, event.msg.pid, event.msg.uid = member.number, client.context, 1000
        joined = [a.client for a in self._step(event) if a.kind == Answer.JOINED]
        client.number = joined[0]
        if not client.number:
            raise NativeError(f"the policy core refuses a process of tenant {member.name}")
        self._clients[client.number] = client
        hello = Msg(version=VERSION, op=Op.HELLO, a=Kind.NULL, pid=client.context, text=b"sim")
        self._message(client, hello)
        client.program.start(now)
        client.pump(now)

    def _die(self, client: Client, now: int) -> None:
        client.die(now)
        if client.number:
            number, client.number = client.number, 0
            del self._clients[number]
            event = Action(kind=Event.DEAD, client=number)
            self._at(now + self._hop_ns, lambda _now: self._send(self._step(event)))

    def _change(self, change: Change, now: int) -> None:
        del now
        share, limit, klass = self._limits[change.tenant]
        share = share if change.share < 0 else change.share
        limit = limit if change.limit < 0 else change.limit
        klass = change.klass or klass
        self._limits[change.tenant] = (share, limit, klass)
        for member in self.members:
            if member.spec.name == change.tenant:
                member.spec = replace(member.spec, share=share, limit=limit, klass=klass)
                self._grant(member, share, limit, klass)

    def _grant(self, member: Member, share: int, limit: int, klass: str) -> None:
        number = TenantClass.of(klass).value
        self._ask(
            Msg(
                version=VERSION,
                op=Op.SET_TENANT,
                tenant=member.number,
                b=share,
                c=limit,
                d=number,
            )
        )

    def _settle(self) -> None:
        for lane, engine in self.engines.items():
            engine.settle(self.now)
            self.gaps[lane].close(self.now)
        for member in self.members:
            for client in member.clients:
                client.unmet_wait(self.now)
        by_number = {m.number: m for m in self.members}
        event = Action(kind=Event.ADMIN, msg=Msg(version=VERSION, op=Op.SNAPSHOT))
        for act in self._step(event):
            if act.kind == Answer.REPLY and act.msg.op == Op.SNAP_USE:
                member = by_number[act.msg.tenant]
                member.charged_ns = act.msg.used_ns
                member.copy_charged_ns = act.msg.copy_ns
                member.estimated_ns = act.msg.estimated_ns

    # the arbiter

    def _tell(self, client: Client, op: Op, fields: dict[str, int], now: int) -> None:
        message = Msg(version=VERSION, op=op, cls=client.lane)
        for name, value in fields.items():
            setattr(message, name, value)
        self._at(now + self._hop_ns, lambda _now: self._message(client, message))

    def _message(self, client: Client, message: Msg) -> None:
        if client.number:
            self._send(self._step(Action(kind=Event.MESSAGE, client=client.number, msg=message)))

    def _ask(self, message: Msg) -> Msg:
        acts = self._step(Action(kind=Event.ADMIN, msg=message))
        reply = [a.msg for a in acts if a.kind == Answer.REPLY][-1]
        if reply.op != Op.OK:
            raise NativeError(f"the policy core refuses {Op(message.op).name}: {reply.text!r}")
        self._send(acts)
        return reply

    def _step(self, event: Action) -> list[Act]:
        self.steps += 1
        acts = list(self._bridge.step(event, self.now))
        if self._checked and (broken := self._bridge.check()):
            raise NativeError(f"{broken} after event {event.kind} op {event.msg.op}")
        due = self._bridge.next_ns()
        if due != NEVER and (self._tick_ns > due or self._tick_ns < self.now):
            self._tick_ns = max(due, self.now)
            self._at(self._tick_ns, self._tick)
        return acts

    def _tick(self, now: int) -> None:
        if now != self._tick_ns:
            return  # an earlier one took its place
        self._tick_ns = NEVER
        if self._bridge.next_ns() <= now:
            self._send(self._step(Action(kind=Event.TICK)))
        else:
            due = self._bridge.next_ns()
            if due != NEVER:
                self._tick_ns = due
                self._at(due, self._tick)

    def _send(self, acts: list[Act]) -> None:
        for act in acts:
            if act.kind != Answer.SEND or act.client not in self._clients:
                continue
            if act.msg.op in (Op.OPEN_GATE, Op.CLOSE_GATE):
                client = self._clients[act.client]
                self._at(
                    self.now + self._hop_ns,
                    partial(self._hear, client, act.msg),
                )

    def _hear(self, client: Client, message: Msg, now: int) -> None:
        if message.cls != client.lane:
            return
        if message.op == Op.CLOSE_GATE:
            client.closed(message.epoch, now)
            return
        if not message.a:
            self.turns[client.lane] += 1
        client.opened(message.epoch, message.quantum_ns, message.window_ns, bool(message.a), now)

    # the calendar

    def _at(self, when: int, call: Callable[[int], None]) -> None:
        self._entries += 1
        heapq.heappush(self._calendar, (when, self._entries, call))

    def _at_s(self, seconds: float, call: Callable[[int], None]) -> None:
        self._at(_EPOCH_NS + round(seconds * _S), call)
