# SPDX-License-Identifier: Apache-2.0
"""The control API's servicer: who asks, and what they may."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import structlog

from harp import __version__
from harp.api.answer import Context, answer, refuse
from harp.api.v1 import control_pb2 as pb
from harp.api.v1 import control_pb2_grpc
from harp.daemon.answers import KINDS, POLICIES, Answers, uncovered
from harp.daemon.auth import Auth, Deposit
from harp.daemon.book import Book
from harp.daemon.estimates import Estimates
from harp.daemon.harpd import Harpd
from harp.daemon.link import ArbiterLink
from harp.daemon.metrics import Reporter
from harp.daemon.owners import Wish, check_container, check_folder_name, check_owner, own_process
from harp.daemon.pools import Pools
from harp.daemon.recording import Recording
from harp.daemon.samples import Watching
from harp.daemon.suspend import Suspender
from harp.errors import (
    ArbiterError,
    ConfigError,
    DaemonError,
    HarpError,
    NotOwner,
    Unauthenticated,
)
from harp.lease_wire import GRANULE_BYTES
from harp.model import Limits, Policy, TenantClass
from harp.native import NativeDir
from harp.rundir import RunDir
from harp.units import PPM, format_percent, format_size

__all__ = ["ControlService"]

_log = structlog.get_logger(__name__)
#: for what a process has submitted to end before it is locked, where the caller does not say
_LOCK_S = 10.0
_Request = TypeVar("_Request")
_Reply = TypeVar("_Reply")

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
        reporter: Reporter,
        estimates: Estimates,
        recording: Recording,
        pools: Pools,
        watching: Watching,
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
        self._reporter = reporter
        self._estimates = estimates
        self._recording = recording
        self._pools = pools
        self._watching = watching
        self._default_policy = default_policy
        self._stop = stop
        self._answers = Answers(book, harpd)
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

    async def GetMetrics(  # noqa: N802
        self, request: pb.GetMetricsRequest, context: Context
    ) -> pb.GetMetricsReply:
        """What Prometheus would be told."""
        return await self._answer(self._get_metrics, request, context)

    async def Estimate(  # noqa: N802
        self, request: pb.EstimateRequest, context: Context
    ) -> pb.EstimateReply:
        """What a job will need."""
        return await self._answer(self._estimate, request, context)

    async def GetRuns(self, request: pb.GetRunsRequest, context: Context) -> pb.GetRunsReply:  # noqa: N802
        """Runs that have ended."""
        return await self._answer(self._get_runs, request, context)

    async def AddRuns(self, request: pb.AddRunsRequest, context: Context) -> pb.AddRunsReply:  # noqa: N802
        """Runs of another machine."""
        return await self._answer(self._add_runs, request, context)

    async def Watch(  # noqa: N802
        self, request: pb.WatchSamplesRequest, context: Context
    ) -> AsyncIterator[pb.WatchSamplesReply]:
        """Samples, until the caller or harpd ends it."""
        try:
            seat = self._watching.join(self._caller(context), request.interval_ms)
        except HarpError as error:
            await refuse(context, error)
        # One that is cancelled while it is written to is not told here.
        context.add_done_callback(lambda _: seat.leave())  # type: ignore[arg-type]  # its stub's own
        async for reply in seat:
            yield reply

    async def Stop(self, request: pb.StopRequest, context: Context) -> pb.StopReply:  # noqa: N802
        """End harpd."""
        return await self._answer(self._stop_daemon, request, context)

    async def _answer(
        self,
        method: Callable[[_Request, int], Awaitable[_Reply]],
        request: _Request,
        context: Context,
    ) -> _Reply:
        return await answer(
            lambda: method(request, self._caller(context)), context, f"see {self._run_dir.log}"
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
            kind=KINDS[found.kind],
            uncovered_total=self._harpd.evaders.uncovered_total,
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
            devices=[self._answers.device(d, picture) for d in self._book.devices.values()],
            tenants=[self._answers.tenant(t, picture) for t in self._book.tenants.values()],
            uncovered=[uncovered(u) for u in self._harpd.evaders.uncovered.values()],
            now_s=time.time(),
        )

    async def _create_tenant(
        self, request: pb.CreateTenantRequest, uid: int
    ) -> pb.CreateTenantReply:
        deposit = self._auth.redeem(request.ticket)
        if deposit is None:
            raise ConfigError("the ticket is unknown or too old", "use `harp run`")
        try:
            wish = _wish(request, uid, self._default_policy)
            _check_caller(deposit, uid, request.root_pid, request.for_uid)
            check_folder_name(wish.grant_dir)
            check_container(uid, os.geteuid(), wish)
            await self._harpd.make_room()
            asked = wish.limits
            wish = self._weighed(wish, request, uid)
        except BaseException:
            os.close(deposit.fd)
            raise
        tenant = await self._book.create(wish, deposit.fd)
        lowered = wish.limits != asked
        self._recording.made(
            tenant,
            request.command,
            estimated=request.estimated or lowered,
            asked_mem_bytes=request.asked_mem_bytes or lowered * asked.mem_bytes,
            asked_share_ppm=request.asked_share_ppm or lowered * asked.share_ppm,
        )
        self._pools.began(tenant)
        try:
            picture = await self._book.look()
        except ArbiterError:  # the tenant stands: its owner must hear of it
            picture = self._book.picture
        devices = [
            self._answers.device(self._book.devices[u], picture) for u in tenant.device_uuids
        ]
        return pb.CreateTenantReply(
            tenant=self._answers.tenant(tenant, picture),
            device=devices[0],
            devices=devices,
            env={name: os.environ[name] for name in _SOFT_ENV if name in os.environ},
            device_count=len(self._book.devices),
        )

    def _weighed(self, wish: Wish, request: pb.CreateTenantRequest, uid: int) -> Wish:
        if not self._pools.acts(wish):
            return wish
        labels = dict(wish.labels)
        told = pb.EstimateRequest(
            command=request.command,
            image=labels.get("image", ""),
            labels=labels,
            gpu=wish.gpu,
            mem_bytes=request.asked_mem_bytes or wish.limits.mem_bytes,
            share_ppm=request.asked_share_ppm or wish.limits.share_ppm,
        )
        if not (told.command or told.image or "pod" in labels):
            return wish  # nothing is said of it
        return self._pools.weigh(wish, self._estimates.told(told, uid), estimated=request.estimated)

    async def _set_tenant(self, request: pb.SetTenantRequest, uid: int) -> pb.SetTenantReply:
        tenant = self._book.by_name(request.name)
        check_owner(tenant, uid)
        old = tenant.limits
        limits = _limits(
            request.mem_limit_bytes if request.HasField("mem_limit_bytes") else old.mem_bytes,
            request.share_ppm if request.HasField("share_ppm") else old.share_ppm,
            request.limit_ppm if request.HasField("limit_ppm") else old.limit_ppm,
            TenantClass(request.tenant_class)
            if request.HasField("tenant_class")
            else old.tenant_class,
            gang=not request.no_gang if request.HasField("no_gang") else old.gang,
            host_bytes=request.host_limit_bytes
            if request.HasField("host_limit_bytes")
            else old.host_bytes,
            oversubscribe=request.oversubscribe
            if request.HasField("oversubscribe")
            else old.oversubscribe,
            context_bytes=old.context_bytes,
        )
        changed = await self._book.set_limits(tenant, limits)
        return pb.SetTenantReply(tenant=self._answers.tenant(changed, await self._book.look()))

    async def _suspend_tenant(
        self, request: pb.SuspendTenantRequest, uid: int
    ) -> pb.SuspendTenantReply:
        timeout_s = request.timeout_s or _LOCK_S
        tenant = await self._suspender.suspend(request.name, uid, timeout_s)
        return pb.SuspendTenantReply(tenant=self._answers.tenant(tenant, await self._book.look()))

    async def _resume_tenant(
        self, request: pb.ResumeTenantRequest, uid: int
    ) -> pb.ResumeTenantReply:
        tenant = await self._suspender.resume(request.name, uid, request.gpu)
        return pb.ResumeTenantReply(tenant=self._answers.tenant(tenant, await self._book.look()))

    async def _remove_tenant(
        self, request: pb.RemoveTenantRequest, uid: int
    ) -> pb.RemoveTenantReply:
        tenant = self._book.by_name(request.name)
        check_owner(tenant, uid)
        await self._book.look()  # what it used by now is in the devices' totals
        await self._book.remove(tenant, f"removed by uid {uid}")
        self._harpd.evaders.lineage.forget(tenant.tenant_id)
        return pb.RemoveTenantReply()

    async def _get_metrics(self, request: pb.GetMetricsRequest, _uid: int) -> pb.GetMetricsReply:
        page = await self._reporter.metrics(request.accept)
        return pb.GetMetricsReply(text=page.body.decode())

    async def _estimate(self, request: pb.EstimateRequest, uid: int) -> pb.EstimateReply:
        await self._settle()
        return await self._estimates.estimate(request, uid)

    async def _get_runs(self, request: pb.GetRunsRequest, uid: int) -> pb.GetRunsReply:
        await self._settle()
        return await asyncio.to_thread(self._estimates.page, request, uid)

    async def _settle(self) -> None:
        """Who has just ended counts."""
        await self._harpd.make_room()
        await self._recording.settle()

    async def _add_runs(self, request: pb.AddRunsRequest, uid: int) -> pb.AddRunsReply:
        return await self._estimates.add(request, uid)

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


def _wish(request: pb.CreateTenantRequest, uid: int, default: Policy) -> Wish:
    return Wish(
        name=request.name,
        program=request.program,
        uid=request.for_uid or uid,
        gpu=request.gpu,
        limits=_limits(
            request.mem_limit_bytes,
            request.share_ppm,
            request.limit_ppm,
            TenantClass(request.tenant_class),
            gang=not request.no_gang,
            host_bytes=request.host_limit_bytes,
            oversubscribe=request.oversubscribe,
            context_bytes=request.context_bytes,
        ),
        policy=_policy(request.policy, default),
        root_pid=request.root_pid,
        grant_dir=request.grant_dir,
        for_root=request.for_uid != 0,
        any_uid=request.any_uid,
        held=request.held,
        labels=tuple(sorted(request.labels.items())),
    )


def _limits(
    mem_bytes: int,
    share_ppm: int,
    limit_ppm: int,
    klass: TenantClass,
    *,
    gang: bool,
    host_bytes: int,
    oversubscribe: bool,
    context_bytes: int,
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
    whole = mem_bytes // GRANULE_BYTES * GRANULE_BYTES
    return Limits(
        whole, share_ppm, limit_ppm, klass, gang, host_bytes, oversubscribe, context_bytes
    )


def _policy(value: pb.Policy.ValueType, default: Policy) -> Policy:
    return next((ours for ours, theirs in POLICIES.items() if theirs == value), default)


def _check_caller(deposit: Deposit, uid: int, root_pid: int, for_uid: int) -> None:
    """Whether a ticket, a root process and a uid are this caller's to name.

    Raises:
        NotOwner: not all of them.
    """
    if uid and for_uid:
        raise NotOwner(f"uid {uid} asks for a tenant of uid {for_uid}, which only root may")
    if deposit.caller.uid != uid:
        raise NotOwner(f"the ticket belongs to uid {deposit.caller.uid}, not {uid}")
    if uid and not own_process(root_pid, deposit.caller.pid, uid):
        raise NotOwner(
            f"process {root_pid} is neither the one that asks ({deposit.caller.pid}) nor its child"
        )
