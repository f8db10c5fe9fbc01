# SPDX-License-Identifier: Apache-2.0
"""The control API's servicer: who asks, what they may, and the answer's shape."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc.aio
import structlog

from harp import __version__
from harp.api.status import code_of, trailers_of
from harp.api.v1 import control_pb2 as pb
from harp.api.v1 import control_pb2_grpc
from harp.daemon.auth import Auth, Deposit
from harp.daemon.book import Book, Wish
from harp.daemon.harpd import Harpd
from harp.daemon.link import ArbiterLink
from harp.daemon.picture import Picture
from harp.daemon.suspend import Suspender
from harp.errors import ConfigError, DaemonError, HarpError, NotOwner, Unauthenticated
from harp.grants import promised_bytes, promised_ppm
from harp.lease_wire import GRANULE_BYTES
from harp.model import ClientState, Device, DeviceKind, Limits, Policy, Tenant, TenantClass, Use
from harp.native import NativeDir
from harp.procs import start_of, user_name
from harp.rundir import RunDir
from harp.units import PPM, format_percent, format_size

__all__ = ["ControlService"]

_log = structlog.get_logger(__name__)
#: for what a process has submitted to end before it is locked, where the caller does not say
_LOCK_S = 10.0
Context = grpc.aio.ServicerContext[Any, Any]
_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")

_KINDS = {
    DeviceKind.NVIDIA: pb.DEVICE_KIND_NVIDIA,
    DeviceKind.SOFTWARE: pb.DEVICE_KIND_SOFTWARE,
}
_POLICIES = {Policy.WARN: pb.POLICY_WARN, Policy.STOP: pb.POLICY_STOP, Policy.KILL: pb.POLICY_KILL}
_CLASSES = {
    TenantClass.STANDARD: pb.TENANT_CLASS_STANDARD,
    TenantClass.LATENCY: pb.TENANT_CLASS_LATENCY,
    TenantClass.BEST_EFFORT: pb.TENANT_CLASS_BEST_EFFORT,
}
_STATES = {
    ClientState.LIVE: pb.CLIENT_STATE_LIVE,
    ClientState.DRAINING: pb.CLIENT_STATE_DRAINING,
}
#: settings of the software GPU that a tenant must share with the daemon to see the same devices
_SOFT_ENV = (
    "HARP_SOFT_DIR",
    "HARP_SOFT_DEVICES",
    "HARP_SOFT_TEARDOWN_MS",
    "HARP_SOFT_SLICE_US",
    "HARP_SOFT_SWITCH_US",
)


class ControlService(control_pb2_grpc.ControlServicer):
    """One servicer for the one socket."""

    def __init__(
        self,
        *,
        run_dir: RunDir,
        native: NativeDir,
        auth: Auth,
        book: Book,
        link: ArbiterLink,
        harpd: Harpd,
        suspender: Suspender,
        default_policy: Policy,
        stop: Callable[[bool], None],
    ) -> None:
        self._run_dir = run_dir
        self._native = native
        self._auth = auth
        self._book = book
        self._link = link
        self._harpd = harpd
        self._suspender = suspender
        self._default_policy = default_policy
        self._stop = stop
        self._started_s = time.time()

    async def GetInfo(self, request: pb.GetInfoRequest, context: Context) -> pb.GetInfoReply:  # noqa: N802
        """Who and what this daemon is."""
        return await self._answer(self._get_info, request, context)

    async def GetState(self, request: pb.GetStateRequest, context: Context) -> pb.GetStateReply:  # noqa: N802
        """One consistent picture."""
        return await self._answer(self._get_state, request, context)

    async def CreateTenant(  # noqa: N802
        self, request: pb.CreateTenantRequest, context: Context
    ) -> pb.CreateTenantReply:
        """Make a tenant of the caller's uid."""
        return await self._answer(self._create_tenant, request, context)

    async def SetTenant(  # noqa: N802
        self, request: pb.SetTenantRequest, context: Context
    ) -> pb.SetTenantReply:
        """Change a tenant's limits."""
        return await self._answer(self._set_tenant, request, context)

    async def SuspendTenant(  # noqa: N802
        self, request: pb.SuspendTenantRequest, context: Context
    ) -> pb.SuspendTenantReply:
        """Take a tenant's memory off its devices."""
        return await self._answer(self._suspend_tenant, request, context)

    async def ResumeTenant(  # noqa: N802
        self, request: pb.ResumeTenantRequest, context: Context
    ) -> pb.ResumeTenantReply:
        """Bring it back."""
        return await self._answer(self._resume_tenant, request, context)

    async def RemoveTenant(  # noqa: N802
        self, request: pb.RemoveTenantRequest, context: Context
    ) -> pb.RemoveTenantReply:
        """Take a tenant's grant back."""
        return await self._answer(self._remove_tenant, request, context)

    async def Stop(self, request: pb.StopRequest, context: Context) -> pb.StopReply:  # noqa: N802
        """End harpd."""
        return await self._answer(self._stop_daemon, request, context)

    async def _answer(
        self,
        method: Callable[[_Request, int], Awaitable[_Reply]],
        request: _Request,
        context: Context,
    ) -> _Reply:
        try:
            return await method(request, self._caller(context))
        except HarpError as error:
            await _refuse(context, error)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not look like the caller's
            _log.exception("call_broken")
            await _refuse(
                context,
                DaemonError(
                    f"harpd failed: {type(error).__name__}: {error}", f"see {self._run_dir.log}"
                ),
            )

    def _caller(self, context: Context) -> int:
        for key, value in context.invocation_metadata() or ():
            if key == "authorization" and isinstance(value, str):
                return self._auth.uid_of(value.removeprefix("Bearer "))
        raise Unauthenticated("the call came without a token", "use harp.client")

    async def _get_info(self, _request: pb.GetInfoRequest, _uid: int) -> pb.GetInfoReply:
        found = self._harpd.found
        in_force = self._link.time_in_force()
        return pb.GetInfoReply(
            version=__version__,
            pid=os.getpid(),
            uid=os.geteuid(),
            run_dir=str(self._run_dir.path),
            arbiter_pid=self._link.pid,
            log_path=str(self._run_dir.log),
            started_s=self._started_s,
            cuda_path=str(found.cuda_path),
            nvml_path=str(found.nvml_path),
            kind=_KINDS[found.kind],
            uncovered_total=self._harpd.uncovered_total,
            arbiter_restarts=max(0, self._link.started_count - 1),
            native_dir=str(self._native.path),
            time_policy=in_force.policy,
            quantum_us=in_force.quantum_us,
            burst_us=in_force.burst_us,
            time_stale=self._link.time_stale(),
        )

    async def _get_state(self, _request: pb.GetStateRequest, _uid: int) -> pb.GetStateReply:
        picture = await self._book.look()
        return pb.GetStateReply(
            devices=[self._device(d, picture) for d in self._book.devices.values()],
            tenants=[self._tenant(t, picture) for t in self._book.tenants.values()],
            uncovered=[
                pb.Uncovered(
                    pid=u.pid,
                    name=u.name,
                    user=user_name(u.uid),
                    device_uuid=u.device_uuid,
                    mem_bytes=u.mem_bytes,
                    tenant=u.tenant,
                    evidence=u.evidence,
                    since_s=u.since_s,
                    action=u.action,
                )
                for u in self._harpd.uncovered.values()
            ],
            now_s=time.time(),
        )

    async def _create_tenant(
        self, request: pb.CreateTenantRequest, uid: int
    ) -> pb.CreateTenantReply:
        deposit = self._auth.redeem(request.ticket)
        if deposit is None:
            raise ConfigError("the ticket is unknown or too old", "use `harp run`")
        wish = Wish(
            name=request.name,
            program=request.program,
            uid=uid,
            gpu=request.gpu,
            limits=_limits(
                request.mem_limit_bytes,
                request.share_ppm,
                request.limit_ppm,
                TenantClass(request.tenant_class),
                gang=not request.no_gang,
            ),
            policy=_policy(request.policy, self._default_policy),
            root_pid=request.root_pid,
            grant_dir=request.grant_dir,
        )
        if problem := _stranger(deposit, uid, request.root_pid):
            os.close(deposit.fd)
            raise NotOwner(problem)
        try:
            await self._harpd.make_room()
        except BaseException:
            os.close(deposit.fd)
            raise
        tenant = await self._book.create(wish, deposit.fd)
        picture = await self._book.look()
        devices = [self._device(self._book.devices[u], picture) for u in tenant.device_uuids]
        return pb.CreateTenantReply(
            tenant=self._tenant(tenant, picture),
            device=devices[0],
            devices=devices,
            env={name: os.environ[name] for name in _SOFT_ENV if name in os.environ},
            device_count=len(self._book.devices),
        )

    async def _set_tenant(self, request: pb.SetTenantRequest, uid: int) -> pb.SetTenantReply:
        tenant = self._book.by_name(request.name)
        self._book.check_owner(tenant, uid)
        old = tenant.limits
        limits = _limits(
            request.mem_limit_bytes if request.HasField("mem_limit_bytes") else old.mem_bytes,
            request.share_ppm if request.HasField("share_ppm") else old.share_ppm,
            request.limit_ppm if request.HasField("limit_ppm") else old.limit_ppm,
            TenantClass(request.tenant_class)
            if request.HasField("tenant_class")
            else old.tenant_class,
            gang=not request.no_gang if request.HasField("no_gang") else old.gang,
        )
        changed = await self._book.set_limits(tenant, limits)
        return pb.SetTenantReply(tenant=self._tenant(changed, await self._book.look()))

    async def _suspend_tenant(
        self, request: pb.SuspendTenantRequest, uid: int
    ) -> pb.SuspendTenantReply:
        timeout_s = request.timeout_s or _LOCK_S
        tenant = await self._suspender.suspend(request.name, uid, timeout_s)
        return pb.SuspendTenantReply(tenant=self._tenant(tenant, await self._book.look()))

    async def _resume_tenant(
        self, request: pb.ResumeTenantRequest, uid: int
    ) -> pb.ResumeTenantReply:
        tenant = await self._suspender.resume(request.name, uid, request.gpu)
        return pb.ResumeTenantReply(tenant=self._tenant(tenant, await self._book.look()))

    async def _remove_tenant(
        self, request: pb.RemoveTenantRequest, uid: int
    ) -> pb.RemoveTenantReply:
        tenant = self._book.by_name(request.name)
        self._book.check_owner(tenant, uid)
        await self._book.remove(tenant, f"removed by uid {uid}")
        return pb.RemoveTenantReply()

    async def _stop_daemon(self, request: pb.StopRequest, uid: int) -> pb.StopReply:
        if uid not in (os.geteuid(), 0):
            raise NotOwner(f"harpd runs as uid {os.geteuid()}", "that user or root may stop it")
        if request.with_arbiter:
            picture = await self._book.look()
            if picture.clients:
                raise DaemonError(
                    f"{len(picture.clients)} processes of tenants hold memory; without an arbiter"
                    " they could not have more",
                    "end them first, or stop harpd alone: `harp daemon --stop`",
                )
        self._stop(request.with_arbiter)
        return pb.StopReply()

    def _device(self, device: Device, picture: Picture) -> pb.Device:
        held = picture.devices.get(device.uuid)
        promises = self._book.promises(picture)[device.uuid]
        return pb.Device(
            index=device.index,
            uuid=device.uuid,
            name=device.name,
            kind=_KINDS[device.kind],
            memory_bytes=self._harpd.physical_bytes(device.uuid),
            used_bytes=self._harpd.used_bytes.get(device.uuid, 0),
            leased_bytes=held.leased_bytes if held else 0,
            overhead_bytes=held.overhead_bytes if held else 0,
            context_bytes=device.overhead_bytes,
            context_source=device.overhead_source,
            promised_bytes=promised_bytes(device, promises),
            promised_ppm=promised_ppm(promises),
            driver_version=device.driver_version,
            holder=held.holder if held else 0,
        )

    def _tenant(self, tenant: Tenant, picture: Picture) -> pb.Tenant:
        clients = picture.clients_of(tenant.tenant_id)
        uses = [self._use(tenant, uuid, picture) for uuid in tenant.device_uuids]
        windows = [self._harpd.used_ratio(tenant.tenant_id, u)[1] for u in tenant.device_uuids]
        limits = tenant.limits
        return pb.Tenant(
            tenant_id=tenant.tenant_id,
            name=tenant.name,
            uid=tenant.uid,
            user=user_name(tenant.uid),
            root_pid=tenant.root_pid,
            root_alive=bool(tenant.root_start) and start_of(tenant.root_pid) == tenant.root_start,
            device_uuid=tenant.device_uuids[0],
            device_uuids=tenant.device_uuids,
            mem_limit_bytes=limits.mem_bytes,
            share_ppm=limits.share_ppm,
            limit_ppm=limits.limit_ppm,
            tenant_class=_CLASSES[limits.tenant_class],
            no_gang=not limits.gang,
            policy=_POLICIES[tenant.policy],
            created_s=tenant.created_s,
            leased_bytes=sum(u.leased_bytes for u in uses),
            peak_bytes=sum(u.peak_bytes for u in uses),
            overhead_bytes=sum(c.overhead_bytes for c in clients),
            used_ns=sum(u.used_ns for u in uses),
            estimated_ns=sum(u.estimated_ns for u in uses),
            copy_ns=sum(u.copy_ns for u in uses),
            launches=sum(u.launches for u in uses),
            wait_ns=sum(u.wait_ns for u in uses),
            wants=any(u.wants for u in uses),
            denials=sum(u.denials for u in uses),
            used_ratio=sum(u.used_ratio for u in uses) / len(uses),
            window_s=min(windows),
            grant_dir=tenant.grant_dir,
            uses=uses,
            suspended=tenant.suspended,
            host_bytes=sum(u.leased_bytes for u in uses) if tenant.suspended else 0,
            clients=[
                pb.Client(
                    client_id=c.client_id,
                    pid=c.pid,
                    state=_STATES[c.state],
                    program=c.program,
                    leased_bytes=c.leased_bytes,
                    overhead_bytes=c.overhead_bytes,
                )
                for c in clients
            ],
        )

    def _use(self, tenant: Tenant, uuid: str, picture: Picture) -> pb.DeviceUse:
        use = picture.uses.get((tenant.tenant_id, uuid), Use())
        held = [
            picture.leases.get((c.client_id, uuid), (0, 0))
            for c in picture.clients_of(tenant.tenant_id)
        ]
        return pb.DeviceUse(
            uuid=uuid,
            leased_bytes=use.leased_bytes,
            peak_bytes=use.peak_bytes,
            overhead_bytes=sum(overhead for _, overhead in held),
            used_ns=use.used_ns,
            estimated_ns=use.estimated_ns,
            copy_ns=use.copy_ns,
            launches=use.launches,
            wait_ns=use.wait_ns,
            wants=use.wants,
            denials=use.denials,
            used_ratio=self._harpd.used_ratio(tenant.tenant_id, uuid)[0],
        )


