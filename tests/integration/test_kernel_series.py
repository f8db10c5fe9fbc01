# SPDX-License-Identifier: Apache-2.0
"""A real program's kernels, from the launch to Prometheus: names, time, occupancy, its trace."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.integration.machine import Machine, machine, wait_for

TINYGRAD = {"DEV": "CUDA:PTX", "CC": "false", "CACHELEVEL": "0", "PYTHONDONTWRITEBYTECODE": "1"}
PROGRAM = """
import sys
from tinygrad import Tensor
a = Tensor.rand(64, 64).realize()
for _ in range(40):
    (a @ a).sum().item()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir, HARP_SOFT_DEVICES="h100-80g", HARP_SOFT_TEARDOWN_MS="0") as found:
        yield found


def told(box: Machine) -> dict[str, Metric]:
    done = box.harp("metrics", "--openmetrics")
    assert done.returncode == 0, done.stderr
    return {metric.name: metric for metric in text_string_to_metric_families(done.stdout)}


@pytest.mark.slow
def test_a_program_s_kernels_have_series_and_its_trace_is_their_example(box: Machine) -> None:
    trace = box.base / "run.trace"
    child = box.tenant(
        *("--name", "job", "--trace", str(trace)),
        command=[sys.executable, "-c", PROGRAM],
        **TINYGRAD,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n", child.communicate()
    found = wait_for(
        lambda: m if (m := told(box))["harp_grant_kernel_seconds"].samples else None, "it has time"
    )
    runs = {s.labels["kernel"]: s.value for s in found["harp_grant_kernel_runs"].samples}
    named = {name for name in runs if name.startswith(("r_", "E_"))}
    assert len(named) >= 2, runs
    assert max(runs.values()) >= 40
    (launches,) = (s.value for s in found["harp_grant_kernel_launches"].samples)
    assert 40 <= sum(runs.values()) <= launches, "those are with copies"
    assert {s.labels["kernel"] for s in found["harp_grant_kernel_occupancy_ratio"].samples} >= named
    copied = {s.labels["direction"]: s.value for s in found["harp_grant_copy_bytes"].samples}
    assert copied["dtoh"] >= 40 * 4
    for sample in found["harp_grant_kernel_seconds"].samples:
        assert sample.labels["source"] in ("measured", "predicted")
        assert sample.exemplar is not None
        assert sample.exemplar.labels["file"] == "run.trace"
        assert len(sample.exemplar.labels["trace_id"]) == 16
    assert trace.stat().st_size
    child.communicate()
    gone = wait_for(
        lambda: m if not (m := told(box))["harp_grant_kernel_runs"].samples else None, "it has none"
    )
    assert not gone["harp_grant_copy_bytes"].samples
