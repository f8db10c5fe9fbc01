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
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Protocol

import structlog

from harp.daemon.book import Book
from harp.daemon.checkpoint import Code, ProcessState
from harp.daemon.link import ArbiterLink
from harp.errors import CheckpointFailed, HarpError, NoDevice, QuotaExceeded
from harp.grants import select
from harp.lease_wire import ALL_DEVICES, ArbiterRefused, Msg, Op
from harp.model import ClientState, Device, Residency, ResidencyState, Tenant
from harp.procs import all_procs, read
from harp.units import format_size

__all__ = ["Driver", "Suspender"]

_log = structlog.get_logger(__name__)
_CLOSE, _AWAY, _EVICT = 1, 2, 3
_RESERVE, _BACK, _GIVE_UP = 1, 2, 3
#: how long a return may wait for slack of others and memory of the dead; as a lease (lease.h)
_ROOM_S = 5.0
_ROOM_PERIOD_S = 0.05
#: how long an eviction may take beyond the work that is to end first
_EVICT_S = 60.0
#: processes may begin while others are put away; the gates are closed, so this ends
_ROUNDS = 4
_NO_CHECKPOINTS = (
    "driver 570 (CUDA 12.8) or newer has them; with an older one run the tenant with"
    " --oversubscribe: its memory then leaves the device when others need it"
)


class _NoCheckpoints(CheckpointFailed):
    """The driver has no such calls."""


class Driver(Protocol):
    """What takes a process's memory off the device and brings it back; results are CUresults."""

    async def lock(self, pid: int, timeout_s: float) -> int:
        """RUNNING to LOCKED."""

    async def checkpoint(self, pid: int) -> int:
        """LOCKED to CHECKPOINTED."""

    async def restore(self, pid: int, pairs: Sequence[tuple[str, str]]) -> int:
        """CHECKPOINTED to LOCKED."""

    async def unlock(self, pid: int) -> int:
        """LOCKED to RUNNING."""

    async def state(self, pid: int) -> tuple[int, int]:
        """(result, state)."""


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
        async with self._moving(name, uid) as tenant, self._driver() as driver:
            began = time.monotonic()
            try:
                pids = await self._drive(tenant, driver, timeout_s)
            except _NoCheckpoints:
                if not tenant.limits.oversubscribe:
                    raise
                pids = await self._evict(tenant, timeout_s)
            _log.info("tenant_suspended", tenant=name, pids=pids, took_s=time.monotonic() - began)
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

    async def settle(self) -> None:
        """After a restart: what was on its way is put away, all of it."""
        for tenant in [t for t in self._book.tenants.values() if t.suspended]:
            try:
                await self.suspend(tenant.name, tenant.uid, _ROOM_S)
            except (HarpError, KeyError) as error:
                _log.warning("tenant_not_settled", tenant=tenant.name, reason=str(error))

    @contextlib.asynccontextmanager
    async def _moving(self, name: str, uid: int) -> AsyncIterator[Tenant]:
        tenant = self._book.by_name(name)
        self._book.check_owner(tenant, uid)
        async with self._locks.setdefault(tenant.tenant_id, asyncio.Lock()):
            yield self._book.by_name(name)

    async def _pids(self, tenant: Tenant) -> list[int]:
        picture = await self._book.look()
        clients = picture.clients_of(tenant.tenant_id)
        return sorted({c.pid for c in clients if c.state is ClientState.LIVE})

    async def _ask(self, op: Op, tenant: Tenant, *, dev: int, a: int, b: int = 0) -> None:
        await self._link.client.request(Msg(op=op, tenant=tenant.tenant_id, dev=dev, a=a, b=b))

    async def _drive(self, tenant: Tenant, driver: Driver, timeout_s: float) -> list[int]:
        """Everything of it is put away; what was so already stays so."""
        fresh = not tenant.suspended
        states = {pid: await _state(driver, pid) for pid in await self._pids(tenant)}
        self._book.mark(tenant, suspended=True)
        try:
            await self._ask(Op.SUSPEND, tenant, dev=ALL_DEVICES, a=_CLOSE)
            for _ in range(_ROUNDS):
                await self._put_away(tenant, driver, states, timeout_s)
                known = set(states)
                for pid in await self._pids(tenant):
                    if states.get(pid) is None:  # new, or without CUDA until now
                        states[pid] = await _state(driver, pid)
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
        self._book.mark(tenant, suspended=True)
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
            states[pid] = _after(pid, code, "lock", ProcessState.LOCKED)
        for pid in [p for p, s in states.items() if s is ProcessState.LOCKED]:
            code = await driver.checkpoint(pid)
            states[pid] = _after(pid, code, "checkpoint", ProcessState.CHECKPOINTED)

    async def _undo_suspend(
        self, tenant: Tenant, driver: Driver, states: dict[int, ProcessState | None]
    ) -> None:
        """Its memory still counts on its devices, so there is room for what comes back."""
        for pid in list(states):
            with contextlib.suppress(HarpError):
                states[pid] = await _state(driver, pid)
                if states[pid] is ProcessState.CHECKPOINTED:
                    states[pid] = _after(
                        pid, await driver.restore(pid, ()), "restore", ProcessState.LOCKED
                    )
                if states[pid] is ProcessState.LOCKED:
                    await driver.unlock(pid)
        await self._open_again(tenant)

    async def _open_again(self, tenant: Tenant) -> None:
        with contextlib.suppress(HarpError):
            for uuid in tenant.device_uuids:
                dev = self._book.number_of(uuid)
                await self._ask(Op.RESUME, tenant, dev=dev, b=dev, a=_BACK)
        self._book.mark(tenant, suspended=False)
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
        await book.admit_return(goals)
        try:
            pids = await self._suspended_pids(tenant, driver)
        except _NoCheckpoints:
            if goals.device_uuids != tenant.device_uuids:
                raise
            pids = []  # evicted: it comes back as its turn comes
        restored: list[int] = []
        try:
            for dev, to in numbers:
                await self._reserve(tenant, dev, to)
            moved = goals.device_uuids != tenant.device_uuids
            pairs = [(old, d.uuid) for old, d in moves.items()] if moved else []
            for pid in pids:
                code = await driver.restore(pid, pairs)
                if _after(pid, code, "restore", ProcessState.LOCKED) is not None:
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
        failed = [pid for pid in restored if await driver.unlock(pid) not in _LIVES]
        book.mark(goals, suspended=False)
        if failed:
            raise CheckpointFailed(
                f"tenant {tenant.name} is back, but the driver does not unlock {failed}",
                "end these processes",
            )

    async def _suspended_pids(self, tenant: Tenant, driver: Driver) -> list[int]:
        """Its processes that are put away, also those that a new arbiter has not heard of yet."""
        end = time.monotonic() + _ROOM_S
        family = [pid for pid in _family(tenant.root_pid) if await _is_away(driver, pid)]
        while True:
            clients = await self._pids(tenant)
            if set(family) <= set(clients) or time.monotonic() > end:
                break
            await asyncio.sleep(_ROOM_PERIOD_S)
        found = {p for p in clients if await _state(driver, p) is ProcessState.CHECKPOINTED}
        return sorted(found.union(family))

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


