# SPDX-License-Identifier: Apache-2.0
"""The watchdog's judgement: who uses a device without a session, and whose process that is. Pure.

Interception is cooperative: a static program, `env -i` or a cleared LD_PRELOAD get past it. NVML
sees every process that has a context, so what is on a device and not in the arbiter's book is
UNCOVERED. It belongs to a tenant by the first of these that holds, each for processes of the
tenant's own uid only (root's tenant: of any uid):
    ancestry  it, or an ancestor of it, was once seen below the tenant's root process
    mount     a container's: the tenant's grant folder is mounted where containers have theirs
    environ   it started with the tenant's HARP_GRANT
    session   its session's leader is the tenant's root process
    cgroup    its control group is one that the tenant's root process has for itself
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from harp.model import Tenant
from harp.procs import Proc

__all__ = ["Lineage", "Sight", "attribute", "confirm"]


class Lineage:
    """Who descends from which tenant, also after the parents are gone."""

    def __init__(self, daemon_pid: int = 0) -> None:
        #: nobody's child, though a tenant's `harp run` may have begun it
        self._daemon_pid = daemon_pid
        #: {(pid, start): tenant_id} of living processes
        self._known: dict[tuple[int, int], int] = {}

    def update(self, procs: Mapping[int, Proc], tenants: Iterable[Tenant]) -> None:
        """Learn the children that came, forget the processes that went."""
        self._known = {
            key: tenant
            for key, tenant in self._known.items()
            if key[0] in procs and procs[key[0]].start == key[1]
        }
        roots: dict[tuple[int, int], list[int]] = {}
        for tenant in tenants:
            root = procs.get(tenant.root_pid)
            if root is not None and root.start == tenant.root_start:
                roots.setdefault((root.pid, root.start), []).append(tenant.tenant_id)
        # A server of leases is the root of several tenants: whose its children are, ancestry cannot
        # tell, though it could as long as there was one.
        torn = {tenant for owners in roots.values() if len(owners) > 1 for tenant in owners}
        self._known = {key: tenant for key, tenant in self._known.items() if tenant not in torn}
        for root_key, owners in roots.items():
            if len(owners) == 1:
                # A tenant started inside another one belongs to itself.
                self._known[root_key] = owners[0]
        # A child is never older than its parent, so parents come first in this order.
        for proc in sorted(procs.values(), key=lambda p: (p.start, p.pid)):
            parent = procs.get(proc.ppid)
            if proc.pid == self._daemon_pid or parent is None:
                continue
            if (proc.pid, proc.start) in self._known or (proc.pid, proc.start) in roots:
                continue
            tenant_id = self._known.get((parent.pid, parent.start))
            if tenant_id is not None:
                self._known[proc.pid, proc.start] = tenant_id

    def forget(self, tenant_id: int) -> None:
        """A tenant was removed; its processes may go on, and its number goes to another."""
        self._known = {key: tenant for key, tenant in self._known.items() if tenant != tenant_id}

    def tenant_of(self, proc: Proc) -> int | None:
        """The tenant a process descends from."""
        return self._known.get((proc.pid, proc.start))

    def members(self) -> dict[int, list[int]]:
        """{tenant_id: pids}, as of the view last learnt from."""
        found: dict[int, list[int]] = {}
        for (pid, _), tenant in self._known.items():
            found.setdefault(tenant, []).append(pid)
        return found

    def has_members(self, tenant_id: int, procs: Mapping[int, Proc]) -> bool:
        """Whether a process of a tenant lives, as far as ancestry tells.

        Args:
            tenant_id: whose.
            procs: may be a newer view than the one last learnt from.
        """
        return any(
            tenant == tenant_id
            and (proc := procs.get(pid)) is not None
            and proc.start == start
            and not proc.zombie
            for (pid, start), tenant in self._known.items()
        )


def attribute(
    proc: Proc,
    uid: int,
    tenants: Mapping[int, Tenant],
    lineage: Lineage,
    *,
    environ_of: Callable[[int, str], str | None],
    own_cgroup: Callable[[int], str],
    has_mounted: Callable[[int, str], bool],
) -> tuple[Tenant | None, str]:
    """Whose process it is.

    Args:
        proc: the process.
        uid: its user.
        tenants: by tenant_id.
        lineage: updated with a view that contains `proc`.
        environ_of: reads a variable of a process's environment.
        own_cgroup: a process's control group, "" for one that everybody is in.
        has_mounted: whether a process sees a folder of ours where containers see their grant.

    Returns:
        The tenant and the evidence, or (None, "").
    """
    mine = [t for t in tenants.values() if t.uid in (uid, 0)]
    descends = lineage.tenant_of(proc)
    grant = environ_of(proc.pid, "HARP_GRANT")
    cgroup = own_cgroup(proc.pid)
    evidences: tuple[tuple[str, Callable[[Tenant], bool]], ...] = (
        ("ancestry", lambda t: t.tenant_id == descends),
        ("mount", lambda t: t.any_uid and has_mounted(proc.pid, t.grant_dir)),
        ("environ", lambda t: bool(grant) and t.grant_dir == grant),
        ("session", lambda t: bool(t.root_pid) and t.root_pid == proc.session),
        ("cgroup", lambda t: bool(cgroup) and own_cgroup(t.root_pid) == cgroup),
    )
    for evidence, holds in evidences:
        for tenant in mine:
            if holds(tenant):
                return tenant, evidence
    return None, ""


@dataclass(frozen=True, slots=True)
class Sight:
    """A process on a device that had no session when we looked."""

    pid: int
    start: int
    device_uuid: str


def confirm(
    seen: Mapping[Sight, int], now: Iterable[Sight], confirm_count: int
) -> tuple[dict[Sight, int], set[Sight]]:
    """Count sights in a row: a process makes its context a moment before its session is booked.

    Returns:
        The new counts, and those that reached `confirm_count`.
    """
    counts = {sight: seen.get(sight, 0) + 1 for sight in now}
    return counts, {sight for sight, count in counts.items() if count >= confirm_count}
