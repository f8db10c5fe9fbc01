# SPDX-License-Identifier: Apache-2.0
"""Leases as tenants, against a harpd that answers as told; what a session's file holds."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harp.api.v1 import control_pb2 as pb
from harp.daemon.naming import tenant_name as accepted
from harp.errors import (
    ArbiterError,
    DaemonError,
    DaemonUnreachable,
    HarpError,
    QuotaExceeded,
    UnknownTenant,
)
from harp.model import Limits, TenantClass
from harp.native import find
from harp.remote import tenants as module
from harp.remote.homes import Home, Homes
from harp.remote.room import Wish
from harp.remote.tenants import Harpd, Tenants, tenant_name
from harp.remote.workers import text_of

GIB = 1 << 30
NVIDIA = {"cuda_path": "/lib/libcuda.so.1", "nvml_path": "/lib/libnvidia-ml.so.1"}


class ToldClient:
    """harpd as far as leases ask it; shared by all connections."""

    def __init__(self) -> None:
        self.tenants: dict[str, pb.CreateTenantRequest] = {}
        self.down = False
        self.create_error: HarpError | None = None
        self.lose_answer = False
        self.lost: DaemonError = DaemonUnreachable("the answer was lost")
        self.remove_s = 0.0
        self.may_create = threading.Event()
        self.may_create.set()
        self.asked = threading.Event()
        self.devices = 1

    def info(self) -> pb.GetInfoReply:
        self._there()
        return pb.GetInfoReply(kind=pb.DEVICE_KIND_NVIDIA, uid=0, **NVIDIA)

    def deposit(self, sock: socket.socket) -> str:
        self._there()
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        return "ticket"

    def create(self, request: pb.CreateTenantRequest) -> pb.CreateTenantReply:
        self._there()
        self.asked.set()
        assert self.may_create.wait(30)
        if self.create_error:
            raise self.create_error
        assert Path(request.grant_dir).stat().st_mode & 0o777 == 0o700
        self.tenants[request.name] = request
        if self.lose_answer:
            raise self.lost
        device = pb.Device(uuid="GPU-0", name="H100", free_bytes=GIB, free_ppm=7)
        devices = [device, pb.Device(uuid="GPU-1", name="H100")][: self.devices]
        return pb.CreateTenantReply(
            tenant=pb.Tenant(name=request.name, mem_limit_bytes=request.mem_limit_bytes),
            device=device,
            devices=devices,
            device_count=self.devices,
            env={"HARP_SOFT_DIR": "/soft", "LD_PRELOAD": "/evil.so"},
        )

    def remove(self, name: str) -> None:
        self._there()
        time.sleep(self.remove_s)
        if self.tenants.pop(name, None) is None:
            raise UnknownTenant(f"no tenant {name}")

    def state(self) -> pb.GetStateReply:
        self._there()
        used = pb.DeviceUse(uuid="GPU-0", used_ratio=0.25)
        return pb.GetStateReply(
            devices=[pb.Device(uuid="GPU-0", free_bytes=GIB, free_ppm=10 - len(self.tenants))],
            tenants=[
                pb.Tenant(name=n, uses=[used], clients=[pb.Client(pid=7, leased_bytes=GIB)])
                for n in self.tenants
            ],
        )

    def close(self) -> None:
        pass

    def _there(self) -> None:
        if self.down:
            raise DaemonUnreachable("no harpd answers")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[ToldClient]:
    client = ToldClient()
    monkeypatch.setattr(module.Client, "connect", lambda _env: client)
    yield client
    client.may_create.set()


def wish(lease_id: str = "0123456789abcdef", **more: Any) -> Wish:
    limits = Limits(GIB, 300_000, 500_000, TenantClass.LATENCY)
    return Wish(**{"lease_id": lease_id, "owner": "ann", "name": "", "gpu": "0", "limits": limits,
                   **more})  # fmt: skip


def made(base: Path, env: dict[str, str] | None = None) -> Tenants:
    (base / "homes").mkdir(exist_ok=True)
    homes = Homes(base / "homes", base, find({}), None)
    return Tenants(Harpd({}), homes, base / "shim", env or {})


def folders(base: Path) -> list[Path]:
    return list((base / "homes").iterdir())


def test_a_lease_is_a_tenant_with_its_limits(told: ToldClient, tmp_path: Path) -> None:
    async def main() -> None:
        tenants = made(
            tmp_path, {"HOME": "/h", "PATH": "/bin", "AWS_SECRET": "x", "LD_PRELOAD": "y"}
        )
        told.devices = 2
        taken = await tenants.take(wish(name="my job", gpu="0,1"))
        (request,) = told.tenants.values()
        assert request.name == taken.tenant == "remote-my-job-01234567"
        assert (request.mem_limit_bytes, request.share_ppm, request.limit_ppm, request.gpu) == (
            GIB, 300_000, 500_000, "0,1",
        )  # fmt: skip
        assert request.tenant_class == pb.TENANT_CLASS_LATENCY
        assert [p.uuid for p in taken.places] == ["GPU-0", "GPU-1"]
        env = tenants.environment("0123456789abcdef")
        grant = request.grant_dir
        assert env == {
            "HOME": "/h",
            "PATH": "/bin",
            "LD_LIBRARY_PATH": str(tmp_path / "shim"),
            "HARP_GRANT": grant,
            "HARP_CUDA_REAL": NVIDIA["cuda_path"],
            "HARP_NVML_REAL": NVIDIA["nvml_path"],
            "HARP_LOG": f"{grant}/shim.log",
            "HARP_SOFT_DIR": "/soft",
            "CUDA_VISIBLE_DEVICES": "GPU-0,GPU-1",
            "HARP_WORKER_IMAGES": f"{grant}/images",
        }
        assert [(p.free_ppm, p.used_ratio) for p in tenants.places] == [(9, 0.25)]
        assert await tenants.all_clients() == {7: GIB}
        await tenants.give_back("0123456789abcdef")
        assert told.tenants == {}
        assert folders(tmp_path) == []
        assert [p.free_ppm for p in tenants.places] == [10]
        with pytest.raises(DaemonError, match="holds nothing any more"):
            tenants.environment("0123456789abcdef")

    asyncio.run(main())


def test_what_harpd_refuses_leaves_nothing(told: ToldClient, tmp_path: Path) -> None:
    async def main() -> None:
        tenants = made(tmp_path)
        told.create_error = QuotaExceeded("1GiB asked, 0 left", "wait")
        with pytest.raises(QuotaExceeded, match="0 left"):
            await tenants.take(wish())
        assert folders(tmp_path) == []
        assert tenants.taken("0123456789abcdef") is None

    asyncio.run(main())


def test_what_harpd_may_have_made_is_removed(
    told: ToldClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it comes to be only after the first attempt to remove it."""

    async def main() -> None:
        tenants = made(tmp_path)
        told.lose_answer = True
        with pytest.raises(DaemonUnreachable):
            await tenants.take(wish())
        late = dict(told.tenants)
        told.tenants.clear()  # harpd is slow
        await tenants._settle()
        told.tenants.update(late)
        await tenants._settle()
        assert told.tenants == {}
        assert folders(tmp_path) == []
        # One that never comes to be is not waited for without end.
        with pytest.raises(DaemonUnreachable):
            await tenants.take(wish("f" * 16))
        told.tenants.clear()
        await tenants._settle()
        assert len(folders(tmp_path)) == 1
        now = module.time.monotonic()
        monkeypatch.setattr(module.time, "monotonic", lambda: now + 31)
        await tenants._settle()
        assert folders(tmp_path) == []

    asyncio.run(main())


