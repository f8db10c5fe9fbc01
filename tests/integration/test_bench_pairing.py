# SPDX-License-Identifier: Apache-2.0
"""`harp bench pairing`: jobs that compute and jobs that wait are faster together than equals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.machine import ROOT


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_opposites_end_before_equals(native_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harp", "bench", "pairing", "--rounds", "3", "--json"],
        env={**os.environ, "HARP_NATIVE_DIR": str(native_dir), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["ok"]
    # Alone each of the four takes 2 s; two that compute have one GPU after each other.
    assert found["pairings"]["equals"]["makespan_s_median"] > 3.9
    assert found["ratio"] < 1
