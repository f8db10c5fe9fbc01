# SPDX-License-Identifier: Apache-2.0
"""harpd's pages: what it sees at a scrape, what a scrape costs, whether harpd is well."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from metrics_cases import GIB, device, tenant

import harp.daemon.metrics as daemon_metrics
from harp.config import AdmissionConfig, Config, DaemonConfig
from harp.daemon.book import Book
from harp.daemon.metrics import Reporter
from harp.daemon.picture import ArbiterDevice, ArbiterTenant, Picture
from harp.daemon.pools import Pools
from harp.daemon.service import ControlService
from harp.errors import ArbiterError
from harp.estimator.job import Job, Need
from harp.estimator.packing import Buffer
from harp.estimator.track import Track
from harp.grants import Promise
from harp.metrics import DAEMON, Page, expose
from harp.model import Client, ClientState, Limits, Standing, Tenant, TenantClass, Use

GPU = device()
S = 1_000_000_000


class _Arbiter:
    """One that knows what it was told, and counts the questions."""

    def __init__(self) -> None:
        self.devices = {GPU.uuid: GPU}
        self.uses: dict[int, Use] = {}
        self.clients: dict[int, Client] = {}
        self.looks = 0
        self.gone = False

    async def look(self) -> Picture:
        self.looks += 1
        if self.gone:
            raise ArbiterError("it is being restarted")
        return Picture(
            {GPU.uuid: ArbiterDevice(leased_bytes=GIB)},
            {n: ArbiterTenant(n, f"t{n}", 1000) for n in self.uses},
            {(n, GPU.uuid): use for n, use in self.uses.items()},
            self.clients,
        )

    async def remove(self, tenant_id: int) -> None:
        del self.uses[tenant_id]

    def forget(self, _tenant_id: int) -> None:
        pass


class _Book(Book):
    """The real one, whose arbiter and store are none."""

    def __init__(self) -> None:
        store = SimpleNamespace(remove=lambda _tenant_id: None)
        nothing = cast("Any", None)
        super().__init__(cast("Any", store), nothing, Path("/"), AdmissionConfig())
        self.arbiter = _Arbiter()
        self._arbiter = cast("Any", self.arbiter)
        self.devices = self.arbiter.devices
        self.asked_promises = 0

    def add(self, number: int, limits: Limits | None = None) -> Tenant:
        made = tenant(number, f"t{number}", limits)
        self.tenants[number] = made
        self.arbiter.uses[number] = Use()
        client = Client(number, number, 100 + number, ClientState.LIVE, "x")
        self.arbiter.clients[number] = client
        return made

    def promises(self, picture: Picture, without: int = 0) -> dict[str, list[Promise]]:
        self.asked_promises += 1
        return super().promises(picture, without)


class _World:
    def __init__(self, tenants: int = 0, most: int = 2048) -> None:
        self.book = _Book()
        for number in range(1, tenants + 1):
            self.book.add(number)
        self.harpd = SimpleNamespace(
            looked_s=None,
            look_errors=0,
            lost={},
            used_bytes={},
            sensors={},
            physical_bytes=lambda _uuid: 9 * GIB,
            evaders=SimpleNamespace(uncovered={}, uncovered_total=0),
        )
        self.link = link = SimpleNamespace(started_count=0, pid=0)
        config = Config(daemon=DaemonConfig(metrics_grants=most))
        self.needs: list[Need] = []
        self.jobs: dict[int, Job] = {}
        self.pools = Pools(
            config.estimate,
            lambda _job: self.needs,
            lambda tenant: self.jobs.get(tenant.tenant_id),
            self.book,
            Buffer(),
            track=Track(),
        )
        self.reporter = Reporter(
            self.book, cast("Any", link), cast("Any", self.harpd), self.pools, config
        )

    def value(self, name: str, tenant: str | None = None) -> float | None:
        """A series of the next scrape."""
        text = asyncio.run(self.reporter.metrics("")).body.decode()
        for line in text.splitlines():
            if line.startswith((name + "{", name + " ")) and (
                tenant is None or f'tenant="{tenant}"' in line
            ):
                return float(line.rpartition(" ")[2])
        return None

    def health(self) -> Page:
        return asyncio.run(self.reporter.healthz(""))


def test_a_tenant_is_there_from_its_grant_on_with_its_limits() -> None:
    world = _World()
    assert world.value("harp_grant_info", "t1") is None
    world.book.add(1, Limits(2 * GIB, 250_000, 500_000))
    assert world.value("harp_grant_compute_seconds_total", "t1") == 0
    assert world.value("harp_grant_memory_limit_bytes", "t1") == 2 * GIB
    assert world.value("harp_grant_compute_share_ratio", "t1") == 0.25
    assert world.value("harp_grant_compute_limit_ratio", "t1") == 0.5
    assert world.value("harp_grant_processes", "t1") == 1
    assert world.value("harp_device_memory_allocated_bytes") == 2 * GIB + GPU.overhead_bytes
    assert world.value("harp_device_compute_allocated_ratio") == 0.25


def test_our_own_processes_are_told_of_and_an_arbiter_only_if_it_answers() -> None:
    world = _World()
    world.link.pid = os.getppid()  # some process that is there
    for part in ("harpd", "arbiter"):
        resident = f'harp_process_resident_memory_bytes{{part="{part}"}}'
        assert (world.value(resident) or 0) > 1 << 20
        assert world.value(f'harp_process_cpu_seconds_total{{part="{part}"}}') is not None
    assert (world.value('harp_process_cpu_seconds_total{part="harpd"}') or 0) > 0
    world.book.arbiter.gone = True
    assert world.value('harp_process_resident_memory_bytes{part="arbiter"}') is None
    assert world.value('harp_process_resident_memory_bytes{part="harpd"}') is not None


def test_processes_are_those_that_live() -> None:
    world = _World(1)
    for number, state in ((7, ClientState.LIVE), (8, ClientState.DRAINING)):
        world.book.arbiter.clients[number] = Client(number, 1, 100 + number, state, "x")
    assert world.value("harp_grant_processes", "t1") == 2


def test_what_a_tenant_used_stays_in_the_devices_total_when_it_ends() -> None:
    world = _World()
    assert world.value("harp_device_compute_seconds_total") == 0
    first = world.book.add(1)
    world.book.arbiter.uses[1] = Use(used_ns=5 * S, launches=3)
    assert world.value("harp_grant_compute_seconds_total", "t1") == 5
    assert world.value("harp_device_compute_seconds_total") == 5
    asyncio.run(world.book.remove(first, "ended"))
    # Its number is another's now, which has used more than it had: all of that counts.
    world.book.add(1)
    world.book.arbiter.uses[1] = Use(used_ns=7 * S, launches=4)
    assert world.value("harp_device_compute_seconds_total") == 12
    assert world.value("harp_device_kernel_launches_total") == 7


def test_who_is_removed_is_looked_at_before() -> None:
    """What it used since the last look would be lost."""
    world = _World()
    world.value("harp_build_info")
    world.book.add(1)
    world.book.arbiter.uses[1] = Use(used_ns=5 * S)
    service = ControlService.__new__(ControlService)
    service._book = world.book
    lineage = SimpleNamespace(forget=lambda _tenant_id: None)
    service._harpd = cast("Any", SimpleNamespace(evaders=SimpleNamespace(lineage=lineage)))
    asyncio.run(service._remove_tenant(cast("Any", SimpleNamespace(name="t1")), 1000))
    assert world.value("harp_grant_info", "t1") is None
    assert world.value("harp_device_compute_seconds_total") == 5


def test_a_scrape_asks_as_much_of_256_tenants_as_of_one() -> None:
    for tenants in (1, 256):
        world = _World(tenants)
        asyncio.run(world.reporter.metrics(""))
        assert (world.book.arbiter.looks, world.book.asked_promises) == (1, 1)


def test_an_arbiter_that_is_away_is_said_and_counters_do_not_go_back() -> None:
    world = _World(1)
    world.book.arbiter.uses[1] = Use(used_ns=5 * S)
    assert world.value("harp_arbiter_up") == 1
    world.book.arbiter.gone = True
    assert world.value("harp_arbiter_up") == 0
    assert world.value("harp_grant_compute_seconds_total", "t1") == 5


def test_a_scrape_that_fails_gives_nothing_and_the_next_one_counts_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Never some of the series: who is not told of would look as if it had ended."""
    world = _World(2)

    def broken(_uuid: str) -> int:
        raise KeyError("a device that nobody knows")

    with monkeypatch.context() as patch:
        patch.setattr(world.harpd, "physical_bytes", broken)
        for _ in range(2):
            with pytest.raises(KeyError):
                asyncio.run(world.reporter.metrics(""))
    assert world.value("harp_metrics_scrape_errors_total") == 2


