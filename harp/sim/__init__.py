# SPDX-License-Identifier: Apache-2.0
"""The arbiter's policy on a virtual clock, with modelled clients and one modelled device."""

from __future__ import annotations

from harp.sim.report import Result, as_json, as_text
from harp.sim.run import simulate
from harp.sim.scenario import Scenario, TenantSpec, generate, read

__all__ = [
    "Result",
    "Scenario",
    "TenantSpec",
    "as_json",
    "as_text",
    "generate",
    "read",
    "simulate",
]
