# SPDX-License-Identifier: Apache-2.0
"""The API's objects as JSON: what `harp ps` shows to every user of the machine. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from harp.api.v1 import control_pb2 as pb
from harp.api.words import KINDS, RESIDENCIES
from harp.metrics import EstimatorSeen
from harp.model import TenantClass
from harp.units import PPM
from harp.web.samples import Sample, Series, Span

__all__ = [
    "Json",
    "estimates_json",
    "is_lease",
    "sample_json",
    "series_json",
    "spans_json",
    "state_json",
]

Json = dict[str, object]

#: as `harp remote serve` names the tenants of leases; any user may name one so
_LEASE = re.compile(r"remote-.+-[0-9a-f]{8}")


def is_lease(name: str) -> bool:
    """Whether a tenant is named as those of other hosts' leases are."""
    return _LEASE.fullmatch(name) is not None


def state_json(reply: pb.GetStateReply, series: Mapping[tuple[int, float], int]) -> Json:
    """Devices, tenants and processes without a session.

    Args:
        reply: the picture.
        series: {(tenant_id, created_s): number of its series}.
    """
    gpus = {device.uuid: device.index for device in reply.devices}
    return {
        "now_s": reply.now_s,
        "devices": [_device(device) for device in reply.devices],
        "tenants": [_tenant(tenant, gpus, series) for tenant in reply.tenants],
        "uncovered": [_uncovered(one, gpus) for one in reply.uncovered],
    }


def _device(device: pb.Device) -> Json:
    return {
        "gpu": device.index,
        "uuid": device.uuid,
        "name": device.name,
        "kind": KINDS.get(device.kind, "unknown"),
        "memory_bytes": device.memory_bytes,
        "used_bytes": device.used_bytes,
        "leased_bytes": device.leased_bytes,
        "promised_bytes": device.promised_bytes,
        "promised_ratio": device.promised_ppm / PPM,
        "driver_version": device.driver_version,
    }


def _tenant(
    tenant: pb.Tenant, gpus: Mapping[str, int], series: Mapping[tuple[int, float], int]
) -> Json:
    return {
        "series": series.get((tenant.tenant_id, tenant.created_s)),
        "name": tenant.name,
        "user": tenant.user,
        "lease": is_lease(tenant.name),
        "class": TenantClass(tenant.tenant_class).label,
        "share_ratio": tenant.share_ppm / PPM or None,
        "limit_ratio": tenant.limit_ppm / PPM or None,
        "mem_limit_bytes": tenant.mem_limit_bytes or None,
        "oversubscribe": tenant.oversubscribe,
        "suspended": tenant.suspended,
        "created_s": tenant.created_s,
        "processes": [
            {
                "pid": client.pid,
                "program": client.program,
                "draining": client.state == pb.CLIENT_STATE_DRAINING,
            }
            for client in tenant.clients
        ],
        "uses": [
            {
                "gpu": gpus.get(use.uuid),
                "used_ratio": use.used_ratio if tenant.window_s else None,
                "used_s": use.used_ns / 1e9,
                "estimated_s": use.estimated_ns / 1e9,
                "wait_s": use.wait_ns / 1e9,
                "launches": use.launches,
                "denials": use.denials,
                "mem_bytes": use.charged_bytes,
                "mem_peak_bytes": use.peak_bytes,
                "mem_over_limit_bytes": use.over_limit_bytes,
                "residency": RESIDENCIES.get(use.residency.state, "resident"),
            }
            for use in tenant.uses
        ],
    }


def _uncovered(one: pb.Uncovered, gpus: Mapping[str, int]) -> Json:
    return {
        "pid": one.pid,
        "program": one.name,
        "user": one.user,
        "gpu": gpus.get(one.device_uuid),
        "mem_bytes": one.mem_bytes,
        "tenant": one.tenant or None,
        "since_s": one.since_s,
        "action": one.action,
    }


def sample_json(sample: Sample, gpus: Mapping[str, int]) -> Json:
    """A sample; `points` are rows of series, GPU, ratio, bytes, ratio of waiting."""
    return {
        "n": sample.number,
        "at_s": round(sample.at_s, 3),
        "span_s": round(sample.span_s, 3),
        "used_bytes": {
            str(gpus[uuid]): used for uuid, used in sample.used_bytes.items() if uuid in gpus
        },
        "points": [
            [p.series, gpus[p.uuid], _short(p.ratio), p.mem_bytes, _short(p.wait_ratio)]
            for p in sample.points
            if p.uuid in gpus
        ],
    }


def spans_json(spans: tuple[Span, ...], gpus: Mapping[str, int]) -> list[list[object]]:
    """Rows of series, GPU, begin, end, seconds of device time."""
    return [
        [s.series, gpus[s.uuid], round(s.begin_s, 3), round(s.end_s, 3), round(s.used_s, 6)]
        for s in spans
        if s.uuid in gpus
    ]


def series_json(series: Mapping[int, Series]) -> dict[str, Json]:
    """Whose the series are; JSON has texts for keys."""
    return {
        str(one.number): {"name": one.name, "user": one.user, "created_s": one.created_s}
        for one in series.values()
    }


def estimates_json(seen: EstimatorSeen) -> Json:
    """How often bounds held, and what they save: of all jobs together, nobody's in particular."""
    return {
        "mode": seen.mode,
        "targets": [
            {
                "target": name,
                "judged": recent.judged,
                "coverage_ratio": recent.coverage_ratio,
                "confidence_ratio": recent.confidence_ratio,
                "saved_ratio": recent.saved_ratio if name == "gpu_mem_bytes" else None,
            }
            for name, (_, recent) in seen.targets.items()
        ],
        "pools": [
            {
                "gpu": pool.device.index,
                "buffer_ratio": pool.buffer_ratio,
                "reserved_bytes": pool.reserved_bytes,
            }
            for pool in seen.pools
        ],
    }


def _short(ratio: float | None) -> float | None:
    return None if ratio is None else round(ratio, 5)
