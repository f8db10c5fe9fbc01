# SPDX-License-Identifier: Apache-2.0
"""A million frames of a client that lies, to a harp-worker built with ASan and UBSan."""

from __future__ import annotations

import os
import random
import re
import subprocess
import tempfile

import pytest

from tests.integration.shim_world import ROOT

BUILT = ROOT / "build" / "dev"
FUZZER = BUILT / "tests" / "worker_frames_fuzz"
WORKER = BUILT / "src" / "worker" / "harp-worker"


@pytest.mark.slow
def test_a_million_frames() -> None:
    """ctest asks a tenth of it, with one seed.

    Four at a time: a session that ends waits until its device is at rest, and does nothing then.
    """
    [*drivers] = (BUILT / "soft" / "gpu").glob("*libcuda.so.1")
    if not (FUZZER.exists() and WORKER.exists() and drivers):
        pytest.skip("no sanitized build here; remedy: tests/check --only native")
    seed = int(os.environ.get("HARP_TEST_SEED") or random.randrange(1 << 30))
    folder = tempfile.TemporaryDirectory(dir="/dev/shm", prefix="harp-test-")
    fuzzers = [
        subprocess.Popen(
            [FUZZER, WORKER, drivers[0], str(seed + n), "250000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=os.environ | {"HARP_TEST_FOLDER": folder.name},
        )
        for n in range(4)
    ]
    try:
        for n, fuzzer in enumerate(fuzzers):
            out, err = fuzzer.communicate(timeout=280)
            if fuzzer.returncode != 0:
                at = re.search(r"==\d+==ERROR|runtime error", err)
                report = err[at.start() :][:20000] if at else err[-6000:]
                pytest.fail(f"seed {seed + n}: {report}\n{out}{err[-300:]}", pytrace=False)
            print(out)
    finally:
        for fuzzer in fuzzers:
            fuzzer.kill()
            fuzzer.communicate()
        folder.cleanup()
