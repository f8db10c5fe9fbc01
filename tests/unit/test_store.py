# SPDX-License-Identifier: Apache-2.0
"""What outlives harpd."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from harp.daemon.overheads import ContextCost
from harp.daemon.store import Store
from harp.errors import DaemonError
from harp.model import Limits, Policy, Tenant, TenantClass

TENANT = Tenant(
    tenant_id=3,
    name="train",
    uid=1000,
    root_pid=4711,
    root_start=123456789,
    grant_dir="/run/user/1000/harp/grants/train-1",
    device_uuids=("GPU-1", "GPU-2"),
    limits=Limits(
        1 << 33,
        300_000,
        500_000,
        TenantClass.LATENCY,
        gang=False,
        host_bytes=1 << 30,
        oversubscribe=True,
        context_bytes=1 << 29,
    ),
    policy=Policy.KILL,
    created_s=1.5,
    for_root=True,
    any_uid=True,
    held=True,
    labels=(("namespace", "ns"), ("pod", "web-0")),
)


def test_tenants_survive_a_store_that_was_never_closed(tmp_path: Path) -> None:
    path = tmp_path / "harpd.db"
    first = Store(path)
    first.put(TENANT)
    first.put(replace(TENANT, tenant_id=2, name="other", suspended=True))
    second = Store(path)  # as after SIGKILL: the first still has it open
    assert [(t.name, t.suspended) for t in second.tenants()] == [("other", True), ("train", False)]
    assert second.tenants()[1] == TENANT
    first.close()
    second.close()


def test_a_tenant_is_changed_and_forgotten(tmp_path: Path) -> None:
    store = Store(tmp_path / "harpd.db")
    store.put(TENANT)
    store.put(replace(TENANT, limits=Limits()))
    assert [t.limits for t in store.tenants()] == [Limits()]
    store.remove(TENANT.tenant_id)
    assert store.tenants() == []
    store.close()


_VERSION_0 = """
CREATE TABLE tenant (
    tenant_id INTEGER PRIMARY KEY, name TEXT NOT NULL, uid INTEGER NOT NULL,
    root_pid INTEGER NOT NULL, root_start INTEGER NOT NULL, grant_dir TEXT NOT NULL,
    device_uuid TEXT NOT NULL, mem_bytes INTEGER NOT NULL, share_ppm INTEGER NOT NULL,
    limit_ppm INTEGER NOT NULL, tenant_class INTEGER NOT NULL, policy TEXT NOT NULL,
    created_s REAL NOT NULL
) STRICT;
INSERT INTO tenant VALUES (
    3, 'train', 1000, 4711, 123456789, '/run/user/1000/harp/grants/train-1',
    'GPU-1', 8589934592, 300000, 500000, 1, 'kill', 1.5
);
"""


def test_a_store_of_the_first_release_is_read_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "harpd.db"
    with contextlib.closing(sqlite3.connect(path)) as old:
        old.executescript(_VERSION_0)
    limits = replace(TENANT.limits, gang=True, host_bytes=0, oversubscribe=False, context_bytes=0)
    before = replace(
        TENANT,
        device_uuids=("GPU-1",),
        limits=limits,
        for_root=False,
        any_uid=False,
        held=False,
        labels=(),
    )
    for _ in range(2):  # the second time there is nothing to migrate
        store = Store(path)
        assert store.tenants() == [before]
        store.close()
    store = Store(path)
    store.put(TENANT)
    assert store.tenants() == [TENANT]
    store.close()


def test_a_newer_harpds_store_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "harpd.db"
    Store(path).close()
    with contextlib.closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 99")
    with pytest.raises(
        DaemonError, match=r"version 99, this harpd reads versions up to \d$"
    ) as caught:
        Store(path)
    assert "newer harpd" in caught.value.hint


def test_costs_of_contexts_are_kept_by_model_and_driver(tmp_path: Path) -> None:
    path = tmp_path / "harpd.db"
    store = Store(path)
    store.put_context_cost("H100", "580.1", ContextCost(5, "measured"))
    store.put_context_cost("H100", "580.1", ContextCost(6, "seen", (7, 6), 2))
    store.put_context_cost("T4", "580.1", ContextCost(3, "measured"))
    store.close()
    store = Store(path)
    assert store.context_cost("H100", "580.1") == ContextCost(6, "seen", (7, 6), 2)
    assert store.context_cost("T4", "580.1") == ContextCost(3, "measured")
    assert store.context_cost("H100", "580.2") is None
    store.close()


def test_a_cost_that_an_older_harpd_measured_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "harpd.db"
    with contextlib.closing(sqlite3.connect(path)) as old:
        old.executescript(
            _VERSION_0 + "CREATE TABLE overhead (model TEXT NOT NULL, driver TEXT NOT NULL,"
            " bytes INTEGER NOT NULL, PRIMARY KEY (model, driver)) STRICT;"
            "INSERT INTO overhead VALUES ('H100', '580.1', 5)"
        )
    store = Store(path)
    assert store.context_cost("H100", "580.1") == ContextCost(5, "measured")
    store.close()
