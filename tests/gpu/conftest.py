# SPDX-License-Identifier: Apache-2.0
"""Finds the real GPU, runs programs on it, and keeps what a run on it said.

HARP_GPU_REHEARSAL=1 takes the software GPU instead, to see the tests themselves work: nothing is
kept then, and no result of it counts.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from harp.discovery import Nvml, discover
from harp.errors import HarpError
from harp.native import NativeDir, scrub

HERE = Path(__file__).resolve().parent
CLIENT, RESULTS = HERE / "gpu_client.py", HERE / "results"
REHEARSAL = os.environ.get("HARP_GPU_REHEARSAL") == "1"


@dataclass
class Kept:
    """What goes into the file of results."""

    about: dict[str, str] = field(default_factory=dict)  #: empty: no real GPU was used
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)


KEPT = Kept()


@dataclass
class Gpu:
    """A device, and `harp` and plain programs on it."""

    software: bool
    name: str
    uuid: str
    cuda_path: Path
    nvml: Nvml
    env: dict[str, str]  #: for `harp`: a run folder of its own
    bare_env: dict[str, str]  #: for programs without HARP
    children: list[subprocess.Popen[str]] = field(default_factory=list)

    def command(self, plain: list[str], run: tuple[str, ...] | None) -> list[str]:
        """run: options of `harp run`, None for no HARP at all."""
        if run is None:
            return plain
        return [sys.executable, "-m", "harp", "run", "--gpu", self.uuid, *run, "--", *plain]

    def begin(
        self, plain: list[str], run: tuple[str, ...] | None, **env: str
    ) -> subprocess.Popen[str]:
        """Starts a command; it is ended when the test is over."""
        child = subprocess.Popen(
            self.command(plain, run),
            env={**(self.bare_env if run is None else self.env), **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.children.append(child)
        return child

    def finish(self, plain: list[str], run: tuple[str, ...] | None) -> str:
        """Runs a command to its end; it must succeed. Its output."""
        done = subprocess.run(
            self.command(plain, run),
            env=self.bare_env if run is None else self.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(
        self, what: str, *arguments: object, run: tuple[str, ...] | None, **env: str
    ) -> subprocess.Popen[str]:
        """Starts a program of gpu_client.py."""
        return self.begin([sys.executable, str(CLIENT), what, *map(str, arguments)], run, **env)

    def ask(self, what: str, *arguments: object, run: tuple[str, ...] | None) -> str:
        """Runs a program of gpu_client.py to its end."""
        return self.finish([sys.executable, str(CLIENT), what, *map(str, arguments)], run)

    def harp(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `harp` command."""
        return subprocess.run(
            [sys.executable, "-m", "harp", *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

    def end_children(self) -> None:
        """Ends the programs."""
        for child in self.children:
            child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout):
                if stream:
                    with suppress(BrokenPipeError):
                        stream.close()
        self.children.clear()


@pytest.fixture(scope="session")
def machine() -> Iterator[Gpu]:
    """The first real device, found as harpd finds it; skips where there is none."""
    drop = ("HARP_", "XDG_") if REHEARSAL else ("HARP_", "XDG_", "CUDA_")
    outside = scrub(os.environ)
    bare = {k: v for k, v in outside.items() if not k.startswith(drop)}
    native = NativeDir(
        Path(os.environ.get("HARP_NATIVE_DIR", HERE.parents[1] / "harp" / "_lib")).resolve()
    )
    kind = "software" if REHEARSAL else "nvidia"
    base = Path(tempfile.mkdtemp(prefix="harp-gpu-"))
    patch = pytest.MonkeyPatch()
    try:
        for name in ("soft", "user", "locks"):
            (base / name).mkdir()
        if REHEARSAL:  # a real device's lock is the machine's: another harpd there must be seen
            bare |= {
                "HARP_LOCK_DIR": str(base / "locks"),
                "HARP_SOFT_DIR": str(base / "soft"),
                "LD_LIBRARY_PATH": str(native.soft_cuda.parent),
            }
            patch.setenv("HARP_SOFT_DIR", bare["HARP_SOFT_DIR"])  # this process reads its NVML
        try:
            found = discover(native, bare, kind)
        except HarpError as error:
            pytest.skip(f"no real GPU: {error.message}")
        device = found.devices[0]
        if not REHEARSAL and "software" in device.name.lower():
            pytest.skip(f"no real GPU: {found.cuda_path} is the software GPU")
        env = {
            **{k: v for k, v in bare.items() if k != "LD_LIBRARY_PATH" or not REHEARSAL},
            "HARP_NATIVE_DIR": str(native.path),
            "HARP_CONFIG_DEVICE_KIND": kind,
            "HARP_RUN": str(base / "run"),
            "XDG_RUNTIME_DIR": str(base / "user"),
            "XDG_CONFIG_HOME": str(base),
            "PYTHONPATH": str(HERE.parents[1]),
        }
        bare["CUDA_VISIBLE_DEVICES"] = device.uuid  # bare and under HARP: the same device
        gpu = Gpu(REHEARSAL, device.name, device.uuid, found.cuda_path, found.nvml, env, bare)
        if not REHEARSAL:
            KEPT.about = _about(gpu)
        yield gpu
        gpu.end_children()
        gpu.harp("daemon", "--stop", "--all")
        found.nvml.close()
    finally:
        patch.undo()
        shutil.rmtree(base, ignore_errors=True)


def _about(gpu: Gpu) -> dict[str, str]:
    version = ctypes.c_int()
    ctypes.CDLL(str(gpu.cuda_path)).cuDriverGetVersion(ctypes.byref(version))
    return {
        "device": gpu.name,
        "driver": gpu.nvml.driver_version(),
        "cuda": f"{version.value // 1000}.{version.value % 1000 // 10}",
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    }


@pytest.fixture
def gpu(machine: Gpu) -> Iterator[Gpu]:
    """The device, with a daemon of these tests' own, freshly started."""
    yield machine
    machine.end_children()
    machine.harp("daemon", "--stop", "--all")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Remembers outcome and recorded figures of each test of this folder."""
    path, _, name = report.nodeid.partition("::")
    if f"{HERE.parent.name}/{HERE.name}/" not in path:
        return
    if report.when == "call" or report.outcome != "passed":
        kept = KEPT.tests.setdefault(f"{Path(path).name}::{name}", {})
        if kept.get("outcome") != "failed":
            kept["outcome"] = report.outcome
        kept["seconds"] = round(report.duration, 1)
        kept["recorded"] = dict(report.user_properties)
        if report.skipped and isinstance(report.longrepr, tuple):
            kept["reason"] = report.longrepr[2]


def pytest_sessionfinish() -> None:
    """Writes the file: after a run on a real GPU, and after no other."""
    if not KEPT.about:
        return
    RESULTS.mkdir(exist_ok=True)
    stem = "-".join(KEPT.about[key] for key in ("date", "device", "driver"))
    name = re.sub(r"[^A-Za-z0-9.]+", "-", stem.replace(" UTC", "").replace(":", ""))
    content = {**KEPT.about, "tests": dict(sorted(KEPT.tests.items()))}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
