# SPDX-License-Identifier: Apache-2.0
"""What test_worker.py asks of a worker on its own ring, asked once more through harp-link."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_worker
from link_session import Far, Near
from ring_client import Client
from shim_world import World

world = test_worker.world


@contextlib.contextmanager
def linked(world: World, native: Path, folder: Path) -> Iterator[tuple[Far, Near]]:
    """Two links with TCP between them."""
    env = world.env("remote")
    del env["LD_PRELOAD"]
    with contextlib.closing(Far(native, folder, env, driver=world.shim / "libcuda.so.1")) as far:
        options = ("--token-file", str(far.token))
        with contextlib.closing(Near(native, folder, far.address, *options)) as near:
            yield far, near


@pytest.fixture
def client(world: World, native_dir: Path, tmp_path: Path) -> Iterator[Client]:
    """A session that has a context."""
    with linked(world, native_dir, tmp_path) as (far, near):
        made = near.dial()
        made.context()
        yield made
        assert far.process.poll() is None, far.log.read_text()
        assert near.process.poll() is None


#: all that need nothing but a session
for _name, _test in vars(test_worker).items():
    if _name.startswith("test_") and set(inspect.signature(_test).parameters) == {"client"}:
        globals()[_name] = _test
