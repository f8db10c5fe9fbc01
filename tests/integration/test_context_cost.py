# SPDX-License-Identifier: Apache-2.0
"""The probe that measures a context, where NVML lists less than the device has less."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import cast

import pytest

from harp.discovery import Nvml, ProcessUse, measure_overhead
from harp.discovery.overhead import Measured
from tests.integration.shim_world import soft_world

MIB = 1 << 20
CONTEXT = 24 * MIB
UUID = "GPU-"


class Lister:
    """NVML of a software GPU, which lists `unlisted` bytes less of each process."""

    def __init__(self, env: dict[str, str], listing: Path, *, unlisted: int, comes: int) -> None:
        self._env, self._listing = env, listing
        self._unlisted, self._comes = unlisted, comes
        self._looks = 0

    def processes(self, _uuid: str) -> list[ProcessUse]:
        return [ProcessUse(pid, size - self._unlisted, compute=True) for pid, size in self._rows()]

    def memory_used(self, _uuid: str) -> int:
        """`comes` bytes of somebody else are there from the second question on."""
        self._looks += 1
        others = self._comes if self._looks > 1 else 0
        return sum(size for _, size in self._rows()) + others

    def _rows(self) -> list[tuple[int, int]]:
        done = subprocess.run(
            [str(self._listing), "--json"], env=self._env, capture_output=True, check=True
        )
        rows = json.loads(done.stdout)["processes"]
        return [
            (row["pid"], row["context_bytes"] + row["mem_bytes"])
            for row in rows
            if row["context_bytes"]
        ]


@pytest.mark.parametrize(
    ("unlisted", "comes", "expected"),
    [
        (0, 0, Measured(CONTEXT, 0)),
        (MIB, 0, Measured(CONTEXT, MIB)),
        (MIB, 500 * MIB, Measured(CONTEXT, MIB)),
        (12 * MIB, 0, Measured(CONTEXT - 12 * MIB, 0)),  # too much to be the driver's
    ],
)
def test_a_probe_takes_the_devices_word_for_the_cost(
    native_dir: Path, unlisted: int, comes: int, expected: Measured
) -> None:
    with soft_world(native_dir) as world:
        tool = native_dir / "soft" / "harp-soft-truth"
        tool = tool if tool.exists() else native_dir / "harp-soft-truth"
        lister = Lister(world.bare_env(), tool, unlisted=unlisted, comes=comes)
        digits = world.uuid.hex()
        found = asyncio.run(
            measure_overhead(
                cast("Nvml", lister), world.cuda, UUID + digits, dict(os.environ) | world.soft_env
            )
        )
        assert found == expected
