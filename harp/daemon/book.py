# SPDX-License-Identifier: Apache-2.0
"""The book of grants: tenants of this machine, in the store, in the arbiter and in memory alike.

Order of writing when a tenant is made: arbiter, store, memory. What fails takes back what was done.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import replace
from pathlib import Path

import structlog

from harp.config import AdmissionConfig
from harp.daemon.arbiter import Arbiter, as_tenant
from harp.daemon.held import Held
from harp.daemon.link import ArbiterLink
from harp.daemon.naming import tenant_name
from harp.daemon.owners import Wish, check_user
from harp.daemon.picture import Picture
from harp.daemon.store import Store
from harp.errors import (
    ArbiterError,
    ConfigError,
    NoDevice,
    UnknownTenant,
)
from harp.grants import (
    BufferFor,
    Promise,
    admit,
    choose,
    memory_left,
    promised_ppm,
    select,
    shrinks,
)
from harp.lease_wire import ANY_UID
from harp.metrics import Fairness, Totals
from harp.model import Device, Limits, Tenant
from harp.procs import read
from harp.profile import NAME as PROFILE
from harp.units import PPM

__all__ = ["Book"]

_log = structlog.get_logger(__name__)
FindHeld = Callable[[Mapping[int, Tenant]], Awaitable[Iterable[Held]]]


class Book:
    """Every living tenant. One task at a time changes it (`_lock`)."""

    def __init__(
        self,
        store: Store,
        link: ArbiterLink,
        run_dir: Path,
        config: AdmissionConfig,
        buffer_for: BufferFor | None = None,
    ) -> None:
        self._store = store
        self._arbiter = Arbiter(link, run_dir)
        self._overcommit_ratio = config.overcommit_ratio
        self._tenants_per_user = config.tenants_per_user
        #: see grants.admit()
        self._buffer_for = buffer_for
        self._lock = asyncio.Lock()
        #: {tenant_id: tenant}
        self.tenants: dict[int, Tenant] = {}
        #: {uuid: device}, in index order
        self.devices = self._arbiter.devices
        #: {tenant_id: its kernels' totals, if they are not in its folder}
        self.pages = self._arbiter.pages
        #: {tenant_id: devices promised to it, though it counts as suspended: it may yet stay, or
        #: is about to be there}
        self._moving: dict[int, tuple[str, ...]] = {}
        #: the last picture taken
        self.picture = Picture()
        #: what tenants used of each device, those that have ended as well
        self.totals = Totals()
        #: whether they get what is theirs
        self.fairness = Fairness()
        #: parts per million of a device's time that a tenant will want; 0: not known
        self.duty_of: Callable[[Tenant], int] = lambda _tenant: 0
        #: told of each tenant that was removed, the last picture it is in, and why
        self.on_removed: Callable[[Tenant, Picture, str], None] = lambda *_: None

    def close(self) -> None:
        """Drop the listening sockets; the arbiter's own stay open."""
        self._arbiter.close()

    def number_of(self, uuid: str) -> int:
        """The arbiter's number of a device."""
        return self._arbiter.number_of(uuid)

    async def announce_devices(self, devices: Iterable[Device]) -> None:
        """Tell the arbiter of devices, new or changed.

        Raises:
            DeviceBusy: another arbiter holds one.
        """
        await self._arbiter.announce(devices)

    def by_name(self, name: str) -> Tenant:
        """The living tenant of that name.

        Raises:
            UnknownTenant: there is none.
        """
        for tenant in self.tenants.values():
            if tenant.name == name:
                return tenant
        known = ", ".join(sorted(t.name for t in self.tenants.values()))
        raise UnknownTenant(f"no tenant {name!r}", f"there is {known}" if known else "none runs")

    async def look(self) -> Picture:
        """Take a new picture of the arbiter."""
        self.picture = await self._arbiter.look()
        self.totals.see(self.picture.tenants.keys(), self.picture.uses, time.time())
        self.fairness.see(self.picture.uses, time.monotonic())
        return self.picture

    async def last_look(self) -> Picture:
        """The last picture of an arbiter that ends with it, for the next one to go on from.

        Raises:
            ArbiterError: it does not end: see ArbiterLink.hand_over.
        """
        return await self._arbiter.last_look(self.tenants)

    async def recover(self, find_held: FindHeld | None = None) -> set[int]:
        """Make store, arbiter and memory agree, after harpd or the arbiter was restarted.

        Args:
            find_held: given the tenants that a new arbiter was told of, what their processes hold.
                Nobody is let in before it knows that of all.

        Returns:
            Clients the arbiter expects back.
        """
        async with self._lock:
            picture = await self.look()
            known = self.tenants or {t.tenant_id: t for t in self._store.tenants()}
            for tenant_id, found in picture.tenants.items():
                # The store was lost: the arbiter knows the rest, but not the root process.
                known.setdefault(tenant_id, as_tenant(found))
            self.tenants = {}
            fresh: dict[int, Tenant] = {}
            for tenant in known.values():
                if tenant.tenant_id in picture.tenants:
                    # harpd may have ended between two devices of a grant.
                    if tenant.grant_dir:
                        await self._arbiter.grant_again(tenant)
                    self.tenants[tenant.tenant_id] = tenant
                elif await self._arbiter.introduce(tenant):
                    fresh[tenant.tenant_id] = tenant
                else:
                    self._lose(tenant)
            # What is suspended lies on the host: no device has it, nobody need keep room for it.
            there = {number: t for number, t in fresh.items() if not t.suspended}
            expected = set[int]()
            if find_held and there:
                expected = await self._arbiter.expect(await find_held(there))
            for tenant in fresh.values():
                if await self._arbiter.let_in(tenant):
                    self.tenants[tenant.tenant_id] = tenant
                else:
                    self._lose(tenant)
            for tenant in self.tenants.values():
                self._store.put(tenant)
            await self._arbiter.keep_sockets(self.tenants)
            await self.look()
            return expected

    async def create(self, wish: Wish, listening: int) -> Tenant:
        """Make a tenant. `listening` is ours from here on, whatever comes.

        Raises:
            ConfigError, TenantExists, NoDevice, QuotaExceeded, ArbiterError.
        """
        try:
            async with self._lock:
                return await self._create(wish, listening)
        except BaseException:
            os.close(listening)
            raise

    async def set_limits(self, tenant: Tenant, limits: Limits) -> Tenant:
        """Change a tenant's limits.

        Raises:
            QuotaExceeded, ArbiterError.
            ConfigError: the change cannot come into force.
        """
        async with self._lock:
            tenant = self.tenants.get(tenant.tenant_id, tenant)  # as it is by now
            for uuid in tenant.device_uuids:
                if uuid not in self.devices:
                    raise NoDevice(
                        f"the device {uuid} of tenant {tenant.name} is gone",
                        "end the tenant; harp devices lists those that are left",
                    )
            picture = await self.look()
            held = self.promises(picture, without=tenant.tenant_id)
            clients = len(picture.clients_of(tenant.tenant_id))
            if clients and limits.oversubscribe != tenant.limits.oversubscribe:
                raise ConfigError(
                    f"{clients} processes of tenant {tenant.name} run: whether memory can leave the"
                    " GPU is settled when a process begins",
                    "end them first, or start the job with `harp run --oversubscribe`"
                    if limits.oversubscribe
                    else "end them first, or start the job without --oversubscribe",
                )
            asked = Promise(limits, clients, need_bytes=tenant.need_bytes)
            if not shrinks(tenant.limits, limits):
                for uuid in tenant.device_uuids:
                    self._admit(self.devices[uuid], held[uuid], asked)
            changed = replace(tenant, limits=limits)
            try:
                await self._arbiter.grant(changed)
            except ArbiterError:
                # All devices or none; if the arbiter is gone, recover() tells the next one.
                with contextlib.suppress(ArbiterError):
                    await self._arbiter.grant(tenant)
                raise
            self._store.put(changed)
            self.tenants[tenant.tenant_id] = changed
        _log.info("tenant_set", tenant=tenant.name, limits=str(limits))
        return changed

    async def mark(self, tenant: Tenant, *, suspended: bool) -> None:
        """Write down that a tenant is suspended, or runs on the devices that `tenant` names."""
        async with self._lock:
            known = self.tenants.get(tenant.tenant_id)
            if known is None:
                return  # it ended meanwhile
            changed = replace(known, device_uuids=tenant.device_uuids, suspended=suspended)
            self._store.put(changed)
            self.tenants[tenant.tenant_id] = changed
            if changed.device_uuids != known.device_uuids:
                # Its limits may have been changed on the way.
                await self._arbiter.grant_again(changed)

    @contextlib.contextmanager
    def leaving(self, tenant: Tenant) -> Iterator[None]:
        """Meanwhile what was promised to a tenant stays so: it may yet stay."""
        self._moving[tenant.tenant_id] = () if tenant.suspended else tenant.device_uuids
        try:
            yield
        finally:
            del self._moving[tenant.tenant_id]

    @contextlib.asynccontextmanager
    async def returning(self, tenant: Tenant) -> AsyncIterator[None]:
        """A suspended tenant is to come back to the devices that `tenant` names: grant it there.

        Raises:
            QuotaExceeded: what was promised to others meanwhile leaves no room for its limits.
        """
        async with self._lock:
            known = self.tenants.get(tenant.tenant_id, tenant)
            tenant = replace(known, device_uuids=tenant.device_uuids)
            picture = await self.look()
            held = self.promises(picture)
            clients = len(picture.clients_of(tenant.tenant_id))
            asked = Promise(tenant.limits, clients, need_bytes=tenant.need_bytes)
            for uuid in tenant.device_uuids:
                self._admit(self.devices[uuid], held[uuid], asked)
            await self._arbiter.grant(tenant)
            self._moving[tenant.tenant_id] = tenant.device_uuids
        try:
            yield
        finally:
            del self._moving[tenant.tenant_id]

    async def remove(self, tenant: Tenant, reason: str) -> None:
        """Take a tenant's grant back. Its clients, if any, are disconnected."""
        async with self._lock:
            if self.tenants.get(tenant.tenant_id) is None:
                return
            await self._arbiter.remove(tenant.tenant_id)
            self._forget(tenant.tenant_id)
            self.tenants.pop(tenant.tenant_id, None)
            self.on_removed(tenant, self.picture, reason)
            self.pages.pop(tenant.tenant_id, None)
        _sweep(tenant)
        _log.info("tenant_removed", tenant=tenant.name, reason=reason)

    def promises(self, picture: Picture, without: int = 0) -> dict[str, list[Promise]]:
        """What is promised on each device, by UUID; every device has an entry.

        Who is suspended is promised nothing: it comes back when there is room.
        """
        found: dict[str, list[Promise]] = {uuid: [] for uuid in self.devices}
        for tenant in self.tenants.values():
            here = () if tenant.suspended else tenant.device_uuids
            here = self._moving.get(tenant.tenant_id, here)
            if tenant.tenant_id == without:
                continue
            clients = len(picture.clients_of(tenant.tenant_id))
            for uuid in here:
                if uuid not in found:
                    continue
                use = picture.uses.get((tenant.tenant_id, uuid))
                swap = use.residency.swap_bytes if use and use.residency else 0
                held = use.charged_bytes if use else 0
                need_bytes, duty_ppm = tenant.need_bytes, self.duty_of(tenant)
                found[uuid].append(
                    Promise(tenant.limits, clients, held, swap, need_bytes, duty_ppm)
                )
        return found

    def free_bytes(self, device: Device, promises: Sequence[Promise]) -> int:
        """The largest memory limit that a new tenant of one process could have."""
        return memory_left(device, promises, self._overcommit_ratio)

    def free_ppm(self, promises: Sequence[Promise]) -> int:
        """The largest share that it could have."""
        return min(PPM, max(0, int(PPM * self._overcommit_ratio) - promised_ppm(promises)))

    async def _create(self, wish: Wish, listening: int) -> Tenant:
        taken = {t.name for t in self.tenants.values()}
        name = tenant_name(wish.name, wish.program, wish.root_pid, taken, container=wish.held)
        root = None if wish.held else read(wish.root_pid)
        if not wish.held and (root is None or root.zombie):
            raise ConfigError(f"process {wish.root_pid} is gone")
        check_user(wish, self.tenants.values(), self._tenants_per_user)
        picture = await self.look()
        promises = self.promises(picture)
        devices = list(self.devices.values())
        asked = Promise(wish.limits, need_bytes=wish.need_bytes, duty_ppm=wish.duty_ppm)
        if wish.gpu:
            chosen = select(devices, wish.gpu)
            for device in chosen:
                self._admit(device, promises[device.uuid], asked)
        else:
            chosen = (choose(devices, promises, asked, self._overcommit_ratio, self._buffer_for),)
        uid = ANY_UID if wish.any_uid else wish.uid
        page = self._arbiter.page_for(uid, held=wish.held)
        tenant = Tenant(
            tenant_id=await self._arbiter.add(name, uid, listening, page),
            name=name,
            uid=wish.uid,
            root_pid=wish.root_pid if root else 0,
            root_start=root.start if root else 0,
            grant_dir=wish.grant_dir,
            device_uuids=tuple(d.uuid for d in chosen),
            limits=wish.limits,
            policy=wish.policy,
            created_s=time.time(),
            for_root=wish.for_root,
            any_uid=wish.any_uid,
            held=wish.held,
            labels=wish.labels,
            need_bytes=wish.need_bytes,
        )
        try:
            await self._arbiter.grant(tenant)
            self._store.put(tenant)
        except BaseException:
            await self._arbiter.remove(tenant.tenant_id)
            raise
        self._arbiter.keep(tenant.tenant_id, listening, page)
        self.tenants[tenant.tenant_id] = tenant
        _log.info(
            "tenant_made",
            tenant=name,
            uid=wish.uid,
            gpus=[d.index for d in chosen],
            pid=wish.root_pid,
        )
        return tenant

    def _admit(self, device: Device, promises: Sequence[Promise], asked: Promise) -> None:
        admit(device, promises, asked, self._overcommit_ratio, self._buffer_for)

    def _lose(self, tenant: Tenant) -> None:
        _log.warning("tenant_lost", tenant=tenant.name, grant_dir=tenant.grant_dir)
        self._forget(tenant.tenant_id)
        self.pages.pop(tenant.tenant_id, None)

    def _forget(self, tenant_id: int) -> None:
        self._store.remove(tenant_id)
        self._arbiter.forget(tenant_id)
        self.totals.forget(tenant_id)
        self.fairness.forget(tenant_id)


def _sweep(tenant: Tenant) -> None:
    """Remove the grant folder if it is ours to remove; else its owner's next `harp run` does."""
    if tenant.uid != os.geteuid() or not tenant.grant_dir:
        return
    folder = Path(tenant.grant_dir)
    for name in ("arbiter.sock", "shim.log", PROFILE):
        try:
            (folder / name).unlink(missing_ok=True)
        except (OSError, ValueError):  # ValueError: no name at all
            return
    try:
        folder.rmdir()
    except OSError:
        _log.debug("grant_folder_left", path=str(folder))
