# SPDX-License-Identifier: Apache-2.0
"""State of the daemon as JSON objects: one shape for ps, top, devices and set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harp.api.v1 import control_pb2 as pb
from harp.api.words import KINDS, RESIDENCIES
from harp.model import TenantClass
from harp.units import PPM

__all__ = [
    "CLASSES",
    "device_json",
    "gpus",
    "is_software",
    "memory_notes",
    "printable",
    "short_class",
    "short_percent",
    "short_size",
    "swapping_lines",
    "swapping_of",
    "tenant_json",
    "uncovered_json",
    "where_memory_is",
]

_POLICIES = {pb.POLICY_WARN: "warn", pb.POLICY_STOP: "stop", pb.POLICY_KILL: "kill"}
CLASSES = {
    TenantClass.STANDARD: "std",
    TenantClass.LATENCY: "lat",
    TenantClass.BEST_EFFORT: "b-eff",
}
_STATES = {pb.CLIENT_STATE_LIVE: "live", pb.CLIENT_STATE_DRAINING: "draining"}


def device_json(device: pb.Device) -> dict[str, object]:
    """A device."""
    return {
        "index": device.index,
        "uuid": device.uuid,
        "name": device.name,
        "kind": KINDS.get(device.kind, "unknown"),
        "software": device.kind == pb.DEVICE_KIND_SOFTWARE,
        "memory_bytes": device.memory_bytes,
        "used_bytes": device.used_bytes,
        "leased_bytes": device.leased_bytes,
        "overhead_bytes": device.overhead_bytes,
        "context_bytes": device.context_bytes,
        "context_source": device.context_source,
        "context_seen": device.context_seen,
        "promised_bytes": device.promised_bytes,
        "promised_ratio": device.promised_ppm / PPM,
        "driver_version": device.driver_version,
    }


def tenant_json(tenant: pb.Tenant, devices: dict[str, pb.Device]) -> dict[str, object]:
    """A tenant and its processes. A limit of 0 is none."""
    held = [devices[u] for u in tenant.device_uuids if u in devices]
    return {
        "name": tenant.name,
        "tenant_id": tenant.tenant_id,
        "user": tenant.user,
        "uid": tenant.uid,
        "pid": tenant.root_pid,
        "root_alive": tenant.root_alive,
        "held": tenant.held,
        "labels": dict(sorted(tenant.labels.items())),
        "gpu": held[0].index if held else None,
        "gpus": [d.index for d in held],
        "device_uuid": tenant.device_uuid,
        "device_uuids": list(tenant.device_uuids),
        "software": any(is_software(d) for d in held),
        "mem_limit_bytes": tenant.mem_limit_bytes,
        "mem_leased_bytes": tenant.leased_bytes,
        "mem_charged_bytes": tenant.charged_bytes,
        "mem_unleased_bytes": tenant.unleased_bytes,
        "mem_over_limit_bytes": tenant.over_limit_bytes,
        "mem_peak_bytes": tenant.peak_bytes,
        "host_limit_bytes": tenant.host_limit_bytes,
        "host_leased_bytes": tenant.host_leased_bytes,
        "overhead_bytes": tenant.overhead_bytes,
        "share_ratio": tenant.share_ppm / PPM,
        "limit_ratio": tenant.limit_ppm / PPM,
        "class": TenantClass(tenant.tenant_class).label,
        "gang": not tenant.no_gang,
        "oversubscribe": tenant.oversubscribe,
        "policy": _POLICIES.get(tenant.policy, "unknown"),
        "used_ratio": tenant.used_ratio,
        "window_s": tenant.window_s,
        "used_ns": tenant.used_ns,
        "estimated_ns": tenant.estimated_ns,
        "copy_ns": tenant.copy_ns,
        "wait_ns": tenant.wait_ns,
        "launches": tenant.launches,
        "denials": tenant.denials,
        "wants": tenant.wants,
        "suspended": tenant.suspended,
        "host_bytes": tenant.host_bytes,
        "created_s": tenant.created_s,
        "devices": [_use_json(use, devices.get(use.uuid)) for use in tenant.uses],
        "clients": [
            {
                "pid": client.pid,
                "program": client.program,
                "state": _STATES.get(client.state, "unknown"),
                "leased_bytes": client.leased_bytes,
                "overhead_bytes": client.overhead_bytes,
                "unleased_bytes": client.unleased_bytes,
            }
            for client in tenant.clients
        ],
    }


def _use_json(use: pb.DeviceUse, device: pb.Device | None) -> dict[str, object]:
    return {
        "gpu": device.index if device else None,
        "uuid": use.uuid,
        "mem_leased_bytes": use.leased_bytes,
        "mem_charged_bytes": use.charged_bytes,
        "mem_unleased_bytes": use.unleased_bytes,
        "mem_over_limit_bytes": use.over_limit_bytes,
        "mem_peak_bytes": use.peak_bytes,
        "overhead_bytes": use.overhead_bytes,
        "used_ratio": use.used_ratio,
        "used_ns": use.used_ns,
        "estimated_ns": use.estimated_ns,
        "copy_ns": use.copy_ns,
        "wait_ns": use.wait_ns,
        "launches": use.launches,
        "denials": use.denials,
        "wants": use.wants,
        "residency": _residency_json(use.residency) if use.HasField("residency") else None,
    }


def memory_notes(tenant: pb.Tenant, devices: Mapping[str, pb.Device]) -> list[str]:
    """What a table of leases does not show of a tenant's memory, in sentences."""
    notes = []
    for use in tenant.uses:
        where = f"GPU {devices[use.uuid].index}" if use.uuid in devices else "a GPU that is gone"
        if use.unleased_bytes:
            notes.append(
                f"{tenant.name}: {short_size(use.unleased_bytes)} of code, heaps and local memory"
                f" count against its limit on {where}"
            )
        if use.over_limit_bytes:
            notes.append(
                f"{tenant.name}: over its limit by {short_size(use.over_limit_bytes)} on {where}:"
                " no new memory"
            )
    if tenant.host_limit_bytes:
        notes.append(
            f"{tenant.name}: {short_size(tenant.host_leased_bytes)} of"
            f" {short_size(tenant.host_limit_bytes)} pinned host memory"
        )
    return notes


