# SPDX-License-Identifier: Apache-2.0
"""What programs that tests start inherit, however the tests themselves were started."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STATUS = ("cat", "/proc/self/status")
#: as a shell without job control starts what it has in the background
BACKGROUND = ("sh", "-c", "trap '' HUP INT QUIT; exec \"$@\"", "sh")
#: what pytest calls before the first test, and then a test's program
TESTS = """
import subprocess
from tests import conftest
conftest.pytest_configure()
subprocess.run(["cat", "/proc/self/status"], check=True)
"""


def ignored(*command: str) -> set[signal.Signals]:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    fields = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    bits = int(fields["SigIgn"], 16)
    asked = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
    return {number for number in asked if bits & 1 << (number - 1)}


def test_they_ignore_no_signal_because_the_tests_run_in_the_background() -> None:
    assert len(ignored(*BACKGROUND, *STATUS)) == 3, "it is inherited"
    assert ignored(*BACKGROUND, sys.executable, "-c", TESTS) == set()


@pytest.mark.parametrize("command", [STATUS, (sys.executable, "-c", TESTS)])
def test_nor_in_these_tests(command: tuple[str, ...]) -> None:
    assert ignored(*command) == set()
