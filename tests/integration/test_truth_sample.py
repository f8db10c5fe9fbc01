# SPDX-License-Identifier: Apache-2.0
"""The sampler of the truth ledger sees what was held, whose it was, and how often it looked."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from harp.bench.sampler import sampling
from tests.integration.machine import wait_for

PROGRAM = Path(__file__).with_name("gpu_program.py")
MIB = 1 << 20


def test_the_most_that_was_held_is_seen_by_device_and_process_group(
    native_dir: Path, soft_env: dict[str, str]
) -> None:
    env = soft_env | {"HARP_SOFT_DEVICES": "tiny,tiny"}
    with sampling(native_dir, env) as sampler:
        holders = [
            subprocess.Popen(
                [sys.executable, PROGRAM, str(mib)],
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for mib in (24, 41)
        ]
        try:
            for holder in holders:
                assert holder.stdout is not None
                assert holder.stdout.readline() == "ready\n"
            time.sleep(0.2)
        finally:
            holders[0].kill()  # the dead count until the device has their memory back
            for holder in holders:
                holder.communicate()
        time.sleep(0.5)
        seen = sampler.stop()
    assert seen.peak_bytes == {0: (24 + 42) * MIB, 1: 0}
    assert seen.last_bytes == {0: 0, 1: 0}
    groups = {group: peak for (group, device), peak in seen.group_peak_bytes.items() if device == 0}
    assert groups[holders[0].pid] == 24 * MIB
    assert groups[holders[1].pid] == 42 * MIB
    assert 0 < seen.exact <= seen.samples
    assert seen.hz > 20  # 400 asked


def test_it_ends_with_who_started_it(native_dir: Path, soft_env: dict[str, str]) -> None:
    with subprocess.Popen(
        [native_dir / "harp-soft-truth", "--sample", "100"],
        env=soft_env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == '{"sampling": true}\n'
        process.stdin.close()
        wait_for(lambda: process.poll() is not None, "it ends")
        assert process.returncode == 0