def test_looks_that_failed_are_told() -> None:
    world = _World()
    assert world.value("harp_watchdog_errors_total") == 0
    world.harpd.look_errors = 3
    assert world.value("harp_watchdog_errors_total") == 3


def test_tenants_beyond_the_setting_have_no_series() -> None:
    world = _World(3, most=2)
    assert world.value("harp_grant_info", "t2") == 1
    assert world.value("harp_grant_info", "t3") is None
    assert world.value("harp_metrics_grants_left_out") == 1


def test_a_tenant_is_idle_since_its_grant_until_it_is_seen_to_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "harp_grant_last_activity_timestamp_seconds"
    now = SimpleNamespace(time=lambda: 5000.0, monotonic=time.monotonic)
    monkeypatch.setattr("harp.daemon.book.time", now)
    world = _World(2)
    made = world.book.tenants[1]
    world.book.tenants[1] = replace(made, created_s=4000)
    assert world.value(name, "t1") == 4000
    world.book.arbiter.uses[1] = Use(used_ns=1)
    assert world.value(name, "t1") == 5000
    assert world.value(name, "t2") == 0
    now.time = lambda: 6000.0
    assert world.value(name, "t1") == 5000


def test_what_was_not_looked_at_has_no_series() -> None:
    world = _World()
    assert world.value("harp_device_memory_used_bytes") is None
    assert world.value("harp_watchdog_last_look_timestamp_seconds") is None
    world.harpd.used_bytes[GPU.uuid] = 7
    world.harpd.looked_s = time.monotonic() - 30
    assert world.value("harp_device_memory_used_bytes") == 7
    looked = world.value("harp_watchdog_last_look_timestamp_seconds")
    assert looked is not None
    assert 29 < time.time() - looked < 60
    assert world.value("harp_device_memory_total_bytes") == 9 * GIB


