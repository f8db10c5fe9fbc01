# SPDX-License-Identifier: Apache-2.0
"""Programs that several of these tests run."""

from __future__ import annotations

from pathlib import Path

import pytest
from shim_world import compile_c


@pytest.fixture(scope="session")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """shim_busy.c, which keeps a device busy."""
    source = Path(__file__).with_name("shim_busy.c")
    return compile_c(source, tmp_path_factory.mktemp("busy") / "busy")
