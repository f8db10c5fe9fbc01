# SPDX-License-Identifier: Apache-2.0
"""What the control API answers of devices, tenants and those who evade: the book's as messages."""

from __future__ import annotations

from collections.abc import Sequence

from harp.api.v1 import control_pb2 as pb
from harp.daemon.book import Book
from harp.daemon.harpd import Harpd
from harp.daemon.picture import Hold, Picture
from harp.grants import Promise, promised_bytes, promised_ppm
from harp.model import (
    ClientState,
    Device,
    DeviceKind,
    Policy,
    Residency,
    ResidencyState,
    Tenant,
    TenantClass,
    Uncovered,
    Use,
)
from harp.procs import start_of, user_name

__all__ = ["CLASSES", "KINDS", "POLICIES", "Answers", "uncovered"]

KINDS = {
    DeviceKind.NVIDIA: pb.DEVICE_KIND_NVIDIA,
    DeviceKind.SOFTWARE: pb.DEVICE_KIND_SOFTWARE,
}
POLICIES = {Policy.WARN: pb.POLICY_WARN, Policy.STOP: pb.POLICY_STOP, Policy.KILL: pb.POLICY_KILL}
CLASSES = {
    TenantClass.STANDARD: pb.TENANT_CLASS_STANDARD,
    TenantClass.LATENCY: pb.TENANT_CLASS_LATENCY,
    TenantClass.BEST_EFFORT: pb.TENANT_CLASS_BEST_EFFORT,
}
_STATES = {
    ClientState.LIVE: pb.CLIENT_STATE_LIVE,
    ClientState.DRAINING: pb.CLIENT_STATE_DRAINING,
}
_RESIDENCIES = {
    ResidencyState.RESIDENT: pb.RESIDENCY_STATE_RESIDENT,
    ResidencyState.EVICTING: pb.RESIDENCY_STATE_EVICTING,
    ResidencyState.AWAY: pb.RESIDENCY_STATE_AWAY,
    ResidencyState.RESTORING: pb.RESIDENCY_STATE_RESTORING,
    ResidencyState.SUSPENDED: pb.RESIDENCY_STATE_SUSPENDED,
}


