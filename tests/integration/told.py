# SPDX-License-Identifier: Apache-2.0
"""told_program.py as a test drives it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["PROGRAM", "Told"]

PROGRAM = Path(__file__).with_name("told_program.py")


class Told:
    """A running told_program.py: told line by line, answers in JSON."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.pid = int(self._answer()["ready"])

    def do(self, *words: object) -> dict[str, Any]:
        """One step; what the program sees then."""
        assert self.process.stdin
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read() if self.process.stderr else ""
        found: dict[str, Any] = json.loads(line)
        return found
