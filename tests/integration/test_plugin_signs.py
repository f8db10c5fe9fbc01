# SPDX-License-Identifier: Apache-2.0
"""Signs of GPUs' health as NVML gives them, of software GPUs that misbehave on request."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device_plugin.signs import NvmlSigns
from harp.errors import NvmlError
from tests.integration.machine import ROOT, wait_for

SCRIPT = Path(__file__).with_name("as_signs.py")


class Signs:
    """Two GPUs, and who watches them."""

    def __init__(self, env: dict[str, str], native_dir: Path) -> None:
        self._env = {**env, "HARP_SOFT_DEVICES": "tiny,tiny", "PYTHONPATH": str(ROOT)}
        self._fault = native_dir / "harp-soft-fault"
        library = native_dir / "soft" / "libnvidia-ml.so.1"
        self._child = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(library)],
            env=self._env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == 2

    def fault(self, *words: str) -> None:
        command = [str(self._fault), *words]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def wait(self, seconds: float = 1) -> Any:
        return self._ask(f"wait {seconds}")

    def probe(self) -> Any:
        return self._ask("probe")

    def close(self) -> None:
        self._child.kill()
        self._child.communicate()

    def _ask(self, line: str) -> Any:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{line}\n")
        self._child.stdin.flush()
        while not isinstance(said := self._read(), list):  # a line of the log
            pass
        return said

    def _read(self) -> Any:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        assert line, "it ended"
        try:
            return json.loads(line)
        except ValueError:
            return line


@pytest.fixture
def signs(soft_env: dict[str, str], native_dir: Path) -> Iterator[Signs]:
    found = Signs(soft_env, native_dir)
    try:
        yield found
    finally:
        found.close()


def test_without_trouble_there_is_none(signs: Signs) -> None:
    assert signs.probe() == [[0, "good"], [1, "good"]]
    assert signs.wait(0.2) == []


@pytest.mark.parametrize(
    ("rule", "sign"),
    [
        ("xid 31 dev=1", [1, "xid 31"]),
        ("xid 74 dev=0", [0, "xid 74"]),
        ("ecc uncorrected 1 dev=1", [1, "xid 48"]),
    ],
)
def test_what_the_driver_reports_comes_at_once(signs: Signs, rule: str, sign: list[Any]) -> None:
    signs.fault("set", rule)
    assert wait_for(signs.wait, rule) == [sign]


def test_a_lost_gpu_is_seen_and_the_other_is_well(signs: Signs) -> None:
    signs.fault("set", "lost dev=0")
    wait_for(lambda: signs.probe() == [[0, "bad"], [1, "good"]], "it is lost")
    signs.fault("clear")
    wait_for(lambda: signs.probe() == [[0, "good"], [1, "good"]], "it is back")
    signs.fault("set", "xid 74 dev=0")  # and its events are heard again
    assert wait_for(signs.wait, "an event") == [[0, "xid 74"]]


def test_a_library_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NvmlError, match="cannot load"):
        NvmlSigns(tmp_path / "libnvidia-ml.so.1", [])
