# SPDX-License-Identifier: Apache-2.0
"""What a driver-API client sees, area by area, each case in its own process."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
AREAS = sorted(path.stem.split("_cases_")[1] for path in FOLDER.glob("soft_mod_cases_*.py"))


def _cases() -> list[tuple[str, str]]:
    for area in AREAS:
        importlib.import_module(f"soft_mod_cases_{area}")
    cases: dict[str, object] = importlib.import_module("soft_mod_driver").CASES
    return [(body.__module__.removeprefix("soft_mod_cases_"), name) for name, body in cases.items()]


@pytest.mark.parametrize(("area", "name"), _cases())
def test_case(area: str, name: str, soft_env: dict[str, str]) -> None:
    script = FOLDER / f"soft_mod_cases_{area}.py"
    soft_env["HARP_SOFT_VERBOSE"] = "1"
    done = subprocess.run(
        [sys.executable, "-B", str(script), name],
        env=soft_env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    assert done.stdout.splitlines()[-1] == "passed"
