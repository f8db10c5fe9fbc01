# SPDX-License-Identifier: Apache-2.0
"""`harp bench plugin`: runs the plugin's own bench, and tells right grants from wrong ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from device_plugin import bench
from device_plugin.allocator import Share, limits
from device_plugin.bench import Figures
from device_plugin.book import Grant, grant_id
from device_plugin.checkpoint import Checkpoint, save
from device_plugin.fake_kubelet import FakeKubelet
from device_plugin.identity import Owner
from harp.bench.plugin import run_plugin
from harp.errors import ConfigError

GOOD = Figures(
    allocate_p99_ms=1.0,
    preferred_p99_ms=1.0,
    start_p99_ms=9.0,
    pods_per_s=150.0,
    wrong_grants=0,
    grants_checked=4000,
    reregister_max_s=0.3,
    series_max_s=0.1,
    list_bytes=19_000,
    pods=160,
    live=200,
)


@pytest.mark.slow
def test_the_command_says_the_figures() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harp", "bench", "plugin", "--quick", "--json"],
        env={k: v for k, v in os.environ.items() if not k.startswith("HARP_")},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found["wrong_grants"] == 0
    assert found["grants_checked"] >= 20 * found["live"] == 4000
    # ten times what issue 7 asks of an idle machine
    assert found["allocate_p99_ms"] <= 100
    assert found["pods_per_s"] >= 10
    assert found["reregister_max_s"] <= 20
    assert found["series_max_s"] <= 20
    assert found["list_bytes"] <= 64 << 10


def test_targets_that_are_missed_are_named_and_no_failure() -> None:
    assert GOOD.json()["targets_missed"] == []
    slow = replace(GOOD, pods_per_s=99.0, allocate_p99_ms=10.1, reregister_max_s=2.0)
    assert slow.json()["targets_missed"] == ["allocate_p99_ms", "pods_per_s"]
    late = replace(GOOD, series_max_s=2.1, list_bytes=(64 << 10) + 1)
    assert late.json()["targets_missed"] == ["series_max_s", "list_bytes"]
    assert slow.ok


def test_a_wrong_grant_or_too_few_looked_at_is_a_failure() -> None:
    assert GOOD.ok
    assert not replace(GOOD, wrong_grants=1).ok
    assert not replace(GOOD, grants_checked=199).ok


def _grant(slots: bench.Slots, pod: str, ids: tuple[str, ...]) -> Grant:
    right = limits(slots, Share((0,), len(ids)))
    return Grant(grant_id(ids), frozenset(ids), (), right, Owner("ns", pod, "main"))


@pytest.mark.parametrize(
    ("what", "wrong"),
    [("right", 0), ("swapped", 2), ("missing", 1), ("nobody's", 2), ("too large", 1)],
)
def test_each_kind_of_wrong_grant_is_counted(tmp_path: Path, what: str, wrong: int) -> None:
    slots = bench._slots()
    kubelet = FakeKubelet(tmp_path / "k")
    a, b = slots.ids(0)[:3], slots.ids(0)[3:6]
    kubelet.devices.held = {
        ("ns", "a"): {"main": frozenset(a)},
        ("ns", "b"): {"main": frozenset(b)},
    }
    grants = [_grant(slots, "a", a), _grant(slots, "b", b)]
    match what:
        case "swapped":
            grants = [_grant(slots, "b", a), _grant(slots, "a", b)]
        case "missing":
            grants.pop()
        case "nobody's":
            grants[1] = replace(grants[1], owner=None)
        case "too large":
            grants[1] = replace(grants[1], limits=limits(slots, Share((0,), 4)))
    save(tmp_path / "s" / "device-plugin.json", Checkpoint(None, 100, tuple(grants)))
    assert bench._compare(kubelet, slots, tmp_path) == (wrong, 2)


def test_without_the_plugin_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harp.bench.plugin._BESIDE", tmp_path)
    monkeypatch.setattr("harp.bench.plugin._MODULE", "device_plugin_that_is_not_there")
    with pytest.raises(ConfigError, match="not part of HARP's wheel"):
        run_plugin({}, quick=True)