def _limits(
    mem_bytes: int, share_ppm: int, limit_ppm: int, klass: TenantClass, *, gang: bool
) -> Limits:
    if mem_bytes and mem_bytes < GRANULE_BYTES:
        raise ConfigError(
            f"a memory limit of {format_size(mem_bytes)} is below one granule",
            f"a driver hands memory out in pieces of {format_size(GRANULE_BYTES)}; ask for more",
        )
    for name, value in (("share", share_ppm), ("limit", limit_ppm)):
        if value > PPM:
            raise ConfigError(
                f"a {name} of {format_percent(value)} is above 100%", "it is a part of each device"
            )
    # Whole granules: the rest could never be leased.
    return Limits(mem_bytes // GRANULE_BYTES * GRANULE_BYTES, share_ppm, limit_ppm, klass, gang)


def _policy(value: pb.Policy.ValueType, default: Policy) -> Policy:
    return next((ours for ours, theirs in _POLICIES.items() if theirs == value), default)


def _stranger(deposit: Deposit, uid: int, root_pid: int) -> str:
    """Why a ticket is not for this caller; "" if it is."""
    if deposit.caller.uid != uid:
        return f"the ticket belongs to uid {deposit.caller.uid}, not {uid}"
    if uid and deposit.caller.pid != root_pid:
        return f"process {root_pid} is not the one that asks ({deposit.caller.pid})"
    return ""


async def _refuse(context: Context, error: HarpError) -> NoReturn:
    _log.info("call_refused", error=type(error).__name__, message=error.message)
    await context.abort(code_of(error), error.message, trailers_of(error))
    raise AssertionError("abort() raises")
