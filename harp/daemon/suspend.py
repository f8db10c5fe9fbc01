# SPDX-License-Identifier: Apache-2.0
"""`harp suspend` and `harp resume`: all of a tenant's device memory to the host, and back.

(1) The store says that a tenant is to be suspended before the first process is locked, and that it
    runs after the last is unlocked. Whoever finds that word after a crash drives to suspended; from
    there a resume is tried again.
(2) The arbiter reserves before the driver restores. On an H200 (driver 580) a restore that finds no
    room can be tried again; with others it spoils the process for good (cuda-checkpoint#44).
(3) What fails is undone in the opposite order. A process that ends on the way is none any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections.abc import AsyncIterator, Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import structlog

from harp.daemon.book import Book
from harp.daemon.checkpoint import (
    STOPPED,
    Code,
    Driver,
    NoCheckpoints,
    ProcessState,
    is_stopped,
    state_after,
    state_of,
)
from harp.daemon.evaders import belongs
from harp.daemon.link import ArbiterLink
from harp.daemon.owners import check_owner
from harp.errors import ArbiterError, CheckpointFailed, HarpError, NoDevice, QuotaExceeded
from harp.grants import select
from harp.lease_admin import ArbiterRefused
from harp.lease_wire import ALL_DEVICES, Msg, Op
from harp.model import ClientState, Device, Residency, ResidencyState, Tenant
from harp.procs import all_procs
from harp.units import format_size

__all__ = ["Suspender"]

_log = structlog.get_logger(__name__)
_CLOSE, _AWAY, _EVICT = 1, 2, 3
_RESERVE, _BACK, _GIVE_UP = 1, 2, 3
#: how long a return may wait for slack of others and memory of the dead; as a lease (lease.h)
_ROOM_S = 5.0
_ROOM_PERIOD_S = 0.05
#: how long an eviction may take beyond the work that is to end first
_EVICT_S = 60.0
#: clients need so long to come back to another arbiter; who has not is not seen
_RETURN_S = 3.0
#: processes may begin while others are put away; the gates are closed, so this ends
_ROUNDS = 4


class Suspender:
    """Suspends and resumes, one tenant at a time each."""

    def __init__(
        self,
        book: Book,
        link: ArbiterLink,
        driver: Callable[[], AbstractAsyncContextManager[Driver]],
    ) -> None:
        self._book = book
        self._link = link
        self._driver = driver
        #: {tenant_id: held while it is being moved}
        self._locks: dict[int, asyncio.Lock] = {}

    async def suspend(self, name: str, uid: int, timeout_s: float) -> Tenant:
        """Take all of a tenant's memory off its devices.

        Args:
            name: which tenant.
            uid: who asks.
            timeout_s: how long each of its processes may take to end what it has submitted.

        Raises:
            UnknownTenant, NotOwner, ArbiterError.
            CheckpointFailed: the driver cannot; the tenant runs as before, unless it says
                otherwise.
        """
        async with self._moving(name, uid) as tenant:
            await self._suspend(tenant, timeout_s)
            return self._book.tenants[tenant.tenant_id]

    async def resume(self, name: str, uid: int, gpu: str) -> Tenant:
        """Bring it back, to the devices that `gpu` names or to those where it was.

        Raises:
            UnknownTenant, NotOwner, NoDevice, ArbiterError.
            QuotaExceeded: no room; it stays suspended.
            CheckpointFailed: the driver cannot; it stays suspended, unless it says otherwise.
        """
        async with self._moving(name, uid) as tenant:
            if not tenant.suspended:
                return tenant
            moves = self._moves(tenant, gpu)
            async with self._driver() as driver:
                await self._bring_back(tenant, driver, moves)
            _log.info("tenant_resumed", tenant=name, gpus=[new.index for new in moves.values()])
            return self._book.tenants[tenant.tenant_id]

    async def keep(self, replaced: asyncio.Event) -> None:
        """After a restart of harpd, and of the arbiter: what was on its way is put away, all of it.

        Args:
            replaced: set when there is another arbiter.
        """
        while True:
            replaced.clear()
            await asyncio.sleep(_RETURN_S)
            await self.settle()
            await replaced.wait()

    async def settle(self) -> None:
        """Put away what is on its way, and say of what is away in which manner."""
        for found in [t for t in self._book.tenants.values() if t.suspended]:
            try:
                async with self._moving(found.name, 0) as tenant:
                    if tenant.suspended:  # its owner's resume may have come first
                        await self._suspend(tenant, _ROOM_S)
            except (HarpError, KeyError) as error:
                _log.warning("tenant_not_settled", tenant=found.name, reason=str(error))

    @contextlib.asynccontextmanager
    async def _moving(self, name: str, uid: int) -> AsyncIterator[Tenant]:
        tenant = self._book.by_name(name)
        check_owner(tenant, uid)
        async with self._locks.setdefault(tenant.tenant_id, asyncio.Lock()):
            yield self._book.by_name(name)

    async def _suspend(self, tenant: Tenant, timeout_s: float) -> None:
        """With the tenant's lock."""
        began = time.monotonic()
        async with self._driver() as driver:
            self._link.client.check(Op.SUSPEND)
            with self._book.leaving(tenant):
                try:
                    pids = await self._drive(tenant, driver, timeout_s)
                except NoCheckpoints:
                    if not tenant.limits.oversubscribe:
                        raise
                    pids = await self._evict(tenant, timeout_s)
        took_s = time.monotonic() - began
        _log.info("tenant_suspended", tenant=tenant.name, pids=pids, took_s=took_s)

    async def _pids(self, tenant: Tenant) -> list[int]:
        picture = await self._book.look()
        clients = picture.clients_of(tenant.tenant_id)
        return sorted({c.pid for c in clients if c.state is ClientState.LIVE})

    async def _ask(self, op: Op, tenant: Tenant, *, dev: int, a: int, b: int = 0) -> None:
        await self._link.client.request(Msg(op=op, tenant=tenant.tenant_id, dev=dev, a=a, b=b))

    async def _drive(self, tenant: Tenant, driver: Driver, timeout_s: float) -> list[int]:
        """Everything of it is put away; what was so already stays so."""
        fresh = not tenant.suspended
        states = {pid: await state_of(driver, pid) for pid in await self._pids(tenant)}
        await self._book.mark(tenant, suspended=True)
        try:
            await self._ask(Op.SUSPEND, tenant, dev=ALL_DEVICES, a=_CLOSE)
            for _ in range(_ROUNDS):
                await self._put_away(tenant, driver, states, timeout_s)
                known = set(states)
                for pid in await self._pids(tenant):
                    if states.get(pid) is None:  # new, or without CUDA until now
                        states[pid] = await state_of(driver, pid)
                if all(states[pid] is None for pid in set(states) - known):
                    break
            await self._ask(Op.SUSPEND, tenant, dev=ALL_DEVICES, a=_AWAY)
        except BaseException:
            if fresh:
                await self._undo_suspend(tenant, driver, states)
            raise
        return [pid for pid, state in states.items() if state is ProcessState.CHECKPOINTED]

    async def _evict(self, tenant: Tenant, timeout_s: float) -> list[int]:
        """Its own memory leaves, its contexts stay: an arbiter's work, without the driver."""
        end = time.monotonic() + timeout_s + _EVICT_S
        fresh = not tenant.suspended
        await self._book.mark(tenant, suspended=True)
        try:
            for phase in (_CLOSE, _EVICT):
                await self._ask(Op.SUSPEND, tenant, dev=ALL_DEVICES, a=phase)
            while stays := await self._stays(tenant):
                _check_leaves(tenant, stays, end)
                await asyncio.sleep(_ROOM_PERIOD_S)
        except BaseException:
            if fresh:
                await self._open_again(tenant)
            raise
        return await self._pids(tenant)

    async def _stays(self, tenant: Tenant) -> Residency | None:
        """Where its memory still is on a device; None: nowhere."""
        picture = await self._book.look()
        for uuid in tenant.device_uuids:
            use = picture.uses.get((tenant.tenant_id, uuid))
            found = use.residency if use else None
            if not found or not found.swap_bytes:
                continue
            if found.stuck or found.state is not ResidencyState.SUSPENDED:
                return found
        return None

    async def _put_away(
        self,
        tenant: Tenant,
        driver: Driver,
        states: dict[int, ProcessState | None],
        timeout_s: float,
    ) -> None:
        """Lock all, then checkpoint all: processes of one program wait for each other's work."""
        for pid in [p for p, s in states.items() if s is ProcessState.RUNNING]:
            code = await driver.lock(pid, timeout_s)
            if code == Code.NOT_READY:
                raise CheckpointFailed(
                    f"the work of process {pid} did not end within {timeout_s:g} s; tenant"
                    f" {tenant.name} goes on",
                    "give it longer (--timeout), or ask again when it has less to do",
                )
            states[pid] = state_after(pid, code, "lock", ProcessState.LOCKED)
        for pid in [p for p, s in states.items() if s is ProcessState.LOCKED]:
            code = await driver.checkpoint(pid)
            states[pid] = state_after(pid, code, "checkpoint", ProcessState.CHECKPOINTED)

    async def _undo_suspend(
        self, tenant: Tenant, driver: Driver, states: dict[int, ProcessState | None]
    ) -> None:
        """Its memory still counts on its devices, so there is room for what comes back.

        A process that does not come back leaves the tenant suspended: a resume tries again.
        """
        for pid in list(states):
            with contextlib.suppress(HarpError):
                states[pid] = await state_of(driver, pid)
                if states[pid] is ProcessState.CHECKPOINTED:
                    states[pid] = state_after(
                        pid, await driver.restore(pid, ()), "restore", ProcessState.LOCKED
                    )
                if states[pid] is ProcessState.LOCKED:
                    states[pid] = state_after(
                        pid, await driver.unlock(pid), "unlock", ProcessState.RUNNING
                    )
        left = [p for p, s in states.items() if s not in (None, ProcessState.RUNNING)]
        if left:
            _log.warning("suspend_not_undone", tenant=tenant.name, pids=left)
        else:
            await self._open_again(tenant)

    async def _open_again(self, tenant: Tenant) -> None:
        try:
            for uuid in tenant.device_uuids:
                dev = self._book.number_of(uuid)
                await self._ask(Op.RESUME, tenant, dev=dev, b=dev, a=_BACK)
        except ArbiterError as error:  # the next arbiter is told that it is suspended: see keep()
            _log.warning("suspend_not_undone", tenant=tenant.name, reason=str(error))
            return
        await self._book.mark(tenant, suspended=False)
        _log.warning("suspend_undone", tenant=tenant.name)

    def _moves(self, tenant: Tenant, gpu: str) -> dict[str, Device]:
        """{UUID where it was: device where it is to be}, in the order it sees them."""
        here = self._book.devices
        old = tenant.device_uuids
        if gone := [uuid for uuid in old if uuid not in here]:
            raise NoDevice(f"device {gone[0]} of tenant {tenant.name} is gone", "end the tenant")
        if not gpu:
            return {uuid: here[uuid] for uuid in old}
        chosen = select(list(here.values()), gpu)
        if len(chosen) != len(old):
            raise NoDevice(
                f"--gpu {gpu} names {len(chosen)} GPUs, tenant {tenant.name} has {len(old)}",
                "name as many, in the order it sees them",
            )
        for uuid, device in zip(old, chosen, strict=True):
            if device.name != here[uuid].name:
                raise NoDevice(
                    f"GPU {device.index} is a {device.name}, not a {here[uuid].name}: a driver"
                    " restores on the same model alone",
                    "harp devices lists them",
                )
            if device.uuid != uuid and device.uuid in old:
                raise NoDevice(
                    f"GPU {device.index} is the tenant's already",
                    "name others; its own GPUs cannot change places",
                )
        return dict(zip(old, chosen, strict=True))

    async def _bring_back(
        self, tenant: Tenant, driver: Driver, moves: Mapping[str, Device]
    ) -> None:
        book = self._book
        goals = replace(tenant, device_uuids=tuple(d.uuid for d in moves.values()))
        numbers = [(book.number_of(old), book.number_of(d.uuid)) for old, d in moves.items()]
        async with book.returning(goals):
            try:
                stopped = await self._stopped(tenant, driver)
            except NoCheckpoints:
                if goals.device_uuids != tenant.device_uuids:
                    raise
                stopped = {}  # evicted: it comes back as its turn comes
            restored: list[int] = []
            try:
                for dev, to in numbers:
                    await self._reserve(tenant, dev, to)
                moved = goals.device_uuids != tenant.device_uuids
                pairs = [(old, d.uuid) for old, d in moves.items()] if moved else []
                for pid in [p for p, s in stopped.items() if s is ProcessState.CHECKPOINTED]:
                    code = await driver.restore(pid, pairs)
                    if state_after(pid, code, "restore", ProcessState.LOCKED) is not None:
                        restored.append(pid)
            except BaseException:
                for pid in reversed(restored):
                    with contextlib.suppress(HarpError):
                        await driver.checkpoint(pid)
                with contextlib.suppress(HarpError):
                    for dev, to in numbers:
                        await self._ask(Op.RESUME, tenant, dev=dev, b=to, a=_GIVE_UP)
                _log.warning("resume_undone", tenant=tenant.name)
                raise
            # Leases first: a program that goes on asks for more where it is now.
            for dev, to in numbers:
                await self._ask(Op.RESUME, tenant, dev=dev, b=to, a=_BACK)
            locked = [p for p, s in stopped.items() if p in restored or s is ProcessState.LOCKED]
            failed = [pid for pid in locked if await driver.unlock(pid) not in _LIVES]
            await book.mark(goals, suspended=False)
        if failed:
            raise CheckpointFailed(
                f"tenant {tenant.name} is back, but the driver does not unlock {failed}",
                "end these processes",
            )

    async def _stopped(self, tenant: Tenant, driver: Driver) -> dict[int, ProcessState]:
        """Its processes that are put away, or locked on the way there; by pid.

        Also those that a new arbiter has not heard of yet.
        """
        end = time.monotonic() + _ROOM_S
        roots = [t.root_pid for t in self._book.tenants.values()]
        pids = _family(tenant.root_pid, {*roots} - {tenant.root_pid})
        if roots.count(tenant.root_pid) > 1:  # as leases have: who is whose, ancestry does not say
            pids = [pid for pid in pids if belongs(pid, tenant)]
        family = {pid for pid in pids if await is_stopped(driver, pid)}
        while True:
            clients = await self._pids(tenant)
            if family <= set(clients) or time.monotonic() > end:
                break
            await asyncio.sleep(_ROOM_PERIOD_S)
        states = {pid: await state_of(driver, pid) for pid in sorted(family.union(clients))}
        return {pid: state for pid, state in states.items() if state in STOPPED}

    async def _reserve(self, tenant: Tenant, dev: int, to: int) -> None:
        end = time.monotonic() + _ROOM_S
        while True:
            try:
                await self._ask(Op.RESUME, tenant, dev=dev, b=to, a=_RESERVE)
            except ArbiterRefused as error:
                if error.answer.a == errno.EAGAIN and time.monotonic() < end:
                    await asyncio.sleep(_ROOM_PERIOD_S)
                    continue
                if error.answer.a not in (errno.EAGAIN, errno.ENOMEM):
                    raise
                raise QuotaExceeded(
                    f"tenant {tenant.name} stays suspended: {error.answer.text}",
                    "end or suspend another tenant (harp ps), or --gpu another one",
                ) from error
            else:
                return


#: of an unlock: done, or the process is gone
_LIVES = (Code.SUCCESS, Code.NOT_INITIALIZED)


def _check_leaves(tenant: Tenant, stays: Residency, end: float) -> None:
    if stays.stuck or time.monotonic() > end:
        raise CheckpointFailed(
            f"{format_size(stays.on_device_bytes)} of tenant {tenant.name} stays on its device",
            "shim.log in its grant folder says why; the tenant goes on",
        )


def _family(root_pid: int, others: AbstractSet[int]) -> list[int]:
    """It and its descendants; a tenant that was started inside belongs to itself."""
    procs = all_procs()
    found = [root_pid] if root_pid in procs else []
    for pid in found:  # grows on the way
        found += [one.pid for one in procs.values() if one.ppid == pid and one.pid not in others]
    return found