def _residency_json(residency: pb.Residency) -> dict[str, object]:
    return {
        "state": RESIDENCIES.get(residency.state, "unknown"),
        "stuck": residency.stuck,
        "swap_bytes": residency.swap_bytes,
        "on_device_bytes": residency.on_device_bytes,
        "away_ns": residency.away_ns,
        "away_now_ns": residency.away_now_ns,
        "swapping_ns": residency.swapping_ns,
        "swaps": residency.swaps,
        "stay_ns": residency.stay_ns,
    }


def where_memory_is(tenant: pb.Tenant) -> str:
    """In one word, and for how long, where a tenant's memory is not on its device; else ""."""
    for use in tenant.uses:
        state = RESIDENCIES.get(use.residency.state, "resident")
        if state != "resident":
            return f"{state} {use.residency.away_now_ns / 1e9:.1f}s"
    return ""


def swapping_lines(tenant: pb.Tenant, devices: Mapping[str, pb.Device], now_s: float) -> list[str]:
    """A line for each of a tenant's devices that its memory has left, or could not leave."""
    return swapping_of(tenant.name, tenant.uses, devices, now_s - tenant.created_s)


def swapping_of(
    name: str, uses: Iterable[pb.DeviceUse], devices: Mapping[str, pb.Device], lived_s: float
) -> list[str]:
    """The same, of what a tenant of that name uses and has since it began."""
    lines = []
    for use in uses:
        residency = use.residency
        if not residency.swaps and not residency.away_now_ns and not residency.stuck:
            continue
        device = devices.get(use.uuid)
        part = residency.swapping_ns / 1e9 / max(1e-9, lived_s)
        stuck = ", some of it could not leave" if residency.stuck else ""
        lines.append(
            f"swapping: {name} on GPU {device.index if device else '?'}:"
            f" {RESIDENCIES.get(residency.state, 'unknown')}, away {residency.away_ns / 1e9:.1f}s"
            f" in all, {residency.swaps} swaps in {part:.1%} of the time,"
            f" stays {residency.stay_ns / 1e9:.1f}s{stuck}"
        )
    return lines


def gpus(tenant: pb.Tenant, devices: Mapping[str, pb.Device]) -> str:
    """The numbers of a tenant's GPUs, "?" for one that is gone: "0,2"."""
    return ",".join(str(devices[u].index) if u in devices else "?" for u in tenant.device_uuids)


def short_class(tenant: pb.Tenant) -> str:
    """A tenant's class in at most 5 columns."""
    return CLASSES[TenantClass(tenant.tenant_class)]


def short_percent(ppm: int) -> str:
    """A share in at most 5 columns; "-" for none."""
    return f"{ppm / 10_000:.3g}%" if ppm else "-"


def uncovered_json(one: pb.Uncovered) -> dict[str, object]:
    """A process that evades."""
    return {
        "pid": one.pid,
        "program": one.name,
        "user": one.user,
        "device_uuid": one.device_uuid,
        "mem_bytes": one.mem_bytes,
        "tenant": one.tenant or None,
        "evidence": one.evidence or None,
        "since_s": one.since_s,
        "action": one.action,
    }


def is_software(device: pb.Device) -> bool:
    """Whether a number measured on it is no GPU's."""
    return device.kind == pb.DEVICE_KIND_SOFTWARE


def printable(text: str) -> str:
    """A program's name without what would move the terminal's cursor: it may be anybody's."""
    return "".join(c if c.isprintable() else "?" for c in text)


def short_size(size_bytes: int) -> str:
    """A size in at most 7 columns, rounded; "-" for none."""
    if not size_bytes:
        return "-"
    value, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1000:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f}{unit}" if value >= 100 or value == int(value) else f"{value:.1f}{unit}"
