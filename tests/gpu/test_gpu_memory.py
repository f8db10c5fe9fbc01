# SPDX-License-Identifier: Apache-2.0
"""Memory on a real GPU: suspended and resumed, more than fits, pools under a limit, an upgrade."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Gpu

pytestmark = pytest.mark.gpu

PROGRAMS = Path(__file__).with_name("gpu_held.py")
MIB, GIB = 1 << 20, 1 << 30
Record = Callable[[str, object], None]


class Held:
    """A program under `harp run`, which answers lines."""

    def __init__(self, gpu: Gpu, *run: str, what: tuple[str, ...]) -> None:
        self.child = gpu.begin([sys.executable, str(PROGRAMS), *what], run)

    def hear(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        assert line, f"it ended: {self.child.wait(10)}"
        return dict(json.loads(line))

    def go(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.write("go\n")
        self.child.stdin.flush()

    def ask(self) -> dict[str, Any]:
        self.go()
        return self.hear()


def told(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_suspended_tenant_frees_the_device_and_goes_on(gpu: Gpu, record_property: Record) -> None:
    size = 256 if gpu.software else 4096
    held = Held(gpu, "--name", "held", "--mem", f"{2 * size}MiB", what=("keep", str(size)))
    assert held.hear()["ready"]
    first, full = held.ask(), gpu.nvml.memory_used(gpu.uuid)
    begin_s = time.monotonic()
    record_property("suspend", told(gpu.harp("suspend", "held", "--json")))
    suspend_s, empty = time.monotonic() - begin_s, gpu.nvml.memory_used(gpu.uuid)
    record_property("ps", told(gpu.harp("ps", "--json"))["tenants"])
    begin_s = time.monotonic()
    record_property("resume", told(gpu.harp("resume", "held", "--json")))
    resume_s, again = time.monotonic() - begin_s, held.ask()
    seen = {"full": full, "empty": empty, "back": gpu.nvml.memory_used(gpu.uuid)}
    record_property("seen", {**seen, "suspend_s": suspend_s, "resume_s": resume_s, "again": again})
    assert full - empty >= size * MIB
    assert again["wrong"] == first["wrong"] == 0
    assert again["pointer"] == first["pointer"]


def test_more_than_fits(gpu: Gpu, record_property: Record) -> None:
    """Two of 12 GiB take turns on the 20 GiB that a third leaves them."""
    unit = GIB // 16 if gpu.software else GIB
    (device,) = (one for one in gpu.nvml.devices() if one.uuid == gpu.uuid)
    total = device.memory_bytes
    third = (total - 20 * unit - 2 * GIB) // MIB  # contexts take some, too
    idle = Held(gpu, "--name", "third", "--mem", f"{third}MiB", what=("keep", "64"))
    assert idle.hear()["ready"]
    size = str(12 * unit // MIB)
    pair = []
    for tag in ("1", "2"):
        run = ("--name", f"turns-{tag}", "--mem", f"{12 * unit // MIB + 64}MiB", "--oversubscribe")
        pair.append(Held(gpu, *run, what=("turns", size, tag, "14")))
    for one in pair:
        assert one.hear()["ready"]
    for one in pair:
        one.go()
    most = 0
    end_s = time.monotonic() + 10
    while time.monotonic() < end_s:
        most = max(most, gpu.nvml.memory_used(gpu.uuid))
        time.sleep(0.01)
    ps = told(gpu.harp("ps", "--json"))["tenants"]
    record_property("ps", [t for t in ps if t["name"].startswith("turns")])
    said = [one.hear() for one in pair]
    record_property("said", said)
    record_property("most_used_bytes", most)
    assert [one["wrong"] for one in said] == [0, 0]
    assert min(one["rounds"] for one in said) > 0
    assert idle.ask()["wrong"] == 0


def test_pools_keep_to_the_limit(gpu: Gpu, record_property: Record) -> None:
    held = Held(gpu, "--name", "pooled", "--mem", "1GiB", what=("pooled",))
    said = held.hear()
    record_property("said", said)
    assert said["last"] == 2
    assert 1024 - 160 <= said["had_mib"] <= 1024
    assert said["after"] == said["free"]
    assert said["again"] == 0


def test_an_upgrade_under_a_running_program(gpu: Gpu, record_property: Record) -> None:
    held = Held(gpu, "--name", "held", "--mem", "1GiB", what=("keep", "256"))
    assert held.hear()["ready"]
    begin_s = time.monotonic()
    done = gpu.harp("daemon", "--upgrade")
    record_property("seconds", time.monotonic() - begin_s)
    assert done.returncode == 0, done.stdout + done.stderr
    assert held.ask()["wrong"] == 0
    (one,) = told(gpu.harp("ps", "--json"))["tenants"]
    record_property("tenant", one)
    assert one["mem_leased_bytes"] >= 256 * MIB
