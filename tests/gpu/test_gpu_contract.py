# SPDX-License-Identifier: Apache-2.0
"""The contract suite on the real driver: the same cases that the software GPU passes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "contract"))
import suite

if TYPE_CHECKING:
    from conftest import Gpu

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(("backend", "area", "name"), suite.params("gpu"))
def test_case(backend: str, area: str, name: str, machine: Gpu) -> None:
    """Bare, one after another; each in a process of its own."""
    assert backend == "gpu"
    suite.run(area, name, machine.bare_env)
