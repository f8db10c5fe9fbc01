# SPDX-License-Identifier: Apache-2.0
"""The backend `local` is made once for all cases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from local_backend import Locals


@pytest.fixture(scope="session")
def local(native_dir: Path) -> Iterator[Locals]:
    with Locals(native_dir) as machines:
        yield machines
