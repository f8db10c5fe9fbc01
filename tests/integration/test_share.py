# SPDX-License-Identifier: Apache-2.0
"""Shares by the engine's own ledger; and that the same check fails when nobody enforces them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench" / "share.py"


def _bench(native_dir: Path, *args: str) -> dict[str, object]:
    env = {**os.environ, "HARP_NATIVE_DIR": str(native_dir)}
    done = subprocess.run(
        [sys.executable, str(BENCH), *args],
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
    result: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.slow
@pytest.mark.parametrize("shares", ["30,70", "10,90", "20,30,50"])
def test_shares_are_kept_within_two_points(native_dir: Path, shares: str) -> None:
    result = _bench(native_dir, "--shares", shares)
    assert result["ok"], result
    busy = result["engine_busy_ratio"]
    assert isinstance(busy, float)
    assert busy > 0.7, result  # shares of an idle engine would say nothing


@pytest.mark.slow
def test_the_check_fails_without_the_gate(native_dir: Path) -> None:
    result = _bench(native_dir, "--no-gate")
    assert not result["ok"], result
