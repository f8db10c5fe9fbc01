# SPDX-License-Identifier: Apache-2.0
"""`harp doctor --probe` on the software GPU, whose answers are known: its questions do ask."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.machine import ROOT

#: figures of a host that is busy may be lost in its noise, and are said to be unknown then
NOISY = {"event_pair", "event_pair_device", "switch", "slice", "slice_most"}
#: memory does not move in the software GPU; nobody can know of tables who does not see them asked
NEVER = {"managed_in", "managed_out", "managed_prefetch", "tables_asked"}


def harp(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harp", "doctor", "--probe", *arguments],
        env={**env, "PYTHONPATH": str(ROOT), "HARP_CONFIG_DEVICE_KIND": "software"},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


@pytest.fixture
def env(soft_env: dict[str, str]) -> dict[str, str]:
    """No LD_LIBRARY_PATH: the probes are told which driver."""
    return {k: v for k, v in soft_env.items() if k != "LD_LIBRARY_PATH"}


def test_every_question_is_answered_and_the_software_gpu_named(
    env: dict[str, str], native_dir: Path
) -> None:
    done = harp(env, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    print(json.dumps(told, indent=1))
    assert told["software"] is True
    assert "no" in told["note"] or "nothing" in told["note"]
    assert told["others"] == 0
    found: dict[str, Any] = {a["key"]: a["answer"] for a in told["answers"]}
    unknown = {a["key"]: a["unknown"] for a in told["answers"] if a["answer"] is None}
    assert set(unknown) <= NOISY | NEVER, unknown
    assert unknown.keys() >= {"tables_asked"}
    assert all(reason for reason in unknown.values())
    # What the software GPU is made to do (native/soft): the probes see it.
    assert found["library"] == str((native_dir / "soft" / "libcuda.so.1").resolve())
    assert found["cuda"] == "13.0"
    assert (found["same"] > 600, found["differ"], found["hidden"]) == (True, 0, 0)
    assert (found["queue"], found["queue_full"]) == (1023, "yes")
    assert found["context"] == 512 << 20
    assert found["granularity"] == 2 << 20
    if "slice" not in unknown:  # in between this host's own processors take turns, and it shows
        assert 0 < found["slice"] <= found["slice_most"]
    assert found["empty_kernel"] >= 2
    for kind in ("plain", "pool", "graph", "vmm"):
        assert found[f"checkpoint_{kind}"] == "yes"
    assert found["checkpoint_managed"].startswith("no: cuCheckpointProcessCheckpoint")
    assert found["cudart_table"].startswith("no: ")


def test_an_unknown_gpu_is_an_error_before_anything_is_asked(env: dict[str, str]) -> None:
    done = harp(env, "--gpu", "7", "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout.splitlines()[-1])["error"]
    assert told["kind"] == "NoDevice"
    assert "asking" not in done.stderr


def test_a_driver_that_is_no_driver_is_an_answer(env: dict[str, str], tmp_path: Path) -> None:
    """Each question says why it has none; the command itself does not fail."""
    code = """
import sys
from pathlib import Path
from harp.probe import ask, questions
from harp.native import find
import os
real = ask.discover
def other(*words):
    found = real(*words)
    return ask.Found(found.kind, found.nvml, found.devices, Path(sys.argv[1]), found.nvml_path)
ask.discover = other
found = ask.probe(find(os.environ), os.environ, "software", None, lambda _: None)
print(sorted({a.unknown for _, a in found.answers}))
print({a.value for _, a in found.answers})
"""
    fake = tmp_path / "libcuda.so.1"
    fake.write_bytes(b"\x7fELF nothing")
    done = subprocess.run(
        [sys.executable, "-c", code, str(fake)],
        env={**env, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reasons, values = done.stdout.splitlines()
    assert values == "{None}"
    assert "ended with status 1: OSError" in reasons
