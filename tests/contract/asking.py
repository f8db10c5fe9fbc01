# SPDX-License-Identifier: Apache-2.0
"""Programs that are asked something in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def answers(program: str, question: object, env: dict[str, str], *args: str) -> Any:
    """What the Python `program` prints, as JSON; it finds `question`, as JSON, in its input."""
    done = subprocess.run(
        [sys.executable, "-c", program, *args],
        input=json.dumps(question),
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)
