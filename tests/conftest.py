# SPDX-License-Identifier: Apache-2.0
"""Shared by all tests: where the built binaries are, a private software GPU, who runs alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """Who runs tests in the background ignores these signals; programs of the tests must not.

    A handler of ours does nothing either, and nobody inherits it.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@contextlib.contextmanager
def turn(*, alone: bool) -> Iterator[None]:
    """Nothing runs beside who is `alone`, in any process that runs this tree's tests in several.

    Who waits to be alone holds the first lock, so that nobody else can begin meanwhile.
    """
    with (
        (ROOT / "tests" / "conftest.py").open() as door,
        (ROOT / "pyproject.toml").open() as room,
    ):
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In `pytest -n --dist loadfile`, those that run alone come last: nobody waits for them.

    Before them come the files with many tests: the last that two at a time have is short.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    tests = Counter(item.path for item in items)
    items.sort(
        key=lambda item: (
            item.get_closest_marker("alone") is not None,
            -tests[item.path],
            item.path,
        )
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)  # outside a test's timeout
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """In `pytest -n`, nothing runs beside tests that are marked `alone`."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return (yield)
    with turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Commands that a test runs in its own process set up the log, on a stream of that test's."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def native_dir() -> Path:
    """Folder of the built libraries and programs: $HARP_NATIVE_DIR, else harp/_lib."""
    path = Path(os.environ.get("HARP_NATIVE_DIR", ROOT / "harp" / "_lib")).resolve()
    if not (path / "soft" / "libcuda.so.1").exists():
        pytest.fail(
            f"{path} holds no soft/libcuda.so.1; remedy: run tests/check or deploy/quickstart"
        )
    return path


@pytest.fixture
def soft_dir() -> Iterator[Path]:
    """A private state folder for the software GPU, removed afterwards."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="harp-test-", dir=base))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def soft_env(native_dir: Path, soft_dir: Path) -> dict[str, str]:
    """Environment in which a program finds the bare software GPU (no HARP in between)."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "CUDA_"))}
    env["HARP_SOFT_DIR"] = str(soft_dir)
    env["LD_LIBRARY_PATH"] = str(native_dir / "soft")
    env["HARP_NATIVE_DIR"] = str(native_dir)
    return env


def _tool(name: str) -> Path:
    """A program of Debian's package prometheus: where deploy/bootstrap puts it, or installed."""
    built = ROOT / "build" / "tools" / name
    found = built if built.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"no {name}; remedy: deploy/bootstrap dev, or install Debian's prometheus")
    return Path(found)


@pytest.fixture(scope="session")
def promtool() -> Path:
    """Prometheus's checker of metrics and rules."""
    return _tool("promtool")


@pytest.fixture(scope="session")
def prometheus() -> Path:
    """Prometheus itself."""
    return _tool("prometheus")
