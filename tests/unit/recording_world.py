# SPDX-License-Identifier: Apache-2.0
"""A recording of tenants that are made up, and what it told."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from harp.config import HistoryConfig
from harp.daemon.picture import Picture
from harp.daemon.recording import Recording
from harp.daemon.watch import Lineage
from harp.estimator.history import History
from harp.estimator.job import Run
from harp.model import Client, ClientState, Device, DeviceKind, Limits, Policy, Tenant, Use
from harp.procs import read
from harp.profile import Page

MIB = 1 << 20
DEVICE = Device(0, "GPU-1", "tiny", DeviceKind.SOFTWARE, 1 << 30, 0, "measured", "1")


def tenant(number: int = 1, **more: object) -> Tenant:
    """One whose root is this very process."""
    me = read(os.getpid())
    assert me
    made = Tenant(
        tenant_id=number,
        name=f"t{number}",
        uid=1000,
        root_pid=me.pid,
        root_start=me.start,
        grant_dir="/g",
        device_uuids=("GPU-1",),
        limits=Limits(mem_bytes=256 * MIB, share_ppm=250_000),
        policy=Policy.WARN,
        created_s=time.time() - 5,
    )
    return replace(made, **more)  # type: ignore[arg-type]


def picture(of: Tenant, mib: int = 100, used_s: float = 1.0, denials: int = 0) -> Picture:
    use = Use(
        peak_bytes=mib * MIB, leased_bytes=mib * MIB, used_ns=int(used_s * 1e9), denials=denials
    )
    client = Client(5, of.tenant_id, os.getpid(), ClientState.LIVE, "x")
    return Picture(uses={(of.tenant_id, "GPU-1"): use}, clients={5: client})


@dataclass
class Desk:
    """A recording, and what it told."""

    state: Path
    told: list[tuple[Tenant | None, Run]] = field(default_factory=list)
    going: list[Run] = field(default_factory=list)
    tenants: dict[int, Tenant] = field(default_factory=dict)
    pages: dict[int, Page] = field(default_factory=dict)
    config: HistoryConfig = field(default_factory=HistoryConfig)

    def new(self) -> Recording:
        book = cast(
            "Any",
            SimpleNamespace(tenants=self.tenants, devices={"GPU-1": DEVICE}, pages=self.pages),
        )
        return Recording(
            self.config,
            self.state,
            book,
            Lineage(),
            lambda *one: self.told.append(one),
            still=self.going.append,
        )


def do(desk: Desk, steps: Callable[[Recording], Awaitable[None]]) -> None:
    async def scenario() -> None:
        recording = desk.new()
        await recording.begin()
        try:
            await steps(recording)
        finally:
            await recording.close()

    asyncio.run(scenario())


def kept(desk: Desk) -> list[Run]:
    with History(desk.state / "history.db", writes=False) as history:
        return list(history.runs())
