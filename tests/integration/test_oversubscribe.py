# SPDX-License-Identifier: Apache-2.0
"""Two trainings of 80 % of the device each, under `harp run --oversubscribe`: as if alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.integration.machine import ROOT, Machine, machine

PROGRAM = ROOT / "tests" / "clients" / "programs" / "large.py"
TINYGRAD = {"DEV": "CUDA:PTX", "CC": "false", "CACHELEVEL": "0", "PYTHONDONTWRITEBYTECODE": "1"}
MIB = 1 << 20
DEVICE, BALLAST_MIB, LIMIT_MIB, STEPS = "h100-mini", 28, 34, 160
SEEDS = (1, 2)
#: HARP_SWAP_PART: a stay is so many times what the swaps around it take
SWAP_PART = 10
TIMEOUT_S = 240.0


@contextmanager
def box(native_dir: Path, *rules: str) -> Iterator[Machine]:
    """A small device; `rules` say what it lacks."""
    extra = {"HARP_SOFT_DEVICES": DEVICE, "HARP_CONFIG_DEVICE_OVERHEAD_BYTES": str(2 * MIB)}
    with machine(native_dir, **extra) as made:
        if rules:
            subprocess.run(
                [native_dir / "harp-soft-fault", "set", *rules], env=made.env, check=True
            )
        made.start_harpd()
        yield made


def command(seed: int) -> list[str]:
    """The training."""
    work = {"mib": BALLAST_MIB, "seed": seed, "steps": STEPS}
    return [sys.executable, str(PROGRAM), *(f"--{name}={n}" for name, n in work.items())]


def line(child: subprocess.Popen[str]) -> str:
    """What it says next."""
    assert child.stdout
    said = child.stdout.readline()
    if not said:
        raise AssertionError(child.communicate()[1])
    return said


@pytest.fixture(scope="module")
def alone(native_dir: Path) -> dict[int, list[float]]:
    """{seed: losses} without HARP, each on a device of its own."""
    children = {}
    losses = {}
    with machine(native_dir, HARP_SOFT_DEVICES=f"{DEVICE},{DEVICE}") as bare:
        for device, seed in enumerate(SEEDS):
            env = {**bare.env, **TINYGRAD, "LD_LIBRARY_PATH": str(native_dir / "soft")}
            children[seed] = subprocess.Popen(
                command(seed),
                env={**env, "CUDA_VISIBLE_DEVICES": str(device)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        bare.children.extend(children.values())
        for seed, child in children.items():
            out, err = child.communicate("go\n", timeout=TIMEOUT_S)
            assert child.returncode == 0, err
            said = json.loads(out.splitlines()[-1])
            assert said["wrong"] == 0
            losses[seed] = said["losses"]
    return losses


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("rules", [(), ("novmm",)], ids=["vmm", "managed"])
def test_oversub_1_5x_trainings_end_as_if_alone(
    native_dir: Path, tmp_path: Path, alone: dict[int, list[float]], rules: tuple[str, ...]
) -> None:
    log = tmp_path / "log"
    env = {**TINYGRAD, "HARP_LOG": str(log)}
    with box(native_dir, *rules) as made:
        options = ("--oversubscribe", "--mem", f"{LIMIT_MIB}MiB")
        children = [
            made.tenant(*options, "--name", f"seed-{seed}", command=command(seed), **env)
            for seed in SEEDS
        ]
        for child in children:
            assert line(child) == "ready\n"
        for child in children:
            assert child.stdin
            child.stdin.write("go\n")
            child.stdin.flush()
        said = [json.loads(line(child)) for child in children]
        found = [made.ps(f"seed-{seed}") for seed in SEEDS]
        ledger = made.truth()
        for child in children:
            _, err = child.communicate(timeout=TIMEOUT_S)
            assert child.returncode == 0, err

    assert ("tier=managed" in (log.read_text() if log.exists() else "")) is bool(rules)
    for seed, one in zip(SEEDS, said, strict=True):
        assert one["losses"] == alone[seed]
        assert one["wrong"] == 0
    (device,) = ledger["devices"]
    peaks = [row["peak_bytes"] for row in ledger["processes"]]
    assert device["used_bytes"] <= device["capacity_bytes"]
    residency = [one["devices"][0]["residency"] for one in found if one]
    print(residency, peaks)
    assert len(residency) == len(SEEDS)
    assert sum(row["swaps"] for row in residency) > 0
    # Each had most of the device while it was there.
    assert min(peaks) >= 0.75 * device["capacity_bytes"]
    wall_s = max(one["ended_s"] for one in said) - min(one["begun_s"] for one in said)
    swapping_s = sum(row["swapping_ns"] for row in residency) / 1e9
    one_swap_s = max(row["stay_ns"] for row in residency) / 1e9 / SWAP_PART
    assert swapping_s <= wall_s / SWAP_PART + one_swap_s
