# SPDX-License-Identifier: Apache-2.0
"""The arbiter's pure core through ctypes, compiled from its sources once per session."""

from __future__ import annotations

import atexit
import ctypes
import functools
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harp.lease_wire import VERSION, Kind, Op
from harp.sim.core import NEVER, Act, Action, Answer, Event, Msg, load

__all__ = ["NEVER", "Act", "Action", "Core", "Msg", "library", "ops", "sends"]

NATIVE = Path(__file__).resolve().parents[2] / "native"
GRANULE = 2 << 20
MS = 1_000_000
QUANTUM = 5 * MS
SECOND = 1_000_000_000
PPM = 1_000_000

SOURCES = ("bridge", "core", "clients", "look", "memory", "requests", "host", "recall")
SOURCES += ("admin_ops", "check", "check_time", "check_swap", "residency", "rotation", "suspend")
SOURCES += ("time", "turns", "handover", "charge", "caps", "classes", "gang")
SOURCES += ("wire", "expect", "policy", "policy_drr", "policy_priority", "policy_fifo")
STANDARD, LATENCY, BEST_EFFORT = range(3)
DRR, PRIORITY, FIFO = range(3)

JOIN, MESSAGE, DEAD = Event.JOIN, Event.MESSAGE, Event.DEAD
ADMIN, WATCHED, TICK = Event.ADMIN, Event.WATCHED, Event.TICK
SEND, REPLY, EVENT = Answer.SEND, Answer.REPLY, Answer.EVENT
JOINED, CLOSE, LOG = Answer.JOINED, Answer.CLOSE, Answer.LOG


@functools.cache
def library() -> ctypes.CDLL:
    folder = tempfile.mkdtemp(prefix="harp-core-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target = Path(folder) / "libharp-arbiter-core.so"
    sources = [str(NATIVE / "src" / "arbiter" / f"{name}.c") for name in SOURCES]
    flags = ["-std=c17", "-D_GNU_SOURCE", "-O1", "-fPIC", "-shared", "-fvisibility=hidden"]
    command = ["cc", *flags, f"-I{NATIVE / 'include'}", *sources, "-o", str(target)]
    subprocess.run(command, check=True)
    return load(target)


class Core:
    """One core with its own clock, checked after each step."""

    def __init__(
        self,
        quantum_ns: int = 5 * MS,
        clients: int = 256,
        per_tenant: int = 256,
        *,
        tenants: int = 64,
        burst_ns: int = 50 * MS,
        policy: int = DRR,
        checked: bool = True,
    ) -> None:
        self._lib = library()
        self._bridge = self._lib.harp_bridge_new(
            quantum_ns, clients, per_tenant, tenants, burst_ns, policy
        )
        self.checked = checked
        assert self._bridge
        self.now = SECOND
        self.log: list[str] = []
        #: actions of the last join or admin question; a snapshot leaves it alone
        self.last: list[Act] = []

    def close(self) -> None:
        self._lib.harp_bridge_free(self._bridge)

    def step(self, kind: int, client: int = 0, msg: Msg | None = None) -> list[Act]:
        event = Action(kind=kind, client=client, msg=msg or Msg())
        n = self._lib.harp_bridge_step(self._bridge, ctypes.byref(event), self.now)
        assert n >= 0, "more actions than the bridge keeps"
        raw = self._lib.harp_bridge_actions(self._bridge)
        acts = [Act(raw[i].kind, raw[i].client, Msg.from_buffer_copy(raw[i].msg)) for i in range(n)]
        self.log += [act.msg.text.decode() for act in acts if act.kind == LOG]
        broken = self._lib.harp_bridge_check(self._bridge) if self.checked else None
        assert broken is None, f"{broken.decode()} after event {kind} op {event.msg.op}"
        return acts

    def next(self) -> int:
        return int(self._lib.harp_bridge_next(self._bridge))

    def advance(self, ns: int) -> Iterator[Act]:
        """Let time pass, with the ticks the core asked for."""
        until = self.now + ns
        while (due := self.next()) <= until:
            self.now = max(self.now, due)
            before = self.now
            yield from self.step(TICK)
            assert self.next() > before, "the core asks for a tick again and again"
        self.now = until

    # harpd's questions

    def admin(self, op: Op, **fields: object) -> Msg:
        acts = self.step(ADMIN, msg=Msg(version=VERSION, op=op, **fields))
        self.last = acts
        return [act for act in acts if act.kind == REPLY][-1].msg

    def add_device(self, capacity: int, number: int = 1, overhead: int = 0) -> int:
        uuid = (ctypes.c_uint8 * 16)(*([number] * 16))
        reply = self.admin(
            Op.ADD_DEVICE, uuid=uuid, capacity_bytes=capacity, overhead_bytes=overhead
        )
        assert reply.op == Op.OK
        return int(reply.dev)

    def add_tenant(self, dev: int = 0, **given: int) -> int:
        reply = self.admin(Op.ADD_TENANT, uid=1000)
        assert reply.op == Op.OK
        self.set_tenant(reply.tenant, dev, **given)
        return int(reply.tenant)

    def set_tenant(
        self,
        tenant: int,
        dev: int = 0,
        *,
        limit: int = 0,
        share: int = 0,
        cap: int = 0,
        cls: int = STANDARD,
        flags: int = 0,
        beside: int = 0,
    ) -> list[Act]:
        given = {"limit_bytes": limit, "b": share, "c": cap, "d": cls, "a": flags}
        given["overhead_bytes"] = beside
        reply = self.admin(Op.SET_TENANT, tenant=tenant, dev=dev, **given)
        assert reply.op == Op.OK, reply.text
        return self.last

    def snapshot(self) -> list[Msg]:
        acts = self.step(ADMIN, msg=Msg(version=VERSION, op=Op.SNAPSHOT))
        rows = [act.msg for act in acts if act.kind == REPLY]
        assert rows.pop().op == Op.OK
        return rows

    def use(self, tenant: int, dev: int = 0) -> Msg:
        rows = [m for m in self.snapshot() if m.op == Op.SNAP_USE]
        return next(m for m in rows if m.tenant == tenant and m.dev == dev)

    # clients

    def join(self, tenant: int, pid: int = 100, flags: int = 0, uid: int = 1000) -> int:
        acts = self.step(JOIN, msg=Msg(tenant=tenant, pid=pid, uid=uid))
        client = next(act.client for act in acts if act.kind == JOINED)
        if client:
            self.last = self.tell(client, Op.HELLO, a=Kind.NULL, b=flags, pid=pid, text=b"test")
        return client

    def tell(self, client: int, op: Op, **fields: object) -> list[Act]:
        return self.step(MESSAGE, client, Msg(version=VERSION, op=op, **fields))

    def lease(self, client: int, size: int, dev: int = 0, cls: int = 0, seq: int = 1) -> list[Act]:
        return self.tell(client, Op.LEASE_MEM, dev=dev, cls=cls, bytes=size, seq=seq)


def sends(acts: list[Act] | Iterator[Act], client: int | None = None) -> list[tuple[int, Msg]]:
    """(client, message) of what goes to clients."""
    return [
        (act.client, act.msg) for act in acts if act.kind == SEND and client in (None, act.client)
    ]


def ops(acts: list[Act] | Iterator[Act], client: int | None = None) -> list[Op]:
    return [Op(msg.op) for _, msg in sends(acts, client)]
