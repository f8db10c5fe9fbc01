# SPDX-License-Identifier: Apache-2.0
"""`harp bench plugin`: runs the plugin's own bench, and tells right grants from wrong ones."""

from __future__ import annotations

import gzip
import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_plugin import bench
from device_plugin.allocator import Share, limits
from device_plugin.bench import Figures
from device_plugin.book import Grant, grant_id
from device_plugin.checkpoint import Checkpoint, save
from device_plugin.fake_kubelet import AdmissionError, FakeKubelet
from device_plugin.identity import Owner
from harp.bench.plugin import run_plugin, slots_of
from harp.errors import ConfigError
from harp.scheduler import Pod

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


@pytest.mark.slow
def test_pods_of_a_list_come_and_go(tmp_path: Path) -> None:
    """Shares, whole GPUs and several, from a gzipped list; those that do not fit are counted."""
    path = tmp_path / "pods.csv.gz"
    rows = [f"p{n},1000,1024,{gpus},{milli}" for n, (gpus, milli) in enumerate(ASKS)]
    text = "\n".join(["name,cpu_milli,memory_mib,num_gpu,gpu_milli", *rows])
    path.write_bytes(gzip.compress(text.encode()))
    done = subprocess.run(
        [sys.executable, "-m", "harp", "bench", "plugin", "--quick", "--json", "--pods", path],
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
    assert found["live"] < 200
    assert found["refused"] > 0
    assert found["pods"] + found["refused"] == 160
    assert found["pods"] > found["live"] > 4
    assert found["grants_checked"] >= found["live"]


#: (num_gpu, gpu_milli)
ASKS = [(1, 305), (1, 460), (1, 1000), (2, 1000), (0, 0), (1, 10), (1, 5)]


def test_pods_of_a_list_ask_for_whole_slots() -> None:
    pods = [Pod(f"p{n}", 0, 0, gpus, milli) for n, (gpus, milli) in enumerate(ASKS)]
    assert slots_of(pods) == [31, 46, 100, 200, 1, 1]
    with pytest.raises(ConfigError, match="none of the pods asks for a GPU"):
        slots_of([Pod("a", 1000, 0)])


class _Full:
    """A kubelet that refuses all pods, for one reason."""

    def __init__(self, why: str) -> None:
        self.why = why

    def admit(self, *_: object) -> None:
        raise AdmissionError(self.why)


@pytest.mark.parametrize(
    ("why", "sizes", "counted"),
    [
        ("requested: 100, available: 30", [100], True),
        ("60 slots must be of one GPU; largest free share on one GPU is 40, need 60", [60], True),
        ("the plugin is not registered", [60], False),
        ("requested: 100, available: 30", [], False),
    ],
)
def test_who_does_not_fit_is_no_failure_and_all_else_is(
    why: str, sizes: list[int], counted: bool
) -> None:
    kubelet: Any = _Full(why)
    if counted:
        assert bench._admit(kubelet, random.Random(1), 0, sizes) == ""
        return
    with pytest.raises(AdmissionError, match=why):
        bench._admit(kubelet, random.Random(1), 0, sizes)


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
