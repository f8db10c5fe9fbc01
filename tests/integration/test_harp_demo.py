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
def test_demo_keeps_what_it_promises(native_dir: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "CUDA_"))}
    env["HARP_NATIVE_DIR"] = str(native_dir)
    demo = subprocess.Popen(
        [sys.executable, "-m", "harp", "demo", "--shares", "30,70", "--json"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        stdout, stderr = demo.communicate(timeout=550)
    finally:
        demo.kill()
        demo.wait()
    assert demo.returncode == 0, stdout + stderr
    result = json.loads(stdout.splitlines()[-1])
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
    for folder in ("/tmp", "/dev/shm"):
        assert list(Path(folder).glob(f"harp-demo-{demo.pid}-*")) == []  # nothing is left behind
