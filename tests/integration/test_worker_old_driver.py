# SPDX-License-Identifier: Apache-2.0
"""harp-worker over a driver that lacks functions which the worker calls for itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from ring_client import Worker

from harp.wire._tables import STRUCTS

NOT_FOUND = 500
DRIVER = """
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *version) { *version = 11000; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuStreamSynchronize(void *stream) { return 0; }
int cuMemcpyHtoD_v2(unsigned long long to, const void *from, unsigned long bytes) { return 0; }
"""


def test_what_an_old_driver_has_not_ends_no_session(native_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "old.c").write_text(DRIVER)
    library = tmp_path / "libcuda.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", tmp_path / "old.c", "-o", library], check=True)
    env = {"PATH": os.environ["PATH"]}
    with Worker(native_dir, library, env) as worker:
        client = worker.dial()
        assert (
            client.must("harpSession", devices=1, driver_version=1, loading_mode=1)["devices"] == 1
        )
        # What a device is, the worker asks of its own; for memory the program asks.
        fields = STRUCTS["struct harp_wire_device"]
        facts = {f.name: [0] * f.fixed if f.fixed else 0 for f in fields}
        assert client.ask("harpSnapshot", device=0, facts=facts)[0] == NOT_FOUND
        assert client.ask("cuMemAlloc_v2", dptr=1, bytesize=4096)[0] == NOT_FOUND
        assert client.ask("cuStreamSynchronize", hStream=0)[0] == 0
        client.close()
        assert worker.ended() == 0
