# SPDX-License-Identifier: Apache-2.0
"""What the arbiter is told of devices and tenants; their sockets and pages, kept for the next.

A tenant's socket comes last: clients wait in its backlog, and must find the grant when they come.
"""

from __future__ import annotations

import os
import time
from collections.abc import Container, Iterable
from pathlib import Path

import structlog

from harp.daemon.held import Held
from harp.daemon.link import ArbiterLink, deaf_socket, listening_socket
from harp.daemon.picture import ArbiterTenant, Picture, parse
from harp.errors import ArbiterError, DeviceBusy
from harp.lease_admin import ArbiterRefused
from harp.lease_wire import (
    ALL_DEVICES,
    ANY_UID,
    GRANT_NO_GANG,
    GRANT_OVERSUBSCRIBE,
    PAGES_SINCE,
    Msg,
    Op,
)
from harp.model import Device, Limits, Policy, Tenant, TenantClass, uuid_bytes
from harp.profile import Page

__all__ = ["Arbiter", "as_tenant"]

_log = structlog.get_logger(__name__)


class Arbiter:
    """The arbiter that runs, whichever it is."""

    def __init__(self, link: ArbiterLink, run_dir: Path) -> None:
        self._link = link
        self._run_dir = run_dir
        #: {uuid: device}, in index order
        self.devices: dict[str, Device] = {}
        #: {the arbiter's number: uuid}
        self._uuid_of: dict[int, str] = {}
        #: {tenant_id: listening socket}; a new harpd has none, the arbiter keeps its own
        self._listening: dict[int, int] = {}
        #: {tenant_id: what its kernels' totals are in, where no folder is for both it and us}
        self.pages: dict[int, Page] = {}

    def close(self) -> None:
        """Drop the listening sockets and pages; the arbiter's own stay open."""
        for fd in self._listening.values():
            os.close(fd)
        self._listening.clear()
        self.pages.clear()

    def number_of(self, uuid: str) -> int:
        """The arbiter's number of a device."""
        return next(n for n, known in self._uuid_of.items() if known == uuid)

    async def look(self) -> Picture:
        """Take a new picture of it."""
        return parse(await self._link.client.snapshot(), self._uuid_of)

    async def last_look(self, tenants: Container[int]) -> Picture:
        """The last picture of one that ends with it, for the next one to go on from.

        Raises:
            ArbiterError: it does not end: see ArbiterLink.hand_over.
        """
        await self.keep_sockets(tenants)
        return parse(await self._link.hand_over(), self._uuid_of)

    async def announce(self, devices: Iterable[Device]) -> None:
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

    async def add(self, name: str, uid: int, listening: int, page: Page | None) -> int:
        """A new tenant with its socket; returns its id. `listening` stays the caller's."""
        message = Msg(op=Op.ADD_TENANT, uid=uid, text=name)
        return (await self._ask_with(message, listening, page)).tenant

    def page_for(self, uid: int, *, held: bool) -> Page | None:
        """A page for a tenant whose clients are of this uid, as the arbiter is told it.

        None: it has a folder that it can write and we can read; or there is none to be had, and
        its kernels are told by nobody.
        """
        if not held and uid != ANY_UID and os.geteuid() in (0, uid):
            return None
        if self._link.client.version < PAGES_SINCE:
            return None
        try:
            return Page.make()
        except OSError as error:
            _log.warning("page_not_made", uid=uid, reason=str(error), effect="no totals by kernel")
            return None

    async def _ask_with(self, message: Msg, listening: int, page: Page | None) -> Msg:
        client = self._link.client
        fds = [listening]
        if page is not None and client.version >= PAGES_SINCE:
            fds.append(page.fd)
        return await client.request(message, fds)

    def keep(self, tenant_id: int, listening: int, page: Page | None) -> None:
        """Own a tenant's socket and page from now on."""
        self._listening[tenant_id] = listening
        if page is not None:
            self.pages[tenant_id] = page

    async def remove(self, tenant_id: int) -> None:
        """A tenant is none any more; its clients, if any, are disconnected."""
        await self._link.client.request(Msg(op=Op.DEL_TENANT, tenant=tenant_id))

    def forget(self, tenant_id: int) -> None:
        """Drop a tenant's socket; its page is dropped by who has read it last."""
        fd = self._listening.pop(tenant_id, None)
        if fd is not None:
            os.close(fd)

    async def grant(self, tenant: Tenant) -> None:
        """Tell the arbiter a tenant's limits, on each of its devices that is here."""
        limits = tenant.limits
        for uuid in tenant.device_uuids:
            if uuid not in self.devices:
                _log.warning("device_of_tenant_gone", tenant=tenant.name, device=uuid)
                continue
            answer = await self._link.client.request(
                Msg(
                    op=Op.SET_TENANT,
                    tenant=tenant.tenant_id,
                    dev=self.number_of(uuid),
                    limit_bytes=limits.mem_bytes,
                    free_bytes=limits.host_bytes,
                    overhead_bytes=limits.context_bytes,
                    a=(0 if limits.gang else GRANT_NO_GANG)
                    | (GRANT_OVERSUBSCRIBE if limits.oversubscribe else 0),
                    b=limits.share_ppm,
                    c=limits.limit_ppm,
                    d=limits.tenant_class.value,
                )
            )
            if answer.overhead_bytes != limits.context_bytes:
                _log.warning(
                    "contexts_not_counted",
                    tenant=tenant.name,
                    reason="the arbiter is of a version that charges contexts to the device alone",
                    hint="harp daemon --upgrade",
                )

    async def grant_again(self, tenant: Tenant) -> None:
        """The same for a tenant that the arbiter may know; a refusal is no reason to end."""
        try:
            await self.grant(tenant)
        except ArbiterRefused as error:
            _log.warning("tenant_not_granted_again", tenant=tenant.name, reason=error.message)

    async def introduce(self, tenant: Tenant) -> bool:
        """Tell a new arbiter of a tenant it never saw; its clients are not let in yet.

        They wait in the socket's backlog already. They must find the grant when they come, or what
        they hold would not be taken back: so the socket comes last.
        """
        if not any(uuid in self.devices for uuid in tenant.device_uuids):
            return False
        if tenant.tenant_id not in self._listening:
            path = Path(tenant.grant_dir) / "arbiter.sock"
            sock = listening_socket(path, tenant.uid, for_all=tenant.any_uid)
            if sock is None:
                return False
            self._listening[tenant.tenant_id] = sock.detach()
        try:
            with deaf_socket(self._run_dir) as deaf:
                await self._link.client.request(_known(tenant), [deaf.fileno()])
            await self.grant(tenant)
            if tenant.suspended:
                await self._suspend_again(tenant)
        except ArbiterRefused as error:
            _log.warning("tenant_not_readmitted", tenant=tenant.name, reason=error.message)
            return False
        return True

    async def let_in(self, tenant: Tenant) -> bool:
        """Its clients may come now."""
        number = tenant.tenant_id
        if number not in self.pages and (page := self.page_for(_uid(tenant), held=tenant.held)):
            self.pages[number] = page  # it was made by a harpd, or under an arbiter, without
        try:
            await self._ask_with(_known(tenant), self._listening[number], self.pages.get(number))
        except ArbiterRefused as error:
            _log.warning("tenant_not_readmitted", tenant=tenant.name, reason=error.message)
            return False
        return True

    async def expect(self, held: Iterable[Held]) -> set[int]:
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

    async def keep_sockets(self, tenants: Container[int]) -> None:
        """Hold every tenant's listening socket and page, also those made under a harpd before us.

        So the tenants of other users come back as well if the arbiter ends: in their folders nobody
        but them and root could bind another.
        """
        sockets, pages = await self._link.client.sockets()
        for tenant_id, fd in sockets.items():
            if tenant_id in self._listening or tenant_id not in tenants:
                os.close(fd)
            else:
                self._listening[tenant_id] = fd
        for tenant_id, fd in pages.items():
            if tenant_id in self.pages or tenant_id not in tenants:
                os.close(fd)
                continue
            try:
                self.pages[tenant_id] = Page(fd)
            except OSError as error:
                _log.warning("page_not_kept", tenant_id=tenant_id, reason=str(error))

    async def _suspend_again(self, tenant: Tenant) -> None:
        """A new arbiter must not count what lies on the host when its clients say they hold it."""
        try:
            self._link.client.check(Op.SUSPEND)
        except (
            ArbiterError
        ) as error:  # it counts too much; the tenant can come back after an upgrade
            _log.warning("tenant_not_suspended_again", tenant=tenant.name, reason=error.message)
            return
        for phase in (1, 2):  # closed, away
            await self._link.client.request(
                Msg(op=Op.SUSPEND, tenant=tenant.tenant_id, dev=ALL_DEVICES, a=phase)
            )


def _uid(tenant: Tenant) -> int:
    return ANY_UID if tenant.any_uid else tenant.uid


def _known(tenant: Tenant) -> Msg:
    return Msg(op=Op.ADD_TENANT, tenant=tenant.tenant_id, uid=_uid(tenant), text=tenant.name)


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


def as_tenant(found: ArbiterTenant) -> Tenant:
    """A tenant whose row the store lost."""
    uid = 0 if found.uid == ANY_UID else found.uid
    return Tenant(
        tenant_id=found.tenant_id,
        name=found.name,
        uid=uid,
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
            context_bytes=found.context_bytes,
        ),
        policy=Policy.WARN,
        created_s=time.time(),
        # Root may have made it for a lease, whose user must not become its owner by our loss. A
        # plain user's own is root's to end then, and ends with its clients.
        for_root=os.geteuid() == 0 and uid != 0,
        any_uid=found.uid == ANY_UID,
    )
