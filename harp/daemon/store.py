# SPDX-License-Identifier: Apache-2.0
"""What outlives harpd: the grants, and what contexts cost. SQLite, in the run folder."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from harp.daemon.overheads import ContextCost
from harp.errors import DaemonError
from harp.model import Limits, Policy, Tenant, TenantClass

__all__ = ["Store"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tenant (
    tenant_id INTEGER PRIMARY KEY, name TEXT NOT NULL, uid INTEGER NOT NULL,
    root_pid INTEGER NOT NULL, root_start INTEGER NOT NULL, grant_dir TEXT NOT NULL,
    device_uuid TEXT NOT NULL, mem_bytes INTEGER NOT NULL, share_ppm INTEGER NOT NULL,
    limit_ppm INTEGER NOT NULL, tenant_class INTEGER NOT NULL, policy TEXT NOT NULL,
    created_s REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS overhead (
    model TEXT NOT NULL, driver TEXT NOT NULL, bytes INTEGER NOT NULL,
    PRIMARY KEY (model, driver)
) STRICT;
"""
#: what makes a store of version n one of version n + 1 (PRAGMA user_version; new ones are 0 too)
_MIGRATIONS = (
    # A grant of several devices: device_uuid is the first, device_uuids all, '' in older rows.
    (
        "ALTER TABLE tenant ADD COLUMN device_uuids TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE tenant ADD COLUMN gang INTEGER NOT NULL DEFAULT 1",
    ),
    # What a tenant's memory may do; costs that real clients refined (seen: bytes, comma separated).
    (
        "ALTER TABLE tenant ADD COLUMN host_bytes INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE tenant ADD COLUMN oversubscribe INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE tenant ADD COLUMN suspended INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE overhead ADD COLUMN source TEXT NOT NULL DEFAULT 'measured'",
        "ALTER TABLE overhead ADD COLUMN seen TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE overhead ADD COLUMN unlisted INTEGER NOT NULL DEFAULT 0",
    ),
    # Tenants that root makes for processes of another uid.
    ("ALTER TABLE tenant ADD COLUMN for_root INTEGER NOT NULL DEFAULT 0",),
    # Containers' tenants (labels: JSON).
    (
        "ALTER TABLE tenant ADD COLUMN any_uid INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE tenant ADD COLUMN held INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE tenant ADD COLUMN labels TEXT NOT NULL DEFAULT '{}'",
    ),
    # What of a tenant's contexts comes beside its limit.
    ("ALTER TABLE tenant ADD COLUMN context_bytes INTEGER NOT NULL DEFAULT 0",),
    # Tenants that are counted by what they typically need.
    ("ALTER TABLE tenant ADD COLUMN need_bytes INTEGER NOT NULL DEFAULT 0",),
)


