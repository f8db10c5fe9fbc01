# SPDX-License-Identifier: Apache-2.0
"""Shares by the engine's own ledger; and that the same check fails when nobody enforces them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("shares", ["30,70", "10,90", "20,30,50"])
def test_shares_are_kept_within_two_points(native_dir: Path, shares: str) -> None:
    command = [sys.executable, "-m", "harp", "bench", "share", "--json"]
    command += ["--shares", shares, "--seconds", "8", "--repeat", "1"]
    done = subprocess.run(
        command,
        env={**os.environ, "HARP_NATIVE_DIR": str(native_dir)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    print(done.stderr, done.stdout)
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["violations"] == []
    assert result["can_tell"], "the gates were off and the check did not fail"
    assert result["cases"][0]["busy_ratio"] > 0.7, "shares of an idle engine say nothing"
    assert done.returncode == 0
