# SPDX-License-Identifier: Apache-2.0
"""Samples for the tests of `harp top`."""

from __future__ import annotations

from typing import Any

from harp.api.v1 import control_pb2 as pb

__all__ = ["GIB", "S", "gpu", "reply", "tenant"]

GIB = 1 << 30
S = 10**9


def gpu(index: int = 0, **fields: Any) -> pb.Device:
    return pb.Device(
        **{
            "index": index,
            "uuid": f"GPU-{index}",
            "name": f"Model {index}",
            "kind": pb.DEVICE_KIND_SOFTWARE,
            "memory_bytes": 8 * GIB,
            **fields,
        }
    )


def tenant(number: int, name: str, *uses: pb.DeviceUse, **fields: Any) -> pb.TenantSample:
    return pb.TenantSample(
        **{
            "tenant_id": number,
            "name": name,
            "user": "u",
            "window_s": 10,
            "uses": uses or [pb.DeviceUse(uuid="GPU-0")],
            **fields,
        }
    )


def reply(
    at_s: float, *tenants: pb.TenantSample, gpus: int = 1, dropped: int = 0, **fields: Any
) -> pb.WatchSamplesReply:
    sample = pb.Sample(
        now_s=1e9 + at_s,
        at_ns=round((at_s + 1) * S),
        devices=[gpu(index) for index in range(gpus)],
        tenants=tenants,
        **fields,
    )
    return pb.WatchSamplesReply(sample=sample, dropped=dropped)