def test_what_harpd_made_before_it_failed_is_removed(
    told: ToldClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        tenants = made(tmp_path)
        told.lose_answer, told.lost = True, ArbiterError("the arbiter is away")
        with pytest.raises(ArbiterError):
            await tenants.take(wish())
        assert len(told.tenants) == 1
        await tenants._settle()
        assert told.tenants == {}
        told.lose_answer = False
        monkeypatch.setattr(Homes, "check", lambda *_: Path("/nowhere").stat())
        with pytest.raises(FileNotFoundError):
            await tenants.take(wish())
        assert told.tenants == {}
        assert folders(tmp_path) == []

    asyncio.run(main())


def test_what_is_given_back_while_harpd_is_away_is_removed_when_it_answers(
    told: ToldClient, tmp_path: Path
) -> None:
    async def main() -> None:
        tenants = made(tmp_path)
        await tenants.take(wish())
        told.down = True
        await tenants.give_back("0123456789abcdef")
        assert len(told.tenants) == 1
        told.down = False
        await tenants._settle()
        assert told.tenants == {}
        assert folders(tmp_path) == []

    asyncio.run(main())


def test_a_home_is_removed_once_and_after_its_processes(
    told: ToldClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its user could be given back while another lease has it already."""

    async def main() -> None:
        tenants = made(tmp_path)
        said: list[tuple[str, str]] = []
        end, remove = Homes.end, Homes.remove

        async def ends(homes: Homes, home: Home) -> None:
            assert str(home.folder) in {t.grant_dir for t in told.tenants.values()}
            said.append(("end", home.folder.name))
            await end(homes, home)

        async def removes(homes: Homes, home: Home) -> None:
            said.append(("remove", home.folder.name))
            await asyncio.sleep(0.05)
            await remove(homes, home)

        monkeypatch.setattr(Homes, "end", ends)
        monkeypatch.setattr(Homes, "remove", removes)
        a, b, c = "a" * 16, "b" * 16, "c" * 16
        await asyncio.gather(*(tenants.take(wish(x)) for x in (a, b)))
        told.remove_s = 0.05
        last = tenants.take(wish(c))
        await asyncio.gather(tenants.give_back(a), tenants.give_back(b), tenants._settle(), last)
        assert len(said) == len(set(said)) == 4
        assert [t[-8:] for t in told.tenants] == [c[:8]]
        assert len(folders(tmp_path)) == 1

    asyncio.run(main())


def test_a_home_that_cannot_be_deleted_holds_up_nobody(
    told: ToldClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        tenants = made(tmp_path)
        bad: list[Home] = []
        remove = Homes.remove

        async def removes(homes: Homes, home: Home) -> None:
            if home in bad:
                raise RecursionError
            await remove(homes, home)

        a, b = "a" * 16, "b" * 16
        await asyncio.gather(*(tenants.take(wish(x)) for x in (a, b)))
        bad.append(tenants._held[a].home)
        monkeypatch.setattr(Homes, "remove", removes)
        await tenants.give_back(a)
        await tenants.give_back(b)
        assert told.tenants == {}
        assert folders(tmp_path) == [bad.pop().folder]
        await tenants._settle()
        assert folders(tmp_path) == []

    asyncio.run(main())


def test_a_harpd_that_was_away_is_asked_by_a_new_connection(
    told: ToldClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one would wait ever longer before it tries again."""

    async def main() -> None:
        made: list[ToldClient] = []
        monkeypatch.setattr(module.Client, "connect", lambda _env: made.append(told) or told)
        harpd = Harpd({})
        for down, expected in (
            (False, 1),
            (False, 1),
            (True, 1),
            (True, 2),
            (False, 3),
            (False, 3),
        ):
            told.down = down
            with contextlib.suppress(DaemonUnreachable):
                await harpd.ask(lambda client: client.state())
            assert len(made) == expected

    asyncio.run(main())


def test_what_is_being_made_is_not_taken_for_what_is_to_be_removed(
    told: ToldClient, tmp_path: Path
) -> None:
    async def main() -> None:
        tenants = made(tmp_path)
        told.may_create.clear()
        take = asyncio.create_task(tenants.take(wish()))
        assert await asyncio.to_thread(told.asked.wait, 30)
        await tenants._settle()
        told.may_create.set()
        taken = await take
        assert set(told.tenants) == {taken.tenant}
        assert len(folders(tmp_path)) == 1

    asyncio.run(main())


def test_who_is_told_of_changes_hears_of_each_and_of_nothing_else(
    told: ToldClient, tmp_path: Path
) -> None:
    async def main() -> None:
        heard: list[int] = []
        tenants = made(tmp_path)
        tenants.changed = lambda: heard.append(tenants.places[0].free_ppm)
        await tenants.look()
        await tenants.look()
        told.tenants["local"] = pb.CreateTenantRequest()  # its use alone is no news
        await tenants.look()
        await tenants.look()
        assert heard == [10, 9]

    asyncio.run(main())


@pytest.mark.parametrize(
    "asked", ["train", "", "..", "(loopback)", "a b/c", "é" * 60, "x" * 64, "-", "A.b_c-d"]
)
def test_names_are_harpds_and_ones_own(asked: str) -> None:
    ids = ("0123456789abcdef", "1123456789abcdef")
    names = [tenant_name(asked, lease_id) for lease_id in ids]
    for name in names:
        assert accepted(name, "", 1, set()) == name
        assert name.startswith("remote-")
    assert len(set(names)) == 2


def test_a_sessions_file_is_its_token_and_its_workers_environment() -> None:
    assert text_of("t.s", {"B": "2", "A": "1=1"}, 2.5) == "t.s\nresume_s=2.500\nA=1=1\nB=2\n"
    for env, said in (({"A": "x\ny"}, "line break"), ({"A": "x" * 4096}, "4095 at most")):
        with pytest.raises(DaemonError, match=said):
            text_of("t.s", env, 0.0)
