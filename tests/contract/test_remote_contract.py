# SPDX-License-Identifier: Apache-2.0
"""The suite on a GPU behind a harp-worker, each case with a session of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import suite
from local_backend import LIMIT_BYTES, Locals
from soft_mod_driver import CASES

from tests.integration.remote_world import Serving, serving

pytestmark = pytest.mark.slow  # minutes in all

#: a worker's, for the program's own environment to be without a GPU and without a tenant
_WORKERS = ("HARP_SOFT_DIR", "HARP_SOFT_DEVICES", "HARP_GRANT", "HARP_CUDA_REAL", "HARP_NVML_REAL")

Tenants = Callable[[str], contextlib.AbstractContextManager[Serving]]


@pytest.fixture
def served(native_dir: Path, soft_dir: Path, soft_env: dict[str, str]) -> Iterator[Serving]:
    with serving(native_dir, soft_dir, {**soft_env, "HARP_SOFT_VERBOSE": "1"}) as found:
        yield found


def run(area: str, name: str, served: Serving) -> None:
    one = CASES[area, name]
    served.env |= one.env
    env = {k: v for k, v in served.env.items() if k not in _WORKERS}
    suite.run(area, name, served.client_env(env))
    served.settle()


@pytest.mark.parametrize(("backend", "area", "name"), suite.params("remote"))
def test_case_elsewhere(backend: str, area: str, name: str, served: Serving) -> None:
    assert backend == "remote"
    if devices := CASES[area, name].devices:
        served.env["HARP_SOFT_DEVICES"] = devices
    run(area, name, served)


@pytest.fixture
def tenants(local: Locals, native_dir: Path, tmp_path: Path) -> Tenants:
    """Workers that are a tenant, whose memory is given back, all of it, once they have gone."""

    @contextlib.contextmanager
    def tenant(devices: str) -> Iterator[Serving]:
        on = local.on(devices)
        with on.tenant() as env:
            del env["LD_PRELOAD"]  # libharp is the driver that the worker opens
            env["HARP_SOFT_VERBOSE"] = "1"
            with serving(native_dir, tmp_path, env, on.world.shim / "libcuda.so.1") as served:
                yield served

    return tenant


@pytest.mark.parametrize(("backend", "area", "name"), suite.params("remote-local"))
def test_case_of_a_tenant_elsewhere(backend: str, area: str, name: str, tenants: Tenants) -> None:
    assert backend == "remote-local"
    with tenants(CASES[area, name].devices) as served:
        run(area, name, served)


TOTAL = """
import ctypes
cuda, total = ctypes.CDLL("libcuda.so.1"), ctypes.c_size_t()
assert not cuda.cuInit(0) and not cuda.cuDeviceTotalMem_v2(ctypes.byref(total), 0)
print(total.value)
"""


def test_a_tenant_elsewhere_has_its_limit(tenants: Tenants) -> None:
    with tenants("") as served:
        env = served.client_env({k: v for k, v in served.env.items() if k not in _WORKERS})
        told = subprocess.run(
            [sys.executable, "-c", TOTAL], env=env, capture_output=True, text=True, check=True
        )
        served.settle()
    assert int(told.stdout) == LIMIT_BYTES


def test_waivers_name_cases() -> None:
    names = {f"{one.area}.{one.name}" for one in suite.cases()}
    assert set(suite.remote_waivers.WAIVED) <= names
