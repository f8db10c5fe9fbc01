# SPDX-License-Identifier: Apache-2.0
"""What NVML tells and the ledger does not know, told to the arbiter; and what follows from it.

NVML per pid ──┐
leases before ─┼─ overheads.step ── SET_OVERHEAD: charged to the device, counted to the tenant
leases after ──┘        └── learn ── cost of a context: store, ADD_DEVICE
charges ─────────── overdraft.step ── the one process to end
strangers ───────── what they hold is taken off the device's capacity
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import structlog

from harp.config import WatchdogConfig
from harp.daemon import overdraft, overheads
from harp.daemon.book import Book
from harp.daemon.evaders import end
from harp.daemon.link import ArbiterLink
from harp.daemon.overdraft import Charge, Overdrafts
from harp.daemon.overheads import ContextCost, Overheads, Reading, Sight
from harp.daemon.picture import Hold, Picture
from harp.daemon.store import Store
from harp.daemon.watch import Sight as Stranger
from harp.daemon.watch import confirm
from harp.discovery import ProcessUse
from harp.lease_admin import ArbiterRefused
from harp.lease_wire import GRANULE_BYTES, Msg, Op
from harp.model import ClientState, Device

__all__ = ["Reconciler"]

_log = structlog.get_logger(__name__)
Uses = Mapping[str, Sequence[ProcessUse]]  #: {device UUID: NVML's list}


class Reconciler:
    """Keeps the ledger true to the devices."""

    def __init__(self, config: WatchdogConfig, book: Book, link: ArbiterLink, store: Store) -> None:
        self._config = config
        self._book = book
        self._link = link
        self._store = store
        #: {uuid: device as discovered}; the book has them with what others hold taken off
        self.devices: dict[str, Device] = {}
        #: {client_id: start time of its process}, to tell a reused pid
        self.client_start: dict[int, int] = {}
        self._overheads = Overheads()
        self._overdrafts = Overdrafts()
        #: {listed process without a session, dead or alive: times in a row}; start is 0
        self._strangers: dict[Stranger, int] = {}

    def begin(self, devices: Iterable[Device]) -> None:
        """A new arbiter knows nothing of what was told to the old one."""
        self.devices = {d.uuid: d for d in devices}
        self._overheads = Overheads(met=self._overheads.met)

    async def look(self, uses: Uses, before: Picture, after: Picture) -> None:
        """One comparison. `before` and `after`: when NVML was asked.

        Raises:
            ArbiterError: it is gone.
        """
        expected = {uuid: device.overhead_bytes for uuid, device in self.devices.items()}
        readings = self._readings(uses, before, after)
        self._overheads, corrections, sights = overheads.step(self._overheads, readings, expected)
        for one in corrections:
            with contextlib.suppress(ArbiterRefused):  # it died meanwhile
                await self._link.client.request(
                    Msg(
                        op=Op.SET_OVERHEAD,
                        client=one.client_id,
                        dev=self._book.number_of(one.device_uuid),
                        amount_bytes=one.beyond_bytes,
                        limit_bytes=one.counted_bytes,
                    )
                )
        for sight in sights:
            await self._learn(sight)
        self._judge(after)
        await self._correct_capacity(uses, after)

    def _readings(self, uses: Uses, before: Picture, after: Picture) -> Iterator[Reading]:
        pids = [c.pid for c in after.clients.values()]
        for uuid, listed in uses.items():
            held = {use.pid: use.mem_bytes for use in listed}
            for client in after.clients.values():
                physical = held.get(client.pid)
                if client.state is not ClientState.LIVE or physical is None:
                    continue
                if pids.count(client.pid) > 1:
                    continue  # two sessions of one process: NVML cannot say whose bytes
                tenant = self._book.tenants.get(client.tenant_id)
                if tenant and tenant.suspended:
                    continue  # on its way: what it held is what it comes back with
                key = (client.client_id, uuid)
                was, now = before.holds.get(key, Hold()), after.holds.get(key, Hold())
                yield Reading(
                    client_id=client.client_id,
                    device_uuid=uuid,
                    physical_bytes=physical + self.devices[uuid].unlisted_bytes,
                    leased_bytes=max(was.leased_bytes, now.leased_bytes),
                    context_bytes=now.context_bytes,
                    extra_bytes=now.extra_bytes,
                    counted_bytes=now.unleased_bytes,
                    settled=client.client_id in before.clients and was.changes == now.changes,
                    exact=not now.leased_bytes or bool(tenant and tenant.limits.mem_bytes),
                )

    async def _learn(self, sight: Sight) -> None:
        """Refine what a context costs, on all devices of the model."""
        device = self.devices[sight.device_uuid]
        model = (device.name, device.driver_version)
        known = self._store.context_cost(*model) or ContextCost(device.overhead_bytes, "default")
        cost = overheads.learn(known, sight.cost_bytes)
        self._store.put_context_cost(*model, cost)
        moved = cost.size_bytes != known.size_bytes
        for uuid, same in list(self.devices.items()):
            if (same.name, same.driver_version) != model:
                continue
            self.devices[uuid] = _with_cost(same, cost, moved=moved)
            booked = self._book.devices[uuid] = _with_cost(
                self._book.devices[uuid], cost, moved=moved
            )
            if moved:
                await self._book.announce_devices([booked])
        if moved:
            _log.info(
                "context_cost_refined",
                model=device.name,
                driver=device.driver_version,
                was_bytes=known.size_bytes,
                cost_bytes=cost.size_bytes,
                clients=len(cost.seen),
            )

    def _judge(self, picture: Picture) -> None:
        """See who is above its limit without having leased that much."""
        counted: dict[tuple[int, str], dict[int, int]] = {}
        for (client_id, uuid), hold in picture.holds.items():
            client = picture.clients.get(client_id)
            if client is not None and client.state is ClientState.LIVE and hold.unleased_bytes:
                counted.setdefault((client.tenant_id, uuid), {})[client_id] = hold.unleased_bytes
        charges = [
            Charge(
                tenant_id=tenant_id,
                device_uuid=uuid,
                limit_bytes=self._book.tenants[tenant_id].limits.mem_bytes,
                leased_bytes=use.leased_bytes + use.draining_bytes,
                counted_bytes=counted.get((tenant_id, uuid), {}),
            )
            for (tenant_id, uuid), use in picture.uses.items()
            if tenant_id in self._book.tenants
        ]
        before = {*self._overdrafts.since, *self._overdrafts.excused}
        self._overdrafts, offenders = overdraft.step(
            self._overdrafts, charges, time.monotonic(), self._config.overdraft_grace_s
        )
        for one in charges:
            if one.over_bytes and (one.tenant_id, one.device_uuid) not in before:
                _log.warning(
                    "tenant_above_limit",
                    tenant=self._book.tenants[one.tenant_id].name,
                    over_bytes=one.over_bytes,
                    unleased_bytes=sum(one.counted_bytes.values()),
                    effect="no new memory",
                )
        for offender in offenders if self._config.overdraft == "kill" else ():
            pid = picture.clients[offender.client_id].pid
            start = self.client_start.get(offender.client_id, 0)
            _log.warning(
                "process_overdrawn",
                pid=pid,
                tenant=self._book.tenants[offender.tenant_id].name,
                over_bytes=offender.over_bytes,
                unleased_bytes=offender.counted_bytes,
                action=end(pid, start, signal.SIGKILL),
            )

    async def _correct_capacity(self, uses: Uses, picture: Picture) -> None:
        """Take from a device's capacity what processes without a session hold, dead or alive."""
        known = {c.pid for c in picture.clients.values()}
        now = {
            Stranger(use.pid, 0, uuid): use.mem_bytes or 0
            for uuid, listed in uses.items()
            for use in listed
            if use.pid not in known
        }
        self._strangers, confirmed = confirm(self._strangers, now, self._config.confirm_count)
        for uuid, device in self.devices.items():
            if uuid not in uses:
                continue  # it did not answer: as it was
            outside = sum(now[s] for s in confirmed if s.device_uuid == uuid)
            capacity = max(0, device.memory_bytes - outside)
            if abs(capacity - self._book.devices[uuid].memory_bytes) > GRANULE_BYTES:
                _log.info("capacity_changed", gpu=device.index, capacity_bytes=capacity)
                await self._book.announce_devices([replace(device, memory_bytes=capacity)])


def _with_cost(device: Device, cost: ContextCost, *, moved: bool) -> Device:
    device = replace(device, overhead_seen=len(cost.seen))
    if not moved:
        return device
    return replace(device, overhead_bytes=cost.size_bytes, overhead_source=cost.source)
