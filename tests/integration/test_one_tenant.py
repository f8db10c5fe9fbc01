# SPDX-License-Identifier: Apache-2.0
"""One tenant's description and its programs: a whole GPU, a MIG-like instance, here and elsewhere.

Whatever it runs on, its programs read the same bytes and see a device of the size it was given.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.remote_world import serving
from tests.integration.shim_world import MIB, soft_world
from tests.integration.test_clients_under_harp import PROGRAMS

pytestmark = pytest.mark.slow

#: the description: what `harp run --mem 2GiB --share 50%` says
TENANT = {"mem": 2048 * MIB, "share_ppm": 500_000}
CASES = ("launch", "module", "graph_captured")
WHOLE, INSTANCE = "h100-80g", "h100-mig-2x40g"
#: where the worker's tenant is another process than the program
BACKINGS = {
    "local": (WHOLE, False),
    "mig": (INSTANCE, False),
    "remote": (WHOLE, True),
    "remote mig": (INSTANCE, True),
}
TOTAL = """
import ctypes
cuda, total, name = ctypes.CDLL("libcuda.so.1"), ctypes.c_size_t(), ctypes.create_string_buffer(99)
assert not cuda.cuInit(0) and not cuda.cuDeviceTotalMem_v2(ctypes.byref(total), 0)
assert not cuda.cuDeviceGetName(name, 99, 0)
print(total.value, "MIG" in name.value.decode())
"""


@contextlib.contextmanager
def backing(name: str, native: Path, folder: Path) -> Iterator[dict[str, str]]:
    """The environment of the tenant's programs."""
    devices, elsewhere = BACKINGS[name]
    with soft_world(native, devices=devices) as world:
        world.tenant("one", **TENANT)
        env = world.env("one")
        if not elsewhere:
            yield env
            return
        del env["LD_PRELOAD"]  # libharp is the driver that the worker opens
        plain = {k: v for k, v in world.bare_env().items() if not k.startswith(("HARP_", "LD_"))}
        with serving(native, folder, env, world.shim / "libcuda.so.1") as served:
            yield served.client_env(plain)


def lines(env: dict[str, str], *command: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-B", *command],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", BACKINGS)
def test_one_tenant(name: str, native_dir: Path, tmp_path: Path, soft_env: dict[str, str]) -> None:
    bare = {**soft_env, "HARP_SOFT_DEVICES": WHOLE}
    program = str(PROGRAMS / "bindings.py")
    with backing(name, native_dir, tmp_path) as env:
        total, instance = lines(env, "-c", TOTAL)[0].split()
        assert int(total) == TENANT["mem"]
        assert instance == str(BACKINGS[name][0] == INSTANCE)
        for case in CASES:
            assert lines(env, program, case) == lines(bare, program, case)
