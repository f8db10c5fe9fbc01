# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin `harp-softgpu`: inert unless `--softgpu` is given or the fixture is asked for.

The libraries are opened in the test's own process too: whatever opens "libcuda.so.1" or
"libnvidia-ml.so.1" afterwards gets them by their SONAME, and child processes by LD_LIBRARY_PATH.
A library once opened stays, so there is one machine for the whole run (one per xdist worker).
"""

from __future__ import annotations

import argparse
import ctypes
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from harp.errors import HarpError
from harp.softgpu.machine import SoftGpu, software_gpu

__all__ = ["softgpu"]


class _Session:
    """The machine of this process, made at first need."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.gpu: SoftGpu | None = None

    def machine(self, option: argparse.Namespace) -> SoftGpu:
        """Make it, with the command line's options, unless it is there."""
        if self.gpu is None:
            self.gpu = self._make(option)
        return self.gpu

    def _make(self, option: argparse.Namespace) -> SoftGpu:
        for name in ("libcuda.so", "libnvidia-ml.so"):
            if other := _loaded(name):
                raise pytest.UsageError(
                    f"softgpu: this process has {other} open already;"
                    " run pytest with --softgpu, which comes before all imports"
                )
        devices = [name for name in option.softgpu_devices.split(",") if name]
        keep, verbose = option.softgpu_keep, option.softgpu_verbose
        try:
            gpu = self.stack.enter_context(software_gpu(devices, keep=keep, verbose=verbose))
        except HarpError as error:
            raise pytest.UsageError(f"softgpu: {error.message}; {error.hint}") from error
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        for name in set(os.environ) - set(gpu.env):
            patch.delenv(name)
        for name, value in gpu.env.items():
            if os.environ.get(name) != value:
                patch.setenv(name, value)
        for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
            ctypes.CDLL(str(gpu.libraries / name), mode=ctypes.RTLD_GLOBAL)
        return gpu


def _loaded(name: str) -> str | None:
    """Path of a library of that name that this process has open."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.partition("/")[2]
        if path.rsplit("/", 1)[-1].startswith(name):
            return f"/{path}"
    return None


_SESSION = pytest.StashKey[_Session]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, in a group of their own."""
    group = parser.getgroup("harp-softgpu", "software GPU (python -m harp.softgpu doc)")
    group.addoption(
        "--softgpu", action="store_true", help="a private software GPU for the whole run"
    )
    group.addoption(
        "--softgpu-devices",
        default="h100-80g",
        metavar="LIST",
        help="which, for --softgpu and the fixture: h100-80g, a100-40g, t4-16g, tiny, h100-mini",
    )
    group.addoption("--softgpu-keep", action="store_true", help="leave its folder afterwards")
    group.addoption("--softgpu-verbose", action="store_true", help="its log on stderr")


def _session(config: pytest.Config) -> _Session:
    return config.stash.setdefault(_SESSION, _Session())


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """With --softgpu: before anything of the project is imported."""
    option = early_config.known_args_namespace
    if option.softgpu:
        _session(early_config).machine(option)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """The machine's folder goes."""
    _session(config).stack.close()


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say that results are not a GPU's."""
    gpu = _session(config).gpu
    return None if gpu is None else f"software GPU: {', '.join(gpu.devices) or 'no device'}"


@pytest.fixture(scope="session")
def softgpu(request: pytest.FixtureRequest) -> SoftGpu:
    """The run's software GPU, for this process and, by `softgpu.env`, for programs."""
    return _session(request.config).machine(request.config.option)
