# SPDX-License-Identifier: Apache-2.0
"""The watchdog's judgement."""

from __future__ import annotations

from dataclasses import replace

from harp.daemon.watch import Lineage, Sight, attribute, confirm
from harp.model import Limits, Policy, Tenant
from harp.procs import Proc


def tenant(tenant_id: int = 1, root_pid: int = 100, uid: int = 1000, start: int = 10) -> Tenant:
    return Tenant(
        tenant_id=tenant_id,
        name=f"t{tenant_id}",
        uid=uid,
        root_pid=root_pid,
        root_start=start,
        grant_dir=f"/run/user/{uid}/harp/grants/t{tenant_id}",
        device_uuids=("GPU-0",),
        limits=Limits(),
        policy=Policy.WARN,
        created_s=0,
    )


def proc(pid: int, ppid: int = 1, start: int = 20, session: int = 1) -> Proc:
    return Proc(pid, ppid, session, start, zombie=False)


def table(*procs: Proc) -> dict[int, Proc]:
    return {p.pid: p for p in procs}


def whose(
    one: Proc,
    lineage: Lineage,
    *tenants: Tenant,
    uid: int = 1000,
    grant: str | None = None,
    cgroups: dict[int, str] | None = None,
    mounted: str = "",
) -> tuple[str | None, str]:
    found, evidence = attribute(
        one,
        uid,
        {t.tenant_id: t for t in tenants},
        lineage,
        environ_of=lambda _pid, _name: grant,
        own_cgroup=lambda pid: (cgroups or {}).get(pid, ""),
        has_mounted=lambda _pid, folder: folder == mounted,
    )
    return (found.name if found else None), evidence


def test_the_children_of_a_root_of_several_are_told_by_their_environment() -> None:
    """A server of leases: as long as it has one tenant, its children are that one's."""
    lineage = Lineage()
    first, second = tenant(1), tenant(2)
    root, child = proc(100, start=10), proc(101, 100, 11)
    lineage.update(table(root, child), [first])
    assert whose(child, lineage, first) == ("t1", "ancestry")
    late = proc(102, 101, 12)
    procs = table(root, child, late)
    lineage.update(procs, [first, second])
    for one in (child, late):
        assert whose(one, lineage, first, second) == (None, "")
        assert whose(one, lineage, first, second, grant=second.grant_dir) == ("t2", "environ")
    assert not lineage.has_members(1, procs)
    lineage.update(procs, [second])
    assert whose(late, lineage, second) == ("t2", "ancestry")


def test_a_removed_tenants_processes_are_not_those_of_the_next_with_its_number() -> None:
    lineage = Lineage()
    root, child = proc(100, start=10), proc(101, 100, 11)
    procs = table(root, child)
    lineage.update(procs, [tenant(1)])
    assert lineage.has_members(1, procs)
    lineage.forget(1)
    assert not lineage.has_members(1, procs)
    lineage.update(procs, [tenant(1, root_pid=200)])
    assert whose(child, lineage, tenant(1, root_pid=200)) == (None, "")


def test_a_grandchild_is_its_tenants_also_after_its_parents_are_gone() -> None:
    lineage = Lineage()
    root, child, grandchild = proc(100, start=10), proc(101, 100, 11), proc(102, 101, 12)
    lineage.update(table(root, child, grandchild), [tenant()])
    orphan = proc(102, 1, 12)
    lineage.update(table(orphan), [tenant()])
    assert whose(orphan, lineage, tenant()) == ("t1", "ancestry")
    late = proc(103, 102, 30)
    lineage.update(table(orphan, late), [tenant()])
    assert whose(late, lineage, tenant()) == ("t1", "ancestry")


def test_the_daemon_is_no_child_of_the_run_that_started_it() -> None:
    lineage = Lineage(daemon_pid=101)
    daemon, arbiter, child = proc(101, 100, 11), proc(102, 101, 12), proc(103, 100, 13)
    lineage.update(table(proc(100, start=10), daemon, arbiter, child), [tenant()])
    assert not lineage.has_members(1, table(daemon, arbiter))
    assert lineage.has_members(1, table(child))


