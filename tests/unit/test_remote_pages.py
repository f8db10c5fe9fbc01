# SPDX-License-Identifier: Apache-2.0
"""When certificates in use run out, as Prometheus is told by who shows them."""

from __future__ import annotations

import asyncio
import datetime as dt
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from remote_world import client, now, pool, until
from test_remote_renewing import put

from harp.cli.remote_keep import _pages
from harp.cli.remote_pages import renewing
from harp.errors import CertificateError, ConfigError
from harp.metrics import Carried, RemoteSeen, TrafficSeen
from harp.remote import authority
from harp.remote.certificate import Kind
from harp.remote.keeping import Keeper
from harp.remote.renewing import Renewing
from harp.remote.traffic import Traffic
from harp.remote.trust import load
from harp.remote.who import Who

DAY_S = 86400.0
NAME = "harp_certificate_expiry_timestamp_seconds"


async def scraped(at: tuple[str, int]) -> list[Metric]:
    """What a scrape tells."""

    def get() -> str:
        with urllib.request.urlopen(f"http://{at[0]}:{at[1]}/metrics", timeout=30) as answer:
            text: str = answer.read().decode()
            return text

    return list(text_string_to_metric_families(await asyncio.to_thread(get)))


async def days(at: tuple[str, int]) -> dict[str, float]:
    """{role: days that are left}, as a scrape tells."""
    (family,) = (one for one in await scraped(at) if "harp_remote_" not in one.name)
    assert (family.name, family.type) == (NAME, "gauge")
    return {s.labels["role"]: (s.value - now().timestamp()) / DAY_S for s in family.samples}


def issued(base: Path, name: str, days: int) -> Path:
    authority.issue(base, Kind.NODE, name, hosts=["127.0.0.1"], now=now(), days=days)
    return base / f"node-{name}"


def test_a_server_tells_of_the_certificate_of_now(tmp_path: Path) -> None:
    base = pool(tmp_path / "p")
    folder, fresh = issued(base, "a", 5), issued(base, "b", 300)
    mine = Renewing(lambda: load(folder, Kind.NODE, dt.datetime.now(dt.UTC)), lambda _text: None)

    async def main() -> None:
        async with renewing(mine, "127.0.0.1", 0, look_s=0.02) as at:
            first = await days(at)
            assert first.keys() == {"server", "authority"}
            assert first["server"] == pytest.approx(5, abs=0.1)
            assert first["authority"] == pytest.approx(3650, abs=5)
            put(fresh, folder)
            before = mine.stamp
            await until(lambda: mine.stamp != before)
            assert (await days(at))["server"] == pytest.approx(300, abs=0.1)
            # What cannot be used is not told of: the one of before is shown.
            (folder / "tls.crt").write_text("none")
            with pytest.raises(CertificateError):
                load(folder, Kind.NODE, dt.datetime.now(dt.UTC))
            await asyncio.sleep(0.1)
            assert (await days(at))["server"] == pytest.approx(300, abs=0.1)
            with pytest.raises(ConfigError, match=f"--metrics 127.0.0.1:{at[1]}"):
                async with renewing(None, *at):
                    pass

    asyncio.run(asyncio.wait_for(main(), 60))


def test_who_has_no_certificate_has_no_series() -> None:
    async def main() -> None:
        async with renewing(None, "127.0.0.1", 0) as at:
            assert await days(at) == {}

    asyncio.run(main())


def test_a_server_tells_who_is_here_as_well() -> None:
    async def main() -> None:
        traffic = TrafficSeen(Carried(30, 4), {"train": Carried(20, 3)})
        seen = RemoteSeen(leases=3, sessions=2, begun=7, draining=True, traffic=traffic)
        before = asyncio.all_tasks()
        async with renewing(None, "127.0.0.1", 0, seen=lambda: seen) as at:
            told = {s.name: s.value for family in await scraped(at) for s in family.samples}
        trips = {name: told.pop(name) for name in list(told) if "round_trip" in name}
        assert set(trips.values()) == {0}
        assert told == {
            "harp_remote_received_bytes_total": 30,
            "harp_remote_sent_bytes_total": 4,
            "harp_remote_lease_received_bytes_total": 20,
            "harp_remote_lease_sent_bytes_total": 3,
            "harp_remote_leases": 3,
            "harp_remote_sessions": 2,
            "harp_remote_sessions_started_total": 7,
            "harp_remote_draining": 1,
        }
        await until(lambda: asyncio.all_tasks() == before)  # nobody looks on

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_keeper_tells_of_its_own(tmp_path: Path) -> None:
    base = pool(tmp_path / "p")
    who = Who(lambda: client(base), "", print)

    async def main() -> None:
        traffic = Traffic()
        traffic.heard("a 30 4 1000")
        keeper = cast("Keeper", SimpleNamespace(traffic=traffic))  # else not asked for that page
        async with _pages(keeper, who, "127.0.0.1", 0) as at:
            told = await days(at)
            all_of_it = {s.name: s.value for family in await scraped(at) for s in family.samples}
        assert all_of_it["harp_remote_received_bytes_total"] == 30
        assert all_of_it["harp_remote_sent_bytes_total"] == 4
        assert all_of_it["harp_remote_round_trip_seconds_sum"] == 0.001
        assert told.keys() == {"client", "authority"}
        mine = who.identity
        assert mine is not None
        left_s = mine.certificate.ends.timestamp() - now().timestamp()
        assert told["client"] == pytest.approx(left_s / DAY_S, abs=0.1)

    asyncio.run(main())
