# SPDX-License-Identifier: Apache-2.0
"""Runs client programs, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

#: name of the program, its arguments, environment variables by keyword -> its last line
Client = Callable[..., Any]

PROGRAMS = Path(__file__).parent / "programs"


def run_program(
    env: dict[str, str],
    name: str,
    *args: str,
    timeout_s: float = 280,
    python: str | Path = sys.executable,
) -> Any:
    """Runs programs/NAME with ARGS; its last line on stdout is the JSON value returned."""
    done = subprocess.run(
        [str(python), str(PROGRAMS / name), *args],
        env={**env, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(
            f"{name} {' '.join(args)} ended with {done.returncode}\n"
            f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}",
            pytrace=False,
        )
    return json.loads(done.stdout.splitlines()[-1])