def test_members_are_looked_up_in_the_newest_view() -> None:
    lineage = Lineage()
    lineage.update(table(proc(100, start=10), proc(101, 100, 11)), [tenant()])
    assert lineage.has_members(1, table(proc(101, 1, 11)))
    assert not lineage.has_members(1, {})
    assert not lineage.has_members(1, table(proc(101, 1, 500)))
    assert not lineage.has_members(1, table(Proc(101, 1, 1, 11, zombie=True)))
    assert not lineage.has_members(2, table(proc(101, 1, 11)))


def test_a_reused_pid_is_nobodys() -> None:
    lineage = Lineage()
    lineage.update(table(proc(100, start=10), proc(101, 100, 11)), [tenant()])
    stranger = proc(101, 1, 500)
    lineage.update(table(stranger), [tenant()])
    assert whose(stranger, lineage, tenant()) == (None, "")
    # and a process that has the root's number now is no root
    imposter, its_child = proc(100, 1, 500), proc(200, 100, 501)
    lineage.update(table(imposter, its_child), [tenant()])
    assert whose(its_child, lineage, tenant()) == (None, "")


def test_a_tenant_started_inside_another_belongs_to_itself() -> None:
    inner = tenant(2, root_pid=101, start=11)
    lineage = Lineage()
    procs = table(proc(100, start=10), proc(101, 100, 11), proc(102, 101, 12))
    lineage.update(procs, [tenant()])  # seen before it became a tenant
    lineage.update(procs, [tenant(), inner])
    assert whose(procs[101], lineage, tenant(), inner) == ("t2", "ancestry")
    late = proc(103, 101, 13)
    lineage.update({**procs, 103: late}, [tenant(), inner])
    assert whose(late, lineage, tenant(), inner) == ("t2", "ancestry")


def test_environment_session_and_container_are_evidence_too() -> None:
    lineage = Lineage()
    one, two = tenant(1, 100), tenant(2, 200)
    assert whose(proc(7), lineage, one, two, grant=two.grant_dir) == ("t2", "environ")
    assert whose(proc(7, session=200), lineage, one, two) == ("t2", "session")
    cgroups = {7: "/docker/abc", 200: "/docker/abc", 100: ""}
    assert whose(proc(7), lineage, one, two, cgroups=cgroups) == ("t2", "cgroup")
    assert whose(proc(7), lineage, one, two) == (None, "")


def test_a_containers_process_is_known_by_the_grant_it_has_mounted() -> None:
    """Whatever its user, and whatever is left of its environment."""
    one, two = (replace(tenant(n, 0, uid=0, start=0), any_uid=True) for n in (1, 2))
    assert whose(proc(7), Lineage(), one, two, uid=70_000, mounted=two.grant_dir) == ("t2", "mount")
    told = whose(proc(7), Lineage(), one, two, grant="/opt/harp/grant", mounted=two.grant_dir)
    assert told == ("t2", "mount")
    job = tenant(1, uid=0)
    assert whose(proc(7), Lineage(), job, mounted=job.grant_dir) == (None, "")


def test_another_users_process_is_never_attributed_except_to_roots_tenant() -> None:
    """Else a user could have root's harpd kill a process by writing HARP_GRANT into its own."""
    lineage = Lineage()
    mine = tenant(1, uid=1000)
    assert whose(proc(7), lineage, mine, uid=1001, grant=mine.grant_dir) == (None, "")
    roots = tenant(2, uid=0)
    assert whose(proc(7), lineage, roots, uid=1001, grant=roots.grant_dir) == ("t2", "environ")


def test_a_sight_must_be_repeated_without_a_gap() -> None:
    one, two = Sight(7, 1, "GPU-0"), Sight(8, 1, "GPU-0")
    counts, sure = confirm({}, [one, two], 2)
    assert not sure
    counts, sure = confirm(counts, [one], 2)
    assert sure == {one}
    counts, sure = confirm(counts, [one, two], 2)
    assert sure == {one}
    _, sure = confirm(counts, [one, two], 2)
    assert sure == {one, two}
