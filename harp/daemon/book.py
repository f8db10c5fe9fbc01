# SPDX-License-Identifier: Apache-2.0
"""The book of grants: tenants of this machine, in the store, in the arbiter and in memory alike.

Order of writing when a tenant is made: arbiter, store, memory. What fails takes back what was done.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from harp.config import AdmissionConfig
from harp.daemon.held import Held
from harp.daemon.link import ArbiterLink, deaf_socket, listening_socket
from harp.daemon.naming import tenant_name
from harp.daemon.picture import ArbiterTenant, Picture, parse
from harp.daemon.store import Store
from harp.errors import (
    ArbiterError,
    ConfigError,
    DeviceBusy,
    NoDevice,
    NotOwner,
    QuotaExceeded,
    UnknownTenant,
)
from harp.grants import Promise, admit, choose, select, shrinks
from harp.lease_wire import (
    ALL_DEVICES,
    GRANT_NO_GANG,
    GRANT_OVERSUBSCRIBE,
    ArbiterRefused,
    Msg,
    Op,
)
from harp.model import Device, Limits, Policy, Tenant, TenantClass, uuid_bytes
from harp.procs import read

__all__ = ["Book", "Wish"]

_log = structlog.get_logger(__name__)
FindHeld = Callable[[Mapping[int, Tenant]], Awaitable[Iterable[Held]]]


@dataclass(frozen=True, slots=True)
class Wish:
    """A tenant asked for."""

    name: str  #: "": made from `program` and `root_pid`
    program: str
    uid: int
    gpu: str  #: names of devices; "": the least promised one that can take it
    limits: Limits
    policy: Policy
    root_pid: int
    grant_dir: str


class Book:
    """Every living tenant. One task at a time changes it (`_lock`)."""

    def __init__(
        self, store: Store, link: ArbiterLink, run_dir: Path, config: AdmissionConfig
    ) -> None:
        self._store = store
        self._run_dir = run_dir
        self._link = link
        self._overcommit_ratio = config.overcommit_ratio
        self._tenants_per_user = config.tenants_per_user
        self._lock = asyncio.Lock()
        #: {tenant_id: tenant}
        self.tenants: dict[int, Tenant] = {}
        #: {uuid: device}, in index order
        self.devices: dict[str, Device] = {}
        #: {the arbiter's number: uuid}
        self._uuid_of: dict[int, str] = {}
        #: {tenant_id: listening socket}; a new harpd has none, the arbiter keeps its own
        self._listening: dict[int, int] = {}
        #: the last picture taken
        self.picture = Picture()

    def close(self) -> None:
        """Drop the listening sockets; the arbiter's own stay open."""
        for fd in self._listening.values():
            os.close(fd)
        self._listening.clear()

    def number_of(self, uuid: str) -> int:
        """The arbiter's number of a device."""
        return next(n for n, known in self._uuid_of.items() if known == uuid)

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
        self.picture = parse(await self._link.client.snapshot(), self._uuid_of)
        return self.picture

    async def last_look(self) -> Picture:
        """The last picture of an arbiter that ends with it, for the next one to go on from.

        Raises:
            ArbiterError: it does not end: see ArbiterLink.hand_over.
        """
        await self._keep_sockets()
        return parse(await self._link.hand_over(), self._uuid_of)

    async def announce_devices(self, devices: Iterable[Device]) -> None:
        """Tell the arbiter of devices, new or changed.

        Raises:
            DeviceBusy: another arbiter holds one.
        """
        for device in devices:
            try:
                answer = await self._link.client.request(
                    Msg(
                        op=Op.ADD_DEVICE,
                        uuid=uuid_bytes(device.uuid),
                        capacity_bytes=device.memory_bytes,
                        overhead_bytes=device.overhead_bytes,
                    )
                )
            except ArbiterRefused as error:
                raise _busy(device, error) from error
            self.devices[device.uuid] = device
            self._uuid_of[answer.dev] = device.uuid

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
                known.setdefault(tenant_id, _from_arbiter(found))
            self.tenants = {}
            fresh: dict[int, Tenant] = {}
            for tenant in known.values():
                if tenant.tenant_id in picture.tenants:
                    # harpd may have ended between two devices of a grant.
                    if tenant.grant_dir:
                        await self._grant_again(tenant)
                    self.tenants[tenant.tenant_id] = tenant
                elif await self._introduce(tenant):
                    fresh[tenant.tenant_id] = tenant
                else:
                    self._lose(tenant)
            # What is suspended lies on the host: no device has it, nobody need keep room for it.
            there = {number: t for number, t in fresh.items() if not t.suspended}
            expected = set[int]()
            if find_held and there:
                expected = await self._expect(await find_held(there))
            for tenant in fresh.values():
                if await self._let_in(tenant):
                    self.tenants[tenant.tenant_id] = tenant
                else:
                    self._lose(tenant)
            for tenant in self.tenants.values():
                self._store.put(tenant)
            await self._keep_sockets()
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
            asked = Promise(limits, clients)
            if not shrinks(tenant.limits, limits):
                for uuid in tenant.device_uuids:
                    admit(self.devices[uuid], held[uuid], asked, self._overcommit_ratio)
            changed = replace(tenant, limits=limits)
            try:
                await self._grant(changed)
            except ArbiterError:
                # All devices or none; if the arbiter is gone, recover() tells the next one.
                with contextlib.suppress(ArbiterError):
                    await self._grant(tenant)
                raise
            self._store.put(changed)
            self.tenants[tenant.tenant_id] = changed
        _log.info("tenant_set", tenant=tenant.name, limits=str(limits))
        return changed

    def mark(self, tenant: Tenant, *, suspended: bool) -> None:
        """Write down that a tenant is suspended, or runs on the devices that `tenant` names."""
        known = self.tenants.get(tenant.tenant_id)
        if known is None:
            return  # it ended meanwhile
        changed = replace(known, device_uuids=tenant.device_uuids, suspended=suspended)
        self._store.put(changed)
        self.tenants[tenant.tenant_id] = changed

    async def admit_return(self, tenant: Tenant) -> None:
        """A suspended tenant is to come back to the devices that `tenant` names: grant it there.

        Raises:
            QuotaExceeded: what was promised to others meanwhile leaves no room for its limits.
        """
        async with self._lock:
            picture = await self.look()
            held = self.promises(picture)
            asked = Promise(tenant.limits, len(picture.clients_of(tenant.tenant_id)))
            for uuid in tenant.device_uuids:
                admit(self.devices[uuid], held[uuid], asked, self._overcommit_ratio)
            await self._grant(tenant)

    async def remove(self, tenant: Tenant, reason: str) -> None:
        """Take a tenant's grant back. Its clients, if any, are disconnected."""
        async with self._lock:
            if self.tenants.get(tenant.tenant_id) is None:
                return
            await self._link.client.request(Msg(op=Op.DEL_TENANT, tenant=tenant.tenant_id))
            self._forget(tenant.tenant_id)
            self.tenants.pop(tenant.tenant_id, None)
        _sweep(tenant)
        _log.info("tenant_removed", tenant=tenant.name, reason=reason)

    def promises(self, picture: Picture, without: int = 0) -> dict[str, list[Promise]]:
        """What is promised on each device, by UUID; every device has an entry.

        Who is suspended is promised nothing: it comes back when there is room.
        """
        found: dict[str, list[Promise]] = {uuid: [] for uuid in self.devices}
        for tenant in self.tenants.values():
            if tenant.tenant_id == without or tenant.suspended:
                continue
            clients = len(picture.clients_of(tenant.tenant_id))
            for uuid in tenant.device_uuids:
                if uuid not in found:
                    continue
                use = picture.uses.get((tenant.tenant_id, uuid))
                swap = use.residency.swap_bytes if use and use.residency else 0
                held = use.charged_bytes if use else 0
                found[uuid].append(Promise(tenant.limits, clients, held, swap))
        return found

    def check_owner(self, tenant: Tenant, uid: int) -> None:
        """Only the owner and root may change a tenant.

        Raises:
            NotOwner: it is another user's.
        """
        if uid not in (tenant.uid, 0):
            raise NotOwner(
                f"tenant {tenant.name} belongs to uid {tenant.uid}, not {uid}",
                "its owner or root may change it",
            )

    async def _create(self, wish: Wish, listening: int) -> Tenant:
        taken = {t.name for t in self.tenants.values()}
        name = tenant_name(wish.name, wish.program, wish.root_pid, taken)
        root = read(wish.root_pid)
        if root is None or root.zombie:
            raise ConfigError(f"process {wish.root_pid} is gone")
        held = sum(t.uid == wish.uid for t in self.tenants.values())
        if held >= self._tenants_per_user:
            raise QuotaExceeded(
                f"uid {wish.uid} has {held} tenants, the most one user may have",
                "wait for one to end, or let the daemon's owner raise admission.tenants_per_user",
            )
        picture = await self.look()
        promises = self.promises(picture)
        devices = list(self.devices.values())
        asked = Promise(wish.limits)
        if wish.gpu:
            chosen = select(devices, wish.gpu)
            for device in chosen:
                admit(device, promises[device.uuid], asked, self._overcommit_ratio)
        else:
            chosen = (choose(devices, promises, asked, self._overcommit_ratio),)
        answer = await self._link.client.request(
            Msg(op=Op.ADD_TENANT, uid=wish.uid, text=name), [listening]
        )
        tenant = Tenant(
            tenant_id=answer.tenant,
            name=name,
            uid=wish.uid,
            root_pid=wish.root_pid,
            root_start=root.start,
            grant_dir=wish.grant_dir,
            device_uuids=tuple(d.uuid for d in chosen),
            limits=wish.limits,
            policy=wish.policy,
            created_s=time.time(),
        )
        try:
            await self._grant(tenant)
            self._store.put(tenant)
        except BaseException:
            await self._link.client.request(Msg(op=Op.DEL_TENANT, tenant=tenant.tenant_id))
            raise
        self._listening[tenant.tenant_id] = listening
        self.tenants[tenant.tenant_id] = tenant
        _log.info(
            "tenant_made",
            tenant=name,
            uid=wish.uid,
            gpus=[d.index for d in chosen],
            pid=wish.root_pid,
        )
        return tenant

    async def _grant(self, tenant: Tenant) -> None:
        """Tell the arbiter a tenant's limits, on each of its devices that is here."""
        limits = tenant.limits
        for uuid in tenant.device_uuids:
            if uuid not in self.devices:
                _log.warning("device_of_tenant_gone", tenant=tenant.name, device=uuid)
                continue
            await self._link.client.request(
                Msg(
                    op=Op.SET_TENANT,
                    tenant=tenant.tenant_id,
                    dev=self.number_of(uuid),
                    limit_bytes=limits.mem_bytes,
                    free_bytes=limits.host_bytes,
                    a=(0 if limits.gang else GRANT_NO_GANG)
                    | (GRANT_OVERSUBSCRIBE if limits.oversubscribe else 0),
                    b=limits.share_ppm,
                    c=limits.limit_ppm,
                    d=limits.tenant_class.value,
                )
            )

    async def _grant_again(self, tenant: Tenant) -> None:
        """The same for a tenant that the arbiter may know; a refusal is no reason to end."""
        try:
            await self._grant(tenant)
        except ArbiterRefused as error:
            _log.warning("tenant_not_granted_again", tenant=tenant.name, reason=error.message)

    async def _introduce(self, tenant: Tenant) -> bool:
        """Tell a new arbiter of a tenant it never saw; its clients are not let in yet.

        They wait in the socket's backlog already. They must find the grant when they come, or what
        they hold would not be taken back: so the socket comes last.
        """
        if not any(uuid in self.devices for uuid in tenant.device_uuids):
            return False
        if tenant.tenant_id not in self._listening:
            sock = listening_socket(Path(tenant.grant_dir) / "arbiter.sock", tenant.uid)
            if sock is None:
                return False
            self._listening[tenant.tenant_id] = sock.detach()
        try:
            with deaf_socket(self._run_dir) as deaf:
                await self._link.client.request(_known(tenant), [deaf.fileno()])
            await self._grant(tenant)
            if tenant.suspended:
                await self._suspend_again(tenant)
        except ArbiterRefused as error:
            _log.warning("tenant_not_readmitted", tenant=tenant.name, reason=error.message)
            return False
        return True

    async def _let_in(self, tenant: Tenant) -> bool:
        try:
            await self._link.client.request(_known(tenant), [self._listening[tenant.tenant_id]])
        except ArbiterRefused as error:
            _log.warning("tenant_not_readmitted", tenant=tenant.name, reason=error.message)
            return False
        return True

    async def _expect(self, held: Iterable[Held]) -> set[int]:
        """Tell a new arbiter what processes held under the one before."""
        expected = set()
        for one in held:
            if one.device_uuid not in self.devices:
                continue
            try:
                answer = await self._link.client.request(
                    Msg(
                        op=Op.EXPECT,
                        tenant=one.tenant_id,
                        pid=one.pid,
                        dev=self.number_of(one.device_uuid),
                        amount_bytes=one.leased_bytes,
                        overhead_bytes=one.overhead_bytes,
                        a=int(one.most_bytes is not None),
                        limit_bytes=one.most_bytes or 0,
                        text=one.program,
                    )
                )
            except ArbiterError as error:  # it is an older one, or will not take so many
                _log.warning("process_not_expected", pid=one.pid, reason=error.message)
            else:
                expected.add(answer.client)
        return expected

    async def _keep_sockets(self) -> None:
        """Hold every tenant's listening socket, also those made under a harpd before us.

        So the tenants of other users come back as well if the arbiter ends: in their folders nobody
        but them and root could bind another.
        """
        for tenant_id, fd in (await self._link.client.sockets()).items():
            if tenant_id in self._listening or tenant_id not in self.tenants:
                os.close(fd)
            else:
                self._listening[tenant_id] = fd

    def _lose(self, tenant: Tenant) -> None:
        _log.warning("tenant_lost", tenant=tenant.name, grant_dir=tenant.grant_dir)
        self._forget(tenant.tenant_id)

    async def _suspend_again(self, tenant: Tenant) -> None:
        """A new arbiter must not count what lies on the host when its clients say they hold it."""
        for phase in (1, 2):
            await self._link.client.request(
                Msg(op=Op.SUSPEND, tenant=tenant.tenant_id, dev=ALL_DEVICES, a=phase)
            )

    def _forget(self, tenant_id: int) -> None:
        self._store.remove(tenant_id)
        fd = self._listening.pop(tenant_id, None)
        if fd is not None:
            os.close(fd)


