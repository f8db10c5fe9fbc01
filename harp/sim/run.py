# SPDX-License-Identifier: Apache-2.0
"""From a scenario to its result."""

from __future__ import annotations

from pathlib import Path

from harp.sim.core import load
from harp.sim.report import Result, result
from harp.sim.scenario import Scenario
from harp.sim.world import World

__all__ = ["simulate"]


def simulate(scenario: Scenario, core: Path) -> Result:
    """Run a scenario to its end.

    Args:
        scenario: has at least one tenant.
        core: the policy core's library (NativeDir.arbiter_core).

    Raises:
        NativeError: the core cannot be loaded, or refuses the scenario.
    """
    world = World(scenario, load(core))
    world.run()
    return result(world)
