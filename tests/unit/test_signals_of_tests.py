# SPDX-License-Identifier: Apache-2.0
"""What programs that tests start inherit, however the tests themselves were started."""

from __future__ import annotations

import signal
import subprocess


def test_they_ignore_no_signal_because_the_tests_run_in_the_background() -> None:
    done = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True)
    fields = dict(line.split(":\t", 1) for line in done.stdout.splitlines() if ":\t" in line)
    ignored = int(fields["SigIgn"], 16)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        assert not ignored & 1 << (number - 1), number
