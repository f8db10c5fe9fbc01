# SPDX-License-Identifier: Apache-2.0
"""The backend `local` is made once for all cases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from local_backend import Local

from tests.integration.shim_world import soft_world


@pytest.fixture(scope="session")
def local(native_dir: Path) -> Iterator[Local]:
    with soft_world(native_dir, devices="h100-80g") as world:
        yield Local(world)