class Store:
    """One open store. Each call is one transaction of some hundred microseconds."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.row_factory = sqlite3.Row
        # The run folder is gone after a reboot anyway; surviving SIGKILL needs no fsync.
        self._db.execute("PRAGMA synchronous=OFF")
        self._db.executescript(_SCHEMA)
        self._migrate(path)

    def _migrate(self, path: Path) -> None:
        """One transaction: a store is of the old version or of the new one, whatever ends us.

        Raises:
            DaemonError: the store is a newer harpd's.
        """
        self._db.execute("BEGIN IMMEDIATE")
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        if version > len(_MIGRATIONS):
            self._db.execute("ROLLBACK")
            raise DaemonError(
                f"{path} has version {version}, this harpd reads versions up to {len(_MIGRATIONS)}",
                "start the newer harpd, or end the tenants and remove the file",
            )
        for statements in _MIGRATIONS[version:]:
            for statement in statements:
                self._db.execute(statement)
        self._db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")
        self._db.execute("COMMIT")

    def close(self) -> None:
        """Close it."""
        self._db.close()

    def tenants(self) -> list[Tenant]:
        """Every tenant that was not removed."""
        rows = self._db.execute("SELECT * FROM tenant ORDER BY tenant_id")
        return [_tenant(row) for row in rows]

    def put(self, tenant: Tenant) -> None:
        """Write a tenant, new or changed."""
        limits = tenant.limits
        row: dict[str, str | int | float] = {
            "tenant_id": tenant.tenant_id,
            "name": tenant.name,
            "uid": tenant.uid,
            "root_pid": tenant.root_pid,
            "root_start": tenant.root_start,
            "grant_dir": tenant.grant_dir,
            "device_uuid": tenant.device_uuids[0],
            "mem_bytes": limits.mem_bytes,
            "share_ppm": limits.share_ppm,
            "limit_ppm": limits.limit_ppm,
            "tenant_class": limits.tenant_class.value,
            "policy": tenant.policy.value,
            "created_s": tenant.created_s,
            "device_uuids": ",".join(tenant.device_uuids),
            "gang": int(limits.gang),
            "host_bytes": limits.host_bytes,
            "oversubscribe": int(limits.oversubscribe),
            "context_bytes": limits.context_bytes,
            "suspended": int(tenant.suspended),
            "for_root": int(tenant.for_root),
            "any_uid": int(tenant.any_uid),
            "held": int(tenant.held),
            "labels": json.dumps(dict(tenant.labels)),
            "need_bytes": tenant.need_bytes,
        }
        self._put("tenant", row)

    def remove(self, tenant_id: int) -> None:
        """Forget a tenant."""
        self._db.execute("DELETE FROM tenant WHERE tenant_id = ?", (tenant_id,))

    def context_cost(self, model: str, driver: str) -> ContextCost | None:
        """Cost of a context, if it was measured or seen."""
        row = self._db.execute(
            "SELECT * FROM overhead WHERE model = ? AND driver = ?", (model, driver)
        ).fetchone()
        if row is None:
            return None
        seen = tuple(int(word) for word in row["seen"].split(",") if word)
        return ContextCost(row["bytes"], row["source"], seen, row["unlisted"])

    def put_context_cost(self, model: str, driver: str, cost: ContextCost) -> None:
        """Write a cost, new or refined."""
        self._put(
            "overhead",
            {
                "model": model,
                "driver": driver,
                "bytes": cost.size_bytes,
                "source": cost.source,
                "seen": ",".join(map(str, cost.seen)),
                "unlisted": cost.unlisted_bytes,
            },
        )

    def _put(self, table: str, row: dict[str, str | int | float]) -> None:
        columns, places = ", ".join(row), ", ".join("?" * len(row))
        self._db.execute(
            f"INSERT OR REPLACE INTO {table} ({columns}) VALUES ({places})",  # noqa: S608 - our names
            tuple(row.values()),
        )


def _tenant(row: sqlite3.Row) -> Tenant:
    return Tenant(
        tenant_id=row["tenant_id"],
        name=row["name"],
        uid=row["uid"],
        root_pid=row["root_pid"],
        root_start=row["root_start"],
        grant_dir=row["grant_dir"],
        device_uuids=tuple((row["device_uuids"] or row["device_uuid"]).split(",")),
        limits=Limits(
            mem_bytes=row["mem_bytes"],
            share_ppm=row["share_ppm"],
            limit_ppm=row["limit_ppm"],
            tenant_class=TenantClass(row["tenant_class"]),
            gang=bool(row["gang"]),
            host_bytes=row["host_bytes"],
            oversubscribe=bool(row["oversubscribe"]),
            context_bytes=row["context_bytes"],
        ),
        policy=Policy(row["policy"]),
        created_s=row["created_s"],
        suspended=bool(row["suspended"]),
        for_root=bool(row["for_root"]),
        any_uid=bool(row["any_uid"]),
        held=bool(row["held"]),
        labels=tuple(sorted(json.loads(row["labels"]).items())),
        need_bytes=row["need_bytes"],
    )
