# SPDX-License-Identifier: Apache-2.0
"""What the arbiter is told when it is started, and what is read back of one that runs."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from harp.config import TimeConfig
from harp.daemon.link import time_arguments, time_of

SETTINGS = [
    TimeConfig(),
    TimeConfig(policy="fifo"),
    TimeConfig(quantum_us=2000, burst_us=9000),
    TimeConfig("priority", 50_000, 1000),
]


def test_an_arbiter_is_told_all_its_time_settings() -> None:
    told = time_arguments(TimeConfig("fifo", 2000, 0))
    assert told == ["--policy", "fifo", "--quantum-us", "2000", "--burst-us", "0"]


@pytest.mark.parametrize("settings", SETTINGS)
def test_a_running_arbiters_settings_are_read_back(settings: TimeConfig) -> None:
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "--run", "x", *time_arguments(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout
        child.stdout.readline()  # it has its own command line by now
        assert time_of(child.pid) == settings
        child.communicate()


def test_of_an_arbiter_that_is_gone_the_defaults_are_said() -> None:
    with subprocess.Popen(["true"]) as child:
        pass
    assert time_of(child.pid) == TimeConfig()
    assert time_of(os.getpid()) == TimeConfig()