def test_harpd_is_ill_when_it_has_not_looked_for_long() -> None:
    world = _World()
    assert world.health() == Page(b"ok\n")
    world.reporter._begun_s -= 11
    assert world.health().status == 503
    world.harpd.looked_s = time.monotonic()
    assert world.health().status == 200
    world.harpd.looked_s -= 11
    assert world.health().status == 503
    assert b"no look at the devices for 11 s" in world.health().body


def test_harpd_that_has_not_looked_is_alive_all_the_same() -> None:
    """A restart mends no device, and takes the arbiter of all others along."""
    world = _World()
    world.reporter._begun_s -= 11
    routes = world.reporter.routes()
    assert asyncio.run(routes["/healthz"]("")).status == 503
    assert asyncio.run(routes["/livez"]("")) == Page(b"ok\n")


def test_a_device_that_does_not_answer_is_named() -> None:
    world = _World()
    world.harpd.lost = {"GPU-7": "device GPU-7: GPU is lost"}
    assert world.health() == Page(b"ok\nno answer from device GPU-7\n")


def test_the_text_is_made_in_a_thread_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the event loop goes on, and many that ask cost no more threads than one."""
    world = _World(1)
    release = threading.Event()
    threads: list[int] = []
    entered: list[asyncio.Event] = []
    loops: list[asyncio.AbstractEventLoop] = []

    def slow(*arguments: Any) -> tuple[bytes, str]:
        threads.append(threading.get_ident())
        loops[0].call_soon_threadsafe(entered[0].set)
        assert release.wait(60)
        return expose(*arguments)

    monkeypatch.setattr(daemon_metrics, "expose", slow)
    monkeypatch.setattr(daemon_metrics, "_parts", lambda _pid: ())  # whose time goes on meanwhile

    async def scenario() -> None:
        loops.append(asyncio.get_running_loop())
        entered.append(asyncio.Event())
        scrapes = [asyncio.create_task(world.reporter.metrics("")) for _ in range(3)]
        await entered[0].wait()
        for _ in range(100):
            await asyncio.sleep(0)
        assert (len(threads), world.book.arbiter.looks) == (1, 1)
        release.set()
        pages = await asyncio.gather(*scrapes)
        assert len({page.body for page in pages}) == 1

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert len(threads) == 3
    assert threading.get_ident() not in threads


def test_every_family_of_harpd_is_in_its_text() -> None:
    text = asyncio.run(_World().reporter.metrics("")).body.decode()
    assert [line.split(" ")[2] for line in text.splitlines() if line.startswith("# HELP")] == [
        family.name for family in DAEMON
    ]


def test_a_share_error_is_told_of_who_wants_and_is_promised_something() -> None:
    world = _World()
    best = Limits(share_ppm=0, tenant_class=TenantClass.BEST_EFFORT)
    for number, limits in ((1, Limits(share_ppm=250_000)), (2, best), (3, Limits())):
        world.book.add(number, limits)
    world.book.arbiter.gone = True  # figures are those of its last answer
    for now_s in range(0, 40, 2):
        standing = Standing(weight_ratio=0.25)
        world.book.fairness.see(
            {
                (n, GPU.uuid): Use(
                    used_ns=now_s * used * S // 10,
                    wait_ns=now_s * waited * S // 10,
                    standing=standing,
                )
                for n, used, waited in ((1, 2, 8), (2, 1, 9), (3, 1, 1))
            },
            float(now_s),
        )
    assert world.value("harp_grant_share_error_ratio", "t1") == pytest.approx(-0.05)
    assert world.value("harp_grant_share_error_ratio", "t2") is None, "best effort is owed nothing"
    assert world.value("harp_grant_share_error_ratio", "t3") is None, "it does not want"
