# SPDX-License-Identifier: Apache-2.0
"""A node for the tests on kubelet's sockets, and what is asked of it again and again."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from plugin_world import World

from device_plugin.book import Grant
from device_plugin.fake_kubelet import Ask
from device_plugin.identity import Container, Owner
from device_plugin.proto import deviceplugin_pb2 as pb

__all__ = ["MAIN", "admitted", "grant_of", "lives", "node", "running"]

MAIN = (Container("main"),)


@contextlib.contextmanager
def node(gpus: int = 2, per_gpu: int = 100, memory_bytes: int = 80 << 30) -> Iterator[World]:
    # pytest's own folders have names too long for sockets
    with tempfile.TemporaryDirectory(prefix="hp-") as folder:
        world = World(Path(folder), gpus, per_gpu, memory_bytes)
        try:
            yield world
        finally:
            world.down()


def admitted(world: World, name: str, *asks: Ask) -> None:
    world.kubelet.admit("ns", name, *asks)


def running(world: World, name: str, size: int) -> pb.ContainerAllocateResponse:
    admitted(world, name, Ask("main", size))
    return world.kubelet.begin("ns", name, "main")


def lives(world: World, name: str, container: str = "main") -> bool:
    owner = Owner("ns", name, container)
    return any(grant.owner == owner for grant in world.tenants.made.values())


def grant_of(world: World, name: str, container: str = "main") -> Grant:
    owner = Owner("ns", name, container)
    (found,) = (grant for grant in world.tenants.made.values() if grant.owner == owner)
    return found
