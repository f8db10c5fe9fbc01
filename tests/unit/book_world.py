# SPDX-License-Identifier: Apache-2.0
"""A book of grants, an arbiter of memory that keeps what it is told, and a store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from harp.config import AdmissionConfig
from harp.daemon.book import Book
from harp.daemon.link import ArbiterLink
from harp.daemon.owners import Wish
from harp.daemon.store import Store
from harp.lease_admin import ArbiterRefused
from harp.lease_wire import GRANT_OVERSUBSCRIBE, VERSION, Msg, Op
from harp.model import Device, DeviceKind, Limits, Policy

GIB = 1 << 30


class FakeArbiter:
    """Keeps grants as the arbiter does; refuses SET_TENANT of device `broken`."""

    def __init__(self) -> None:
        self.version = VERSION
        #: sockets and pages of a harpd before, which the next one to ask owns
        self.kept: tuple[dict[int, int], dict[int, int]] = {}, {}
        #: what came along with the last ADD_TENANT of each: inodes
        self.along: dict[int, list[int]] = {}
        self.devices: list[bytes] = []
        self.tenants: dict[int, Msg] = {}
        #: {(tenant, dev): its SET_TENANT}
        self.grants: dict[tuple[int, int], Msg] = {}
        self.broken = -1
        self.knows_contexts = True
        #: {tenant: bytes it holds on each of its devices}
        self.held: dict[int, int] = {}
        self.clients: list[Msg] = []

    async def request(self, message: Msg, fds: Sequence[int] = ()) -> Msg:
        answer = Msg(op=Op.OK)
        match message.op:
            case Op.ADD_DEVICE:
                if message.uuid not in self.devices:
                    self.devices.append(message.uuid)
                answer = answer._replace(dev=self.devices.index(message.uuid))
            case Op.ADD_TENANT:
                number = message.tenant or 1 + max(self.tenants, default=0)
                self.tenants[number] = message
                self.along[number] = [os.fstat(fd).st_ino for fd in fds]
                answer = answer._replace(tenant=number)
            case Op.SET_TENANT:
                if message.dev == self.broken:
                    raise ArbiterRefused(Msg(op=Op.ERR, a=22, text="broken"))
                self.grants[message.tenant, message.dev] = message
                if self.knows_contexts:
                    answer = answer._replace(overhead_bytes=message.overhead_bytes)
            case Op.DEL_TENANT:
                del self.tenants[message.tenant]
                self.grants = {k: m for k, m in self.grants.items() if k[0] != message.tenant}
            case _:
                raise AssertionError(message.op)
        return answer

    async def sockets(self) -> tuple[dict[int, int], dict[int, int]]:
        kept, self.kept = self.kept, ({}, {})
        return kept

    async def snapshot(self) -> list[Msg]:
        rows = [
            Msg(op=Op.SNAP_TENANT, tenant=number, uid=m.uid, text=m.text)
            for number, m in self.tenants.items()
        ]
        for (tenant, dev), m in self.grants.items():
            use = Msg(op=Op.SNAP_USE, tenant=tenant, dev=dev, limit_bytes=m.limit_bytes)
            rows.append(
                use._replace(
                    b=m.b,
                    c=m.c,
                    d=m.d,
                    capacity_bytes=m.free_bytes,
                    slack_bytes=m.overhead_bytes,
                    leased_bytes=self.held.get(tenant, 0),
                )
            )
            if m.a & GRANT_OVERSUBSCRIBE:
                rows.append(Msg(op=Op.SNAP_RESIDENCY, tenant=tenant, dev=dev, a=1, c=m.a))
        return rows + self.clients


def _device(index: int) -> Device:
    uuid = f"GPU-0000000{index}-0000-0000-0000-000000000000"
    return Device(index, uuid, "test", DeviceKind.SOFTWARE, 8 * GIB, 0, "measured", "1")


DEVICES = [_device(0), _device(1), _device(2)]
UUIDS = tuple(d.uuid for d in DEVICES)


class Desk:
    """A book, its arbiter and its store, and a new book over the same two."""

    def __init__(self, folder: Path) -> None:
        self.arbiter = FakeArbiter()
        self.folder = folder
        self.store = Store(folder / "harpd.db")
        self.book = self.new_book()

    def new_book(self) -> Book:
        link = cast("ArbiterLink", SimpleNamespace(client=self.arbiter))
        return Book(self.store, link, self.folder, AdmissionConfig())

    def close(self) -> None:
        self.book.close()
        self.store.close()


def do(desk: Desk, steps: Callable[[Book], Awaitable[Any]]) -> None:
    async def all_steps() -> None:
        await desk.book.announce_devices(DEVICES)
        await steps(desk.book)

    asyncio.run(all_steps())


def wish(gpu: str, **limits: Any) -> Wish:
    return Wish("t", "prog", 1000, gpu, Limits(**limits), Policy.WARN, os.getpid(), "/nowhere/t")


def listening() -> int:
    return os.open(os.devnull, os.O_RDONLY)
