# SPDX-License-Identifier: Apache-2.0
"""A million frames of a client that lies, to a harp-worker built with ASan and UBSan."""

from __future__ import annotations

import os
import random
import subprocess

import pytest

from tests.integration.shim_world import ROOT

BUILT = ROOT / "build" / "dev"
FUZZER = BUILT / "tests" / "worker_frames_fuzz"
WORKER = BUILT / "src" / "worker" / "harp-worker"


@pytest.mark.slow
@pytest.mark.timeout(900)  # each session that ends wipes what it had
def test_a_million_frames() -> None:
    """ctest asks a tenth of it, with one seed."""
    [*drivers] = (BUILT / "soft" / "gpu").glob("*libcuda.so.1")
    if not (FUZZER.exists() and WORKER.exists() and drivers):
        pytest.skip("no sanitized build here; remedy: tests/check --only native")
    seed = os.environ.get("HARP_TEST_SEED") or str(random.randrange(1 << 32))
    done = subprocess.run(
        [FUZZER, WORKER, drivers[0], seed, "1000000"],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=880,
        check=False,
    )
    assert done.returncode == 0, (seed, done.stderr[-6000:])
    print(done.stdout)
