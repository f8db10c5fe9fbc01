# SPDX-License-Identifier: Apache-2.0
"""What the control API's numbers are called in JSON, wherever it is shown."""

from __future__ import annotations

from harp.api.v1 import control_pb2 as pb

__all__ = ["KINDS", "RESIDENCIES"]

KINDS = {pb.DEVICE_KIND_NVIDIA: "nvidia", pb.DEVICE_KIND_SOFTWARE: "software"}
RESIDENCIES = {
    pb.RESIDENCY_STATE_RESIDENT: "resident",
    pb.RESIDENCY_STATE_EVICTING: "leaving",
    pb.RESIDENCY_STATE_AWAY: "away",
    pb.RESIDENCY_STATE_RESTORING: "returning",
    pb.RESIDENCY_STATE_SUSPENDED: "suspended",
}
