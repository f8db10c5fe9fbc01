# SPDX-License-Identifier: Apache-2.0
"""`harp demo`: two unmodified trainings on one device, end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

KEYS = {
    *("name", "pid", "asked_share", "achieved_share", "mem_limit_bytes", "mem_peak_bytes"),
    *("loss_first", "loss_last"),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_demo_keeps_what_it_promises(native_dir: Path, tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "CUDA_"))}
    env |= {"HARP_NATIVE_DIR": str(native_dir), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "harp", "demo", "--shares", "30,70", "--json"],
        env=env,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result.keys() >= {"device", "software", "seconds", "overrun_ratio", "tenants"}
    assert result["software"] is True
    assert "Software" in result["device"]
    assert len(result["tenants"]) == 2
    for tenant, share in zip(result["tenants"], (0.3, 0.7), strict=True):
        assert tenant.keys() >= KEYS
        assert tenant["asked_share"] == share
        assert abs(tenant["achieved_share"] - share) <= 0.05
        assert 0 < tenant["mem_peak_bytes"] <= tenant["mem_limit_bytes"]
        assert tenant["loss_last"] < tenant["loss_first"] / 2
        assert tenant["loss_equal"] is True
    assert len({tenant["pid"] for tenant in result["tenants"]}) == 2
    assert list(tmp_path.glob("harp-demo-*")) == []  # nothing is left behind
    assert "train-1-30" in done.stderr  # the table
