# SPDX-License-Identifier: Apache-2.0
"""harpd's loops: keep an arbiter, look at the devices, drain the dead, end tenants.

(1) A picture of the arbiter and a list of NVML belong together only if the picture is the later
    one: a process takes its session before its context, so a pid on the device that is missing in
    a picture taken afterwards has no session.
(2) What a process holds and what it leased may be compared only if its leases stood still
    meanwhile: so there is a picture of before as well.
(3) NVML is asked in a thread: a call takes milliseconds, on a busy driver many.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

import structlog

from harp.config import Config
from harp.daemon.book import Book
from harp.daemon.evaders import Evaders, belongs
from harp.daemon.held import Held, held_by_device, held_exactly
from harp.daemon.link import ArbiterLink
from harp.daemon.picture import Picture, client_of
from harp.daemon.reconcile import Reconciler
from harp.daemon.store import Store
from harp.discovery import Found, ProcessUse, read_sensors
from harp.errors import ArbiterError, NvmlError
from harp.lease_admin import AdminClient, ArbiterRefused
from harp.lease_wire import ALL_DEVICES, GRANULE_BYTES, Msg, Op
from harp.model import Client, ClientState, Device, Sensors, Tenant
from harp.procs import Proc, all_procs, start_of

__all__ = ["Harpd"]

_log = structlog.get_logger(__name__)
_RETRY_S = 0.5
#: after a restart of harpd or the arbiter clients need this long to come back (they try every
#: second at least); until then a process without a session is no evader
_SETTLE_S = 3.0
#: from a death to the first look whether its memory is back. No driver is faster than that, and
#: of many that end together a look each would cost more than they did.
_GATHER_S = 0.01
#: most lease that a process without a limit may keep unused on a device (harp-arbiter's main.c)
_SLACK_BYTES = 32 * GRANULE_BYTES


class Harpd:
    """The daemon's state that is not in the book: what was seen, and when."""

    def __init__(
        self, config: Config, book: Book, link: ArbiterLink, found: Found, store: Store
    ) -> None:
        self._config = config
        self._book = book
        self._link = link
        self.found = found
        self.evaders = Evaders(config.watchdog, book)
        self._reconciler = Reconciler(config.watchdog, book, link, store)
        #: {(tenant_id, uuid): (monotonic s, used_ns), oldest first}
        self._history: dict[tuple[int, str], deque[tuple[float, int]]] = {}
        #: {uuid: physical bytes in use}
        self.used_bytes: dict[str, int] = {}
        #: {uuid: what its sensors said}
        self.sensors: dict[str, Sensors] = {}
        #: monotonic s at the end of the last tick(); None: there was none
        self.looked_s: float | None = None
        #: devices that did not answer the last look: {uuid: why}
        self.lost: dict[str, str] = {}
        #: looks that failed, or of a device that was not lost before
        self.look_errors = 0
        #: {client_id: start time of its process}, to tell a reused pid
        self._client_start = self._reconciler.client_start
        #: monotonic s before which nobody is called uncovered
        self._settled_s = 0.0
        self._draining = asyncio.Event()
        self._connected = asyncio.Event()
        #: set when another arbiter serves
        self.replaced = asyncio.Event()
        #: what the arbiter before knew last: said by itself, or as we saw it; None: nothing
        self._handed_over: Picture | None = None
        self._last_seen = Picture()
        #: clients of processes that have not come back from the arbiter before
        self._expected: set[int] = set()
        #: told of each look, and of each refusal
        self.on_look: Callable[[Picture, Mapping[int, Proc]], None] = lambda *_: None
        self.on_denied: Callable[[Msg], None] = lambda _: None

    def on_event(self, message: Msg) -> None:
        """Take one EVENT_* of the arbiter."""
        match message.op:
            case Op.EVENT_CLIENT:
                client = client_of(message)
                if client.state is ClientState.LIVE:
                    self._client_start[client.client_id] = start_of(client.pid)
                    _log.debug("client_joined", client=client.client_id, pid=client.pid)
                elif client.state is ClientState.DRAINING:
                    _log.info("client_died", client=client.client_id, pid=client.pid)
                    self._draining.set()
            case Op.EVENT_DENY:
                tenant = self._book.tenants.get(message.tenant)
                _log.info(
                    "memory_denied",
                    tenant=tenant.name if tenant else message.tenant,
                    asked_bytes=message.amount_bytes,
                    leased_bytes=message.leased_bytes,
                    limit_bytes=message.limit_bytes,
                )
                self.on_denied(message)
            case _:
                _log.warning("unknown_event", op=message.op)

    async def attach(self, client: AdminClient, devices: Iterable[Device]) -> None:
        """Make a newly connected arbiter know all we know. Its pump() must be running.

        Raises:
            DeviceBusy, ArbiterError.
        """
        self._reconciler.begin(devices)
        await self._book.announce_devices(self._reconciler.devices.values())
        await client.request(Msg(op=Op.SUBSCRIBE, a=1))
        self._expected = await self._book.recover(self._find_held)
        if self._book.tenants:
            self._settled_s = time.monotonic() + _SETTLE_S
        for one in self._book.picture.clients.values():
            self._client_start.setdefault(one.client_id, start_of(one.pid))
        self._draining.set()  # the dead of before may be waiting
        self._connected.set()

    async def keep_arbiter(self, first: asyncio.Task[None]) -> None:
        """Wait for the arbiter's end, start another, for ever."""
        pump = first
        while True:
            await asyncio.wait([pump])
            _log.error("arbiter_lost", pid=self._link.pid)
            pump = await self._replace_arbiter()

    async def renew_arbiter(self, pump: asyncio.Task[None]) -> asyncio.Task[None]:
        """Have another arbiter take the place of the one that runs; returns its pump.

        Raises:
            ArbiterError: the one that runs stays.
        """
        before = self._link.pid
        self._handed_over = await self._book.last_look()
        await asyncio.wait([pump])
        pump = await self._replace_arbiter()
        self._handed_over = None  # unused if there was nobody to expect; stale from here on
        _log.info("arbiter_renewed", before=before, pid=self._link.pid)
        return pump

    async def _replace_arbiter(self) -> asyncio.Task[None]:
        self._connected.clear()
        self._last_seen = self._book.picture
        while True:
            try:
                client = await self._link.open()
                pump = asyncio.create_task(client.pump())
                await self.attach(client, self._reconciler.devices.values())
            except ArbiterError as error:
                _log.error("arbiter_not_started", reason=error.message)
                await asyncio.sleep(_RETRY_S)
            else:
                _log.info("arbiter_found", pid=self._link.pid)
                self.replaced.set()
                return pump

    async def _find_held(self, tenants: Mapping[int, Tenant]) -> list[Held]:
        """What processes of `tenants` hold that the arbiter before let in."""
        if self._handed_over is not None:
            picture, self._handed_over = self._handed_over, None
            return [h for h in held_exactly(picture) if h.tenant_id in tenants]
        devices = self._reconciler.devices
        uses = await self._uses()
        procs = await asyncio.to_thread(all_procs)
        contexts = {d.uuid: d.overhead_bytes for d in devices.values()}
        owner_of = self.evaders.owners(procs, tenants)
        found = held_by_device(uses, self._last_seen, owner_of, contexts, _SLACK_BYTES)
        return [h for h in found if h.tenant_id in tenants]

    async def watch(self) -> None:
        """Look at everything, once a period."""
        while True:
            started = time.monotonic()
            await self._connected.wait()
            try:
                await self.tick()
            except (ArbiterError, NvmlError) as error:
                self.look_errors += 1
                _log.warning("watch_failed", reason=error.message)
            except Exception:  # noqa: BLE001 - one odd process may not end the watch over all
                self.look_errors += 1
                _log.exception("watch_broken")
            spent = time.monotonic() - started
            await asyncio.sleep(max(0.0, self._config.watchdog.period_s - spent))

    async def drain(self) -> None:
        """While memory of the dead is awaited, look often; else sleep."""
        pause_s = _GATHER_S
        while True:
            await self._draining.wait()
            await self._connected.wait()
            await asyncio.sleep(pause_s)
            self._draining.clear()
            pause_s = _GATHER_S
            try:
                if await self._drain_once():
                    self._draining.set()
                    pause_s = self._config.watchdog.drain_period_s
            except (ArbiterError, NvmlError) as error:
                _log.warning("drain_failed", reason=error.message)
                self._draining.set()
                pause_s = _RETRY_S
            except Exception:  # noqa: BLE001 - as in watch()
                _log.exception("drain_broken")
                self._draining.set()
                pause_s = _RETRY_S

    async def tick(self) -> None:
        """One look: uncovered processes, what the ledger missed, shares, tenants that ended."""
        before = await self._book.look()
        uses = await self._uses()
        picture = await self._book.look()
        self.used_bytes = await self._used()
        self.sensors = await self._sensed()
        procs = (
            await asyncio.to_thread(all_procs) if self._book.tenants or any(uses.values()) else {}
        )
        self.evaders.lineage.update(procs, self._book.tenants.values())
        if time.monotonic() >= self._settled_s:
            self.evaders.judge(uses, picture, procs)
        await self._reconciler.look(uses, before, picture)
        self._remember(picture)
        self.on_look(picture, procs)
        await self._end_tenants(picture, procs, keep_draining=True)
        if picture.draining():
            self._draining.set()
        self.looked_s = time.monotonic()

    def used_ratio(self, tenant_id: int, uuid: str) -> tuple[float, float]:
        """Share of a device's time a tenant had lately, and over how many seconds."""
        history = self._history.get((tenant_id, uuid))
        if not history or len(history) < 2:
            return 0.0, 0.0
        (then, used_then), (now, used_now) = history[0], history[-1]
        window = now - then
        return (used_now - used_then) / 1e9 / window, window

    def physical_bytes(self, uuid: str) -> int:
        """Memory of a device, whoever holds it."""
        return self._reconciler.devices[uuid].memory_bytes

    async def _uses(self) -> dict[str, Sequence[ProcessUse]]:
        """Processes of each device that answers; one that fell off the bus holds up no other.

        Raises:
            NvmlError: none answers.
        """
        uses: dict[str, Sequence[ProcessUse]] = {}
        lost: dict[str, str] = {}
        for uuid in self._reconciler.devices:
            try:
                uses[uuid] = await asyncio.to_thread(self.found.nvml.processes, uuid)
            except (NvmlError, TimeoutError) as error:
                lost[uuid] = str(error)
        for uuid in lost.keys() - self.lost.keys():
            self.look_errors += 1
            _log.error("device_lost", gpu=uuid, reason=lost[uuid], effect="others go on")
        for uuid in self.lost.keys() - lost.keys():
            _log.info("device_back", gpu=uuid)
        self.lost = lost
        if lost and not uses:
            raise NvmlError("no device answers: " + "; ".join(lost.values()))
        return uses

    async def _used(self) -> dict[str, int]:
        used: dict[str, int] = {}
        for uuid in self._reconciler.devices.keys() - self.lost.keys():
            with contextlib.suppress(NvmlError, TimeoutError):  # the next look says it
                used[uuid] = await asyncio.to_thread(self.found.nvml.memory_used, uuid)
        return used

    async def _sensed(self) -> dict[str, Sensors]:
        found: dict[str, Sensors] = {}
        for uuid in self._reconciler.devices.keys() - self.lost.keys():
            with contextlib.suppress(NvmlError, TimeoutError):
                found[uuid] = await asyncio.to_thread(
                    read_sensors, self.found.nvml, uuid, self.found.kind_of(uuid)
                )
        return found

    def _remember(self, picture: Picture) -> None:
        now = time.monotonic()
        for key, use in picture.uses.items():
            history = self._history.setdefault(key, deque())
            if history and history[-1][1] > use.used_ns:
                history.clear()  # a new arbiter counts from zero
            history.append((now, use.used_ns))
            while len(history) > 2 and history[1][0] <= now - self._config.daemon.history_s:
                history.popleft()
        for key in list(self._history):
            if key not in picture.uses:
                del self._history[key]

    async def make_room(self) -> None:
        """End the tenants that have ended, before somebody asks for their name or their share.

        What still drains of them does not matter: the arbiter lets others wait for it.
        """
        picture = await self._book.look()
        procs = await asyncio.to_thread(all_procs)
        await self._end_tenants(picture, procs, keep_draining=False)

    async def _end_tenants(
        self, picture: Picture, procs: dict[int, Proc], *, keep_draining: bool
    ) -> None:
        """A tenant ends when its root process and all its clients are gone and nothing drains.

        Processes that outlive the root and may still make a context keep it as well. One that is
        held ends when it is removed.
        """
        for tenant in list(self._book.tenants.values()):
            if tenant.held:
                continue
            root = procs.get(tenant.root_pid)
            if root is not None and root.start == tenant.root_start and not root.zombie:
                continue
            clients = picture.clients_of(tenant.tenant_id)
            if any(keep_draining or c.state is ClientState.LIVE for c in clients):
                continue
            if not self._survivors(tenant, procs):
                await self._book.remove(tenant, "ended")

    def _survivors(self, tenant: Tenant, procs: dict[int, Proc]) -> bool:
        if self.evaders.lineage.has_members(tenant.tenant_id, procs):
            return True
        return any(
            belongs(proc.pid, tenant)
            for proc in procs.values()
            if proc.start >= tenant.root_start and not proc.zombie
        )

    async def _drain_once(self) -> bool:
        """Tell the arbiter which of the dead the devices no longer list; True: some are left."""
        picture = await self._book.look()
        draining = picture.draining()
        if not draining:
            return False
        uses = await self._uses()
        listed = {use.pid for processes in uses.values() for use in processes}
        unsure = {client for client, uuid in picture.holds if uuid not in uses}
        live = {c.pid for c in picture.clients.values() if c.state is ClientState.LIVE}
        left = False
        for client in draining:
            if client.client_id in self._expected and time.monotonic() < self._settled_s:
                continue  # it may be about to come back; tick() looks again
            if client.client_id in unsure:
                continue  # nobody can say what it has on a lost device; tick() looks again
            if client.pid in listed and not self._replaced(client, live):
                # One that is expected back may take long, if it is stopped: tick() looks again.
                left |= client.client_id not in self._expected
                continue
            try:
                await self._link.client.request(
                    Msg(op=Op.DRAINED, client=client.client_id, dev=ALL_DEVICES)
                )
            except ArbiterRefused:  # somebody was faster, or it has just come back: tick()
                continue
            self._expected.discard(client.client_id)
            self._client_start.pop(client.client_id, None)
            _log.info("client_drained", client=client.client_id, pid=client.pid)
        return left

    def _replaced(self, client: Client, live: set[int]) -> bool:
        """Whether the pid on the device stands for something else than this dead session.

        Either its process connected again (and adopted what it holds), or the number was given to
        a new process.
        """
        if client.pid in live:
            return True
        start, known = start_of(client.pid), self._client_start.get(client.client_id, 0)
        return bool(start and known and start != known)
