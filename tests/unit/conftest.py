# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the unit tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from arbiter_core import GRANULE, QUANTUM, Core


@pytest.fixture
def core() -> Iterator[Core]:
    """The arbiter's core with one device and the usual quantum."""
    core = Core(quantum_ns=QUANTUM)
    core.add_device(100 * GRANULE)
    yield core
    core.close()
