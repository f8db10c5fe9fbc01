# SPDX-License-Identifier: Apache-2.0
"""The backend `local`: one arbiter and one software GPU for all cases, a tenant for each."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from harp.lease_wire import ALL_DEVICES, Op
from tests.integration.shim_world import MIB, World, soft_world

#: of the device's 80 GiB; the largest case allocates a few hundred MiB
LIMIT_BYTES = 8192 * MIB
SHARE_PPM = 500_000
#: SNAP_CLIENT's state of a process that has gone and whose memory still counts
DEAD = 2


class Local:
    """Tenants come one after another; each is gone, memory and all, before the next."""

    def __init__(self, world: World, flags: int = 0) -> None:
        self.world = world
        self.flags = flags
        self.count = 0

    @contextlib.contextmanager
    def tenant(self) -> Iterator[dict[str, str]]:
        """The environment of a fresh tenant's processes."""
        self.count += 1
        name = f"case{self.count}"
        self.world.tenant(name, mem=LIMIT_BYTES, share_ppm=SHARE_PPM, flags=self.flags)
        try:
            yield self.world.env(name, HARP_NATIVE_DIR=str(self.world.native))
        finally:
            self.settle()
            uses = self.world.usages(name)
            self._drop(name)
        assert uses
        held = [use for use in uses if use.leased_bytes or use.amount_bytes or use.free_bytes]
        assert not held, f"memory is still charged: {held}"

    def _drop(self, name: str) -> None:
        world = self.world
        world.ask(op=Op.DEL_TENANT, tenant=world.tenants.pop(name))
        world.sockets.pop(name).close()
        shutil.rmtree(world.base / "grants" / name)

    def _device_bytes(self) -> int:
        """What is in use on all devices, by the engine's ledger."""
        said = subprocess.run(
            [self.world.native / "harp-soft-truth", "--json"],
            env=self.world.bare_env(),
            capture_output=True,
            check=True,
        )
        return sum(device["used_bytes"] for device in json.loads(said.stdout)["devices"])

    def settle(self) -> None:
        """As harpd does it: what the dead held is given back once the device has it back.

        Teardown takes a moment after the death was seen: a case that begins meanwhile would take
        memory of the one before for its own baseline.
        """
        deadline = time.monotonic() + 20
        while held := self._device_bytes():
            assert time.monotonic() < deadline, f"the device still holds {held} bytes"
            time.sleep(0.005)
        while clients := self.world.clients():
            assert time.monotonic() < deadline, clients
            for client in clients:
                if client.d == DEAD:
                    self.world.ask(op=Op.DRAINED, client=client.client, dev=ALL_DEVICES)
            time.sleep(0.005)


class Locals(contextlib.ExitStack):
    """A machine for each set of devices that cases ask for, made when the first one does."""

    def __init__(self, native_dir: Path, flags: int = 0) -> None:
        super().__init__()
        self._native_dir = native_dir
        self._flags = flags
        self._made: dict[str, Local] = {}

    def on(self, devices: str) -> Local:
        """The machine with these devices; "" is the usual one."""
        devices = devices or "h100-80g"
        if devices not in self._made:
            world = self.enter_context(soft_world(self._native_dir, devices=devices))
            self._made[devices] = Local(world, self._flags)
        return self._made[devices]
