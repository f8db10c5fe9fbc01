# SPDX-License-Identifier: Apache-2.0
"""What outlives harpd."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harp.daemon.store import Store
from harp.model import Limits, Policy, Tenant, TenantClass

TENANT = Tenant(
    tenant_id=3,
    name="train",
    uid=1000,
    root_pid=4711,
    root_start=123456789,
    grant_dir="/run/user/1000/harp/grants/train-1",
    device_uuid="GPU-1",
    limits=Limits(1 << 33, 300_000, 500_000, TenantClass.LATENCY),
    policy=Policy.KILL,
    created_s=1.5,
)


def test_tenants_survive_a_store_that_was_never_closed(tmp_path: Path) -> None:
    path = tmp_path / "harpd.db"
    first = Store(path)
    first.put(TENANT)
    first.put(replace(TENANT, tenant_id=2, name="other"))
    second = Store(path)  # as after SIGKILL: the first still has it open
    assert [t.name for t in second.tenants()] == ["other", "train"]
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


def test_overheads_are_kept_by_model_and_driver(tmp_path: Path) -> None:
    store = Store(tmp_path / "harpd.db")
    store.put_overhead("H100", "580.1", 5)
    store.put_overhead("H100", "580.1", 6)
    assert store.overhead("H100", "580.1") == 6
    assert store.overhead("H100", "580.2") is None
    store.close()