class Answers:
    """Messages of one daemon."""

    def __init__(self, book: Book, harpd: Harpd) -> None:
        self._book = book
        self._harpd = harpd

    def device(self, device: Device, picture: Picture) -> pb.Device:
        """A device and what is promised on it."""
        return self.promised(device, picture, self._book.promises(picture)[device.uuid])

    def promised(self, device: Device, picture: Picture, promises: Sequence[Promise]) -> pb.Device:
        """The same, where what is promised on it is known."""
        held = picture.devices.get(device.uuid)
        return pb.Device(
            index=device.index,
            uuid=device.uuid,
            name=device.name,
            kind=KINDS[device.kind],
            memory_bytes=self._harpd.physical_bytes(device.uuid),
            used_bytes=self._harpd.used_bytes.get(device.uuid, 0),
            leased_bytes=held.leased_bytes if held else 0,
            overhead_bytes=held.overhead_bytes if held else 0,
            context_bytes=device.overhead_bytes,
            context_source=device.overhead_source,
            context_seen=device.overhead_seen,
            promised_bytes=promised_bytes(device, promises),
            promised_ppm=promised_ppm(promises),
            driver_version=device.driver_version,
            holder=held.holder if held else 0,
            free_bytes=self._book.free_bytes(device, promises),
            free_ppm=self._book.free_ppm(promises),
        )

    def tenant(self, tenant: Tenant, picture: Picture, user: str = "") -> pb.Tenant:
        """A tenant, its use and its processes; `user`: its login name, if that is known."""
        clients = picture.clients_of(tenant.tenant_id)
        uses = [self._use(tenant, uuid, picture) for uuid in tenant.device_uuids]
        windows = [self._harpd.used_ratio(tenant.tenant_id, u)[1] for u in tenant.device_uuids]
        limits = tenant.limits
        return pb.Tenant(
            tenant_id=tenant.tenant_id,
            name=tenant.name,
            uid=tenant.uid,
            user=user or user_name(tenant.uid),
            root_pid=tenant.root_pid,
            root_alive=bool(tenant.root_start) and start_of(tenant.root_pid) == tenant.root_start,
            device_uuid=tenant.device_uuids[0],
            device_uuids=tenant.device_uuids,
            mem_limit_bytes=limits.mem_bytes,
            share_ppm=limits.share_ppm,
            limit_ppm=limits.limit_ppm,
            tenant_class=CLASSES[limits.tenant_class],
            no_gang=not limits.gang,
            oversubscribe=limits.oversubscribe,
            context_bytes=limits.context_bytes,
            policy=POLICIES[tenant.policy],
            created_s=tenant.created_s,
            leased_bytes=sum(u.leased_bytes for u in uses),
            peak_bytes=sum(u.peak_bytes for u in uses),
            overhead_bytes=sum(c.overhead_bytes for c in clients),
            charged_bytes=sum(u.charged_bytes for u in uses),
            unleased_bytes=sum(u.unleased_bytes for u in uses),
            over_limit_bytes=max(u.over_limit_bytes for u in uses),
            host_limit_bytes=limits.host_bytes,
            host_leased_bytes=self.host_leased(tenant, picture),
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
            any_uid=tenant.any_uid,
            held=tenant.held,
            labels=dict(tenant.labels),
            host_bytes=sum(u.leased_bytes for u in uses) if tenant.suspended else 0,
            clients=[
                pb.Client(
                    client_id=c.client_id,
                    pid=c.pid,
                    state=_STATES[c.state],
                    program=c.program,
                    leased_bytes=c.leased_bytes,
                    overhead_bytes=c.overhead_bytes,
                    unleased_bytes=c.unleased_bytes,
                )
                for c in clients
            ],
        )

    def host_leased(self, tenant: Tenant, picture: Picture) -> int:
        """Pinned host memory is the tenant's and no device's: each of its uses tells all of it."""
        uses = (picture.uses.get((tenant.tenant_id, uuid)) for uuid in tenant.device_uuids)
        return max((use.host_leased_bytes for use in uses if use), default=0)

    def _use(self, tenant: Tenant, uuid: str, picture: Picture) -> pb.DeviceUse:
        held = [
            picture.holds.get((c.client_id, uuid), Hold())
            for c in picture.clients_of(tenant.tenant_id)
        ]
        return self.use(tenant, uuid, picture, sum(hold.overhead_bytes for hold in held))

    def use(self, tenant: Tenant, uuid: str, picture: Picture, overhead_bytes: int) -> pb.DeviceUse:
        """What a tenant has and used of a device; `overhead_bytes`: of its processes there."""
        use = picture.uses.get((tenant.tenant_id, uuid), Use())
        return pb.DeviceUse(
            uuid=uuid,
            leased_bytes=use.leased_bytes,
            peak_bytes=use.peak_bytes,
            overhead_bytes=overhead_bytes,
            charged_bytes=use.charged_bytes,
            unleased_bytes=use.unleased_bytes,
            over_limit_bytes=use.over_bytes(tenant.limits.mem_bytes),
            used_ns=use.used_ns,
            estimated_ns=use.estimated_ns,
            copy_ns=use.copy_ns,
            launches=use.launches,
            wait_ns=use.wait_ns,
            wants=use.wants,
            denials=use.denials,
            used_ratio=self._harpd.used_ratio(tenant.tenant_id, uuid)[0],
            residency=_residency(use.residency) if use.residency else None,
        )


def _residency(found: Residency) -> pb.Residency:
    return pb.Residency(
        state=_RESIDENCIES[found.state],
        stuck=found.stuck,
        swap_bytes=found.swap_bytes,
        on_device_bytes=found.on_device_bytes,
        away_ns=found.away_ns,
        away_now_ns=found.away_now_ns,
        swapping_ns=found.swapping_ns,
        swaps=found.swaps,
        stay_ns=found.stay_ns,
    )


def uncovered(one: Uncovered) -> pb.Uncovered:
    """A process that evades."""
    return pb.Uncovered(
        pid=one.pid,
        name=one.name,
        user=user_name(one.uid),
        device_uuid=one.device_uuid,
        mem_bytes=one.mem_bytes,
        tenant=one.tenant,
        evidence=one.evidence,
        since_s=one.since_s,
        action=one.action,
    )