def _known(tenant: Tenant) -> Msg:
    return Msg(op=Op.ADD_TENANT, tenant=tenant.tenant_id, uid=tenant.uid, text=tenant.name)


def _busy(device: Device, error: ArbiterRefused) -> ArbiterError | DeviceBusy:
    holder = error.answer
    if not holder.pid and not holder.uid:
        return error
    where = holder.text or "another run folder"
    return DeviceBusy(
        f"GPU {device.index} ({device.uuid}) is held by the arbiter {holder.pid} of uid"
        f" {holder.uid} in {where}",
        f"join it with HARP_RUN={where}, or end it there with `harp daemon --stop --all`",
    )


def _from_arbiter(found: ArbiterTenant) -> Tenant:
    return Tenant(
        tenant_id=found.tenant_id,
        name=found.name,
        uid=found.uid,
        root_pid=0,
        root_start=0,
        grant_dir="",
        # None: harpd ended before the first grant, or the device is gone. It ends with its clients.
        device_uuids=found.device_uuids or ("",),
        limits=Limits(
            found.mem_bytes,
            found.share_ppm,
            found.limit_ppm,
            TenantClass(found.class_value),
            host_bytes=found.host_bytes,
            oversubscribe=found.oversubscribe,
        ),
        policy=Policy.WARN,
        created_s=time.time(),
    )


def _sweep(tenant: Tenant) -> None:
    """Remove the grant folder if it is ours to remove; else its owner's next `harp run` does."""
    if tenant.uid != os.geteuid() or not tenant.grant_dir:
        return
    folder = Path(tenant.grant_dir)
    for name in ("arbiter.sock", "shim.log"):
        try:
            (folder / name).unlink(missing_ok=True)
        except OSError:
            return
    try:
        folder.rmdir()
    except OSError:
        _log.debug("grant_folder_left", path=str(folder))
