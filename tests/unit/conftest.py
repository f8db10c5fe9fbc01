# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from arbiter_core import GRANULE, QUANTUM, Core
from hypothesis import HealthCheck, settings

# An example that the machine held up is no fault: Hypothesis' own limits are 200 ms for one, and a
# second for the first ten to be drawn.
settings.register_profile("harp", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("harp")


@pytest.fixture
def core() -> Iterator[Core]:
    """The arbiter's core with one device and the usual quantum."""
    core = Core(quantum_ns=QUANTUM)
    core.add_device(100 * GRANULE)
    yield core
    core.close()
