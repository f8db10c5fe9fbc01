# SPDX-License-Identifier: Apache-2.0
"""Leases as tenants of this node's harpd: what is promised elsewhere and here is in one ledger.

Each lease is one tenant, whose root process is this one: should it die, harpd ends them all. Their
memory, limits and admission are harpd's; nothing is booked here.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import structlog

from harp.api.v1 import control_pb2 as pb
from harp.client import Client
from harp.errors import DaemonError, DaemonUnreachable, HarpError, UnknownTenant
from harp.inject import FROM_DAEMON, Backing, driver_backing, tenant_env
from harp.model import Limits, TenantClass
from harp.remote.homes import Home, Homes
from harp.remote.room import Place, Taken, Wish

__all__ = ["Harpd", "Tenants", "tenant_name"]

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
_LOOK_S = 1.0
#: longer than harp.client waits for an answer
_UNSURE_S = 30.0
_NAME_CHARS = 48
#: what a worker gets of our own environment; the rest is nobody's elsewhere
_PASSED = ("HOME", "LANG", "LC_ALL", "PATH", "TMPDIR", "TZ", "XDG_CACHE_HOME")
_CLASSES = {
    TenantClass.STANDARD: pb.TENANT_CLASS_STANDARD,
    TenantClass.LATENCY: pb.TENANT_CLASS_LATENCY,
    TenantClass.BEST_EFFORT: pb.TENANT_CLASS_BEST_EFFORT,
}


class Harpd:
    """harpd, asked from an event loop; one that was restarted is found again."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env
        self._client: Client | None = None

    async def ask(self, what: Callable[[Client], _T]) -> _T:
        """Ask in a thread.

        Raises:
            HarpError: as it answered; DaemonUnreachable: it may have done it all the same.
        """
        return await asyncio.to_thread(self._ask, what)

    def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _ask(self, what: Callable[[Client], _T]) -> _T:
        client = self._client
        if client is None:
            client = self._client = Client.connect(self._env)
        try:
            return what(client)
        except DaemonUnreachable:
            # A channel waits ever longer before it tries again; a new one does not.
            if self._client is client:
                self._client = None
            raise


@dataclass(slots=True)
class _Held:
    """A lease's tenant."""

    taken: Taken
    home: Home
    environment: Mapping[str, str]  #: of its workers


@dataclass(slots=True, eq=False)
class _Owed:
    """A tenant that is to be removed, and then its home."""

    home: Home
    unsure_s: float = -math.inf  #: until then it may yet come to be: who asked for it did not hear
    ended: bool = False  #: its user has no process any more
    removed: bool = False  #: harpd has it no more
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  #: who is at it