async def _state(driver: Driver, pid: int) -> ProcessState | None:
    """State of a process; None: it is gone, or has no CUDA.

    Raises:
        CheckpointFailed: it cannot be asked, or is beyond help.
    """
    code, state = await driver.state(pid)
    if code == Code.NOT_SUPPORTED:
        raise _NoCheckpoints("this driver has no checkpoints of processes", _NO_CHECKPOINTS)
    if code in (Code.NOT_INITIALIZED, Code.INVALID_VALUE) or (code and _is_gone(pid)):
        return None
    if code == Code.OPERATING_SYSTEM:
        raise CheckpointFailed(
            f"harpd may not look into process {pid} (CUDA error {code})",
            "only a harpd of the same user, or root's, can suspend it",
        )
    if code or state == ProcessState.FAILED:
        raise CheckpointFailed(
            f"process {pid} cannot be put away or brought back (CUDA error {code}, state {state})",
            "end it",
        )
    return ProcessState(state)


def _after(pid: int, code: int, what: str, state: ProcessState) -> ProcessState | None:
    """The state after a call; None: it ended meanwhile."""
    if code == Code.SUCCESS:
        return state
    if _is_gone(pid) or (code == Code.NOT_INITIALIZED and what != "restore"):
        return None
    hint = "see `harp ps`; the process goes on"
    if what == "checkpoint" and code == Code.NOT_SUPPORTED:
        raise CheckpointFailed(
            f"process {pid} has memory that a driver does not put away (CUDA error {code}): managed"
            " memory, or memory that it shares with other processes",
            "the tenant goes on; one of --oversubscribe leaves the device when others need it",
        )
    if what == "checkpoint":
        hint = "the host needs room for what is on the GPUs; `harp ps` tells what goes on"
    elif what == "restore":
        hint = "it stays suspended; resume it again when there is more room"
    raise CheckpointFailed(f"the driver answered {code} to the {what} of process {pid}", hint)


def _check_leaves(tenant: Tenant, stays: Residency, end: float) -> None:
    if stays.stuck or time.monotonic() > end:
        raise CheckpointFailed(
            f"{format_size(stays.on_device_bytes)} of tenant {tenant.name} stays on its device",
            "shim.log in its grant folder says why; the tenant goes on",
        )


def _family(root_pid: int) -> list[int]:
    procs = all_procs()
    found = [root_pid] if root_pid in procs else []
    for pid in found:  # grows on the way
        found += [one.pid for one in procs.values() if one.ppid == pid]
    return found


async def _is_away(driver: Driver, pid: int) -> bool:
    code, state = await driver.state(pid)
    return code == Code.SUCCESS and state == ProcessState.CHECKPOINTED


def _is_gone(pid: int) -> bool:
    found = read(pid)
    return found is None or found.zombie