class Tenants:
    """Room of a node, as its harpd has it.

    Args:
        harpd: whose tenants they are.
        homes: their folders and users.
        shim: the folder of the libraries that workers load.
        env: our environment.
    """

    def __init__(self, harpd: Harpd, homes: Homes, shim: Path, env: Mapping[str, str]) -> None:
        self._harpd = harpd
        self._homes = homes
        self._shim = shim
        self._env = env
        #: {lease_id: its tenant}
        self._held: dict[str, _Held] = {}
        #: {name: what is to be removed}
        self._owed: dict[str, _Owed] = {}
        self.places: Sequence[Place] = ()
        #: called when there is more or less room than before
        self.changed: Callable[[], None] = lambda: None
        self._silent = False

    async def take(self, wish: Wish) -> Taken:
        """Make a tenant of a lease; see Room."""
        name = tenant_name(wish.name or wish.owner, wish.lease_id)
        with contextlib.ExitStack() as stack:
            home, sock = await _made(stack, self._homes)
            request = _request(wish, name, home)

            def make(client: Client) -> tuple[pb.GetInfoReply, pb.CreateTenantReply]:
                info = client.info()
                request.ticket = client.deposit(sock)
                return info, client.create(request)

            try:
                info, reply = await self._harpd.ask(make)
            except (DaemonError, asyncio.CancelledError):
                # It may have been made, or may yet be.
                self._owed[name] = _Owed(home, time.monotonic() + _UNSURE_S)
                raise
            except BaseException:
                self._owed[name] = _Owed(home, removed=True)
                await self._settle(name)
                raise
        try:
            environment = self._environment(home, info, reply)
        except Exception:
            self._owed[name] = _Owed(home)
            await self._settle(name)
            raise
        places = tuple(_place(d, 0.0) for d in reply.devices)
        taken = Taken(name, places, replace(wish.limits, mem_bytes=reply.tenant.mem_limit_bytes))
        self._held[wish.lease_id] = _Held(taken, home, environment)
        await self._look_soon()
        return taken

    async def give_back(self, lease_id: str) -> None:
        """Remove a lease's tenant, now or as soon as harpd answers again."""
        held = self._held.pop(lease_id, None)
        if held is None:
            return
        name = held.taken.tenant
        self._owed[name] = _Owed(held.home)
        await self._settle(name)
        await self._look_soon()

    def taken(self, lease_id: str) -> Taken | None:
        """See Room."""
        held = self._held.get(lease_id)
        return held.taken if held else None

    def names(self) -> frozenset[str]:
        """Tenants of all leases."""
        return frozenset(held.taken.tenant for held in self._held.values())

    def name_of(self, lease_id: str) -> str:
        """A lease's tenant; "": it has none any more."""
        held = self._held.get(lease_id)
        return "" if held is None else held.taken.tenant

    def environment(self, lease_id: str) -> Mapping[str, str]:
        """What makes a worker a process of the lease's tenant.

        Raises:
            DaemonError: it has none any more.
        """
        held = self._held.get(lease_id)
        if held is None:
            raise DaemonError(f"lease {lease_id} holds nothing any more", "take a new one")
        return held.environment

    async def clients(self, lease_id: str) -> dict[int, int]:
        """{pid: device memory held} of the lease's workers, as harpd sees them.

        Raises:
            DaemonError: harpd does not answer.
        """
        held = self._held.get(lease_id)
        state = await self._harpd.ask(lambda client: client.state())
        for tenant in state.tenants:
            if held is not None and tenant.name == held.taken.tenant:
                return {c.pid: c.leased_bytes for c in tenant.clients}
        return {}

    async def all_clients(self) -> dict[int, int]:
        """The same of all leases."""
        names = self.names()
        state = await self._harpd.ask(lambda client: client.state())
        ours = (tenant for tenant in state.tenants if tenant.name in names)
        return {c.pid: c.leased_bytes for tenant in ours for c in tenant.clients}

    async def look(self) -> None:
        """See what is free now.

        Raises:
            DaemonError: harpd does not answer.
        """
        state = await self._harpd.ask(lambda client: client.state())
        used: dict[str, float] = {}
        for tenant in state.tenants:
            for use in tenant.uses:
                used[use.uuid] = used.get(use.uuid, 0.0) + use.used_ratio
        before = [replace(place, used_ratio=0.0) for place in self.places]
        self.places = tuple(_place(d, min(1.0, used.get(d.uuid, 0.0))) for d in state.devices)
        if before != [replace(place, used_ratio=0.0) for place in self.places]:
            self.changed()

    async def watch(self) -> None:
        """Look again and again, and do what is owed."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_settling())  # to delete much takes its time
            while True:
                await asyncio.sleep(_LOOK_S)
                await self._look_soon()

    async def close(self) -> None:
        """Remove all that is left."""
        for held in self._held.values():
            self._owed[held.taken.tenant] = _Owed(held.home)
        self._held.clear()
        await self._settle()

    async def _look_soon(self) -> None:
        try:
            await self.look()
        except DaemonError as error:
            if not self._silent:
                _log.warning("harpd_lost", reason=error.message)
            self._silent = True
        else:
            if self._silent:
                _log.info("harpd_found")
            self._silent = False

    async def _keep_settling(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            await self._settle()

    async def _settle(self, *names: str) -> None:
        """Remove the tenants that are to be removed, or these; what cannot be done yet, later."""
        await asyncio.gather(*map(self._remove, names or tuple(self._owed)))

    async def _remove(self, name: str) -> None:
        owed = self._owed.get(name)
        if owed is None:
            return
        async with owed.lock:
            if self._owed.get(name) is not owed:
                return  # another was faster, and its user may be another lease's by now
            try:
                if not await self._removed(name, owed):
                    return
                await self._homes.remove(owed.home)
            except Exception as error:  # noqa: BLE001 - one lease's fault must not end the others
                reason = error.message if isinstance(error, HarpError) else repr(error)
                _log.warning("tenant_not_removed", tenant=name, reason=reason)
                return
            del self._owed[name]

    async def _removed(self, name: str, owed: _Owed) -> bool:
        """Whether it is gone; its processes go first: one could make a tenant of its own."""
        if not owed.ended:
            await self._homes.end(owed.home)
            owed.ended = True
        if not owed.removed:
            try:
                await self._harpd.ask(lambda client: client.remove(name))
            except UnknownTenant:
                if time.monotonic() < owed.unsure_s:
                    return False
            owed.removed = True
        return True

    def _environment(
        self, home: Home, info: pb.GetInfoReply, reply: pb.CreateTenantReply
    ) -> dict[str, str]:
        env = tenant_env(
            {name: self._env[name] for name in _PASSED if name in self._env},
            grant_dir=home.folder,
            shim=self._shim,
            backing=self._backing(info),
        )
        # The worker opens libharp by its path; a preload would be loaded into whatever it starts.
        del env["LD_PRELOAD"]
        env |= {name: reply.env[name] for name in FROM_DAEMON if name in reply.env}
        if reply.device_count > 1:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(d.uuid for d in reply.devices)
        self._homes.check(env)
        return env | home.environment()

    def _backing(self, info: pb.GetInfoReply) -> Backing:
        if info.kind == pb.DEVICE_KIND_SOFTWARE:
            return self._homes.soft()
        return driver_backing(self._env, info.uid, info.cuda_path, info.nvml_path)


async def _made(stack: contextlib.ExitStack, homes: Homes) -> tuple[Home, socket.socket]:
    """A home, made in a thread: for a free user all processes of the host are looked at."""
    making = asyncio.create_task(asyncio.to_thread(stack.enter_context, homes.make()))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        await asyncio.wait([making])  # its folder goes with the service's
        raise


def tenant_name(asked: str, lease_id: str) -> str:
    """What a lease's tenant is called: told from local ones by its beginning, from all by its end.

    >>> tenant_name("train", "0123456789abcdef")
    'remote-train-01234567'
    """
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", asked).strip("-._") or "lease"
    end = lease_id[:8]
    return f"remote-{stem[: _NAME_CHARS - len('remote--') - len(end)]}-{end}"


def _request(wish: Wish, name: str, home: Home) -> pb.CreateTenantRequest:
    limits: Limits = wish.limits
    return pb.CreateTenantRequest(
        name=name,
        gpu=wish.gpu,
        mem_limit_bytes=limits.mem_bytes,
        share_ppm=limits.share_ppm,
        limit_ppm=limits.limit_ppm,
        tenant_class=_CLASSES[limits.tenant_class],
        context_bytes=limits.context_bytes,
        root_pid=os.getpid(),
        grant_dir=str(home.folder),
        for_uid=home.uid,
        program="harp-worker",
    )


def _place(device: pb.Device, used_ratio: float) -> Place:
    return Place(
        uuid=device.uuid,
        name=device.name,
        software=device.kind == pb.DEVICE_KIND_SOFTWARE,
        memory_bytes=device.memory_bytes,
        free_bytes=device.free_bytes,
        free_ppm=device.free_ppm,
        used_ratio=used_ratio,
        context_bytes=device.context_bytes,
    )
