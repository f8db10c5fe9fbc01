# SPDX-License-Identifier: Apache-2.0
"""The book of grants against an arbiter of memory: several devices are told alike, or none."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from book_world import DEVICES, GIB, UUIDS, Desk, do, listening, wish
from structlog.testing import capture_logs

from harp.api.v1 import control_pb2 as pb
from harp.daemon.answers import Answers
from harp.daemon.arbiter import as_tenant
from harp.daemon.book import Book
from harp.daemon.owners import Wish
from harp.daemon.picture import ArbiterTenant, Picture
from harp.daemon.service import ControlService
from harp.errors import ArbiterError, ConfigError, NoDevice, QuotaExceeded
from harp.lease_admin import ArbiterRefused
from harp.lease_wire import ANY_UID, GRANT_NO_GANG, GRANT_OVERSUBSCRIBE, Msg, Op
from harp.model import Limits, Policy, Tenant, TenantClass, Use


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    found = Desk(tmp_path)
    yield found
    found.close()


def test_each_device_is_told_the_same_limits(desk: Desk) -> None:
    async def steps(book: Book) -> None:
        limits = {"mem_bytes": GIB, "share_ppm": 300_000, "limit_ppm": 500_000, "gang": False}
        tenant = await book.create(
            wish("2,0", tenant_class=TenantClass.LATENCY, **limits), listening()
        )
        assert tenant.device_uuids == (UUIDS[2], UUIDS[0])
        for dev in (0, 2):
            told = desk.arbiter.grants[tenant.tenant_id, dev]
            assert (told.limit_bytes, told.b, told.c, told.d) == (GIB, 300_000, 500_000, 1)
            assert told.a == GRANT_NO_GANG
        assert (tenant.tenant_id, 1) not in desk.arbiter.grants
        await book.set_limits(tenant, replace(tenant.limits, share_ppm=100_000, gang=True))
        for dev in (0, 2):
            told = desk.arbiter.grants[tenant.tenant_id, dev]
            assert (told.b, told.a) == (100_000, 0)

    do(desk, steps)


def test_a_device_that_is_full_or_refused_leaves_no_tenant(desk: Desk) -> None:
    async def steps(book: Book) -> None:
        await book.create(replace(wish("1", share_ppm=600_000), name="a"), listening())
        with pytest.raises(QuotaExceeded, match="on GPU 1, 40% left"):
            await book.create(wish("0,1", share_ppm=500_000), listening())
        desk.arbiter.broken = 1
        with pytest.raises(ArbiterRefused, match="broken"):
            await book.create(wish("0,1", share_ppm=100_000), listening())
        assert [t.name for t in book.tenants.values()] == ["a"]
        assert [t.name for t in desk.store.tenants()] == ["a"]
        assert [m.text for m in desk.arbiter.tenants.values()] == ["a"]
        assert set(desk.arbiter.grants) == {(1, 1)}

    do(desk, steps)


def test_a_change_that_one_device_refuses_is_taken_back_on_the_others(desk: Desk) -> None:
    async def steps(book: Book) -> None:
        tenant = await book.create(wish("0,1", share_ppm=100_000), listening())
        desk.arbiter.broken = 1
        with pytest.raises(ArbiterRefused, match="broken"):
            await book.set_limits(tenant, replace(tenant.limits, share_ppm=200_000))
        assert desk.arbiter.grants[tenant.tenant_id, 0].b == 100_000
        assert book.tenants[tenant.tenant_id].limits.share_ppm == 100_000
        assert desk.store.tenants()[0].limits.share_ppm == 100_000

    do(desk, steps)


def test_memory_can_be_lowered_below_use_and_what_is_held_stays_promised(desk: Desk) -> None:
    async def steps(book: Book) -> None:
        one = await book.create(replace(wish("0", mem_bytes=6 * GIB), name="a"), listening())
        desk.arbiter.held[one.tenant_id] = 5 * GIB
        one = await book.set_limits(one, replace(one.limits, mem_bytes=GIB))
        assert desk.arbiter.grants[one.tenant_id, 0].limit_bytes == GIB
        with pytest.raises(QuotaExceeded, match="3GiB left"):
            await book.create(wish("0", mem_bytes=4 * GIB), listening())
        await book.create(wish("0", mem_bytes=3 * GIB), listening())
        with pytest.raises(QuotaExceeded, match="5GiB left"):
            await book.set_limits(one, replace(one.limits, mem_bytes=6 * GIB))
        assert book.tenants[one.tenant_id].limits.mem_bytes == GIB
        await book.set_limits(one, replace(one.limits, mem_bytes=5 * GIB))
        assert desk.arbiter.grants[one.tenant_id, 0].limit_bytes == 5 * GIB

    do(desk, steps)


def test_a_quota_of_host_memory_is_told_with_each_device_and_takes_nothing_of_it(
    desk: Desk,
) -> None:
    async def steps(book: Book) -> None:
        limits = {"mem_bytes": 8 * GIB, "host_bytes": 64 * GIB}
        tenant = await book.create(wish("0,1", **limits), listening())
        assert [desk.arbiter.grants[tenant.tenant_id, d].free_bytes for d in (0, 1)] == [
            64 * GIB
        ] * 2
        await book.set_limits(tenant, replace(tenant.limits, host_bytes=128 * GIB))
        assert desk.arbiter.grants[tenant.tenant_id, 1].free_bytes == 128 * GIB
        assert desk.store.tenants()[0].limits.host_bytes == 128 * GIB

    do(desk, steps)


def test_a_harpd_that_ended_between_two_devices_is_made_good_by_the_next(desk: Desk) -> None:
    async def steps(book: Book) -> None:
        tenant = await book.create(wish("0,1", share_ppm=100_000, gang=False), listening())
        key = (tenant.tenant_id, 0)
        desk.arbiter.grants[key] = desk.arbiter.grants[key]._replace(b=700_000)
        del desk.arbiter.grants[tenant.tenant_id, 1]
        after = desk.new_book()
        await after.announce_devices(DEVICES)
        await after.recover()
        assert after.tenants[tenant.tenant_id] == tenant
        for dev in (0, 1):
            told = desk.arbiter.grants[tenant.tenant_id, dev]
            assert (told.b, told.a) == (100_000, GRANT_NO_GANG)
        after.close()

    do(desk, steps)


def test_whether_memory_may_leave_is_settled_before_the_first_process(desk: Desk) -> None:
    async def steps(book: Book) -> None:
        tenant = await book.create(wish("0", mem_bytes=6 * GIB, oversubscribe=True), listening())
        assert desk.arbiter.grants[tenant.tenant_id, 0].a == GRANT_OVERSUBSCRIBE
        second = replace(wish("0", mem_bytes=6 * GIB, oversubscribe=True), name="u")
        await book.create(second, listening())
        with pytest.raises(QuotaExceeded):
            await book.create(replace(wish("0", mem_bytes=6 * GIB), name="v"), listening())
        with pytest.raises(QuotaExceeded):
            await book.set_limits(tenant, replace(tenant.limits, oversubscribe=False))
        desk.arbiter.clients = [Msg(op=Op.SNAP_CLIENT, tenant=tenant.tenant_id, client=9, d=1)]
        with pytest.raises(ConfigError, match="1 processes of tenant t run") as caught:
            await book.set_limits(
                tenant, replace(tenant.limits, mem_bytes=GIB, oversubscribe=False)
            )
        assert "without --oversubscribe" in (caught.value.hint or "")
        assert desk.arbiter.grants[tenant.tenant_id, 0].a == GRANT_OVERSUBSCRIBE
        desk.arbiter.clients = []
        changed = await book.set_limits(
            tenant, replace(tenant.limits, mem_bytes=GIB, oversubscribe=False)
        )
        assert desk.arbiter.grants[tenant.tenant_id, 0].a == 0
        assert desk.store.tenants()[0] == changed

    do(desk, steps)


def test_a_tenant_that_stands_is_told_of_though_the_arbiter_went(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else who asked for it would not know what to give back."""
    deposit = SimpleNamespace(fd=-1, caller=SimpleNamespace(uid=0, pid=os.getpid()))

    async def gone() -> Picture:
        raise ArbiterError("it is being restarted")

    async def create(made: Wish, _fd: int) -> Tenant:
        tenant = await type(desk.book).create(desk.book, made, listening())
        monkeypatch.setattr(desk.book, "look", gone)
        return tenant

    async def steps(book: Book) -> None:
        service = ControlService.__new__(ControlService)
        double = cast("Any", service)
        double._auth = SimpleNamespace(redeem=lambda _ticket: deposit)
        double._harpd = SimpleNamespace(make_room=lambda: asyncio.sleep(0))
        harpd = SimpleNamespace(
            physical_bytes=lambda _uuid: 0,
            used_bytes={},
            used_ratio=lambda _tenant, _uuid: (0.0, 0.0),
            evaders=SimpleNamespace(uncovered={}),
        )
        double._book, double._answers = book, Answers(book, cast("Any", harpd))
        double._default_policy = Policy.WARN
        begun: list[str] = []
        made = lambda tenant, _command, **_: begun.append(tenant.name)  # noqa: E731
        double._recording = SimpleNamespace(made=made)
        double._pools = SimpleNamespace(acts=lambda _wish: False, began=lambda _tenant: None)
        monkeypatch.setattr(book, "create", create)
        request = pb.CreateTenantRequest(name="t", gpu="0", root_pid=os.getpid(), grant_dir="/g")
        odd = pb.CreateTenantRequest(name="t", root_pid=os.getpid(), grant_dir="/g\0h")
        deposit.fd = os.open(os.devnull, os.O_RDONLY)
        with pytest.raises(ConfigError, match="no name of a grant's folder"):
            await service._create_tenant(odd, 0)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(deposit.fd)
        reply = await service._create_tenant(request, 0)
        assert reply.tenant.name == "t"
        assert [t.name for t in book.tenants.values()] == begun == ["t"]

    do(desk, steps)


def test_a_containers_tenant_needs_no_process_and_is_of_any_uid(desk: Desk) -> None:
    name, labels = "ns/web-0/main", (("container", "main"), ("namespace", "ns"), ("pod", "web-0"))
    asked = replace(wish("0"), name=name, uid=0, root_pid=0, any_uid=True, held=True, labels=labels)

    async def steps(book: Book) -> None:
        tenant = await book.create(asked, listening())
        assert (tenant.root_pid, tenant.root_start, tenant.uid) == (0, 0, 0)
        assert desk.arbiter.tenants[tenant.tenant_id].uid == ANY_UID
        assert book.by_name(name) is tenant
        after = desk.new_book()
        await after.announce_devices(DEVICES)
        await after.recover()
        assert after.tenants == {tenant.tenant_id: tenant}
        after.close()
        desk.store.remove(tenant.tenant_id)  # lost: the arbiter's word is left
        after = desk.new_book()
        await after.announce_devices(DEVICES)
        await after.recover()
        found = after.tenants[tenant.tenant_id]
        assert (found.name, found.uid, found.any_uid, found.for_root) == (name, 0, True, False)
        after.close()
        with pytest.raises(ConfigError, match="is gone"):
            await book.create(replace(asked, name="other", held=False), listening())

    do(desk, steps)


def test_a_lost_store_is_rebuilt_with_all_devices(desk: Desk) -> None:
    async def steps(book: Book) -> None:
        asked = wish("1,0", mem_bytes=GIB, host_bytes=3 * GIB, oversubscribe=True)
        tenant = await book.create(asked, listening())
        desk.store.remove(tenant.tenant_id)
        after = desk.new_book()
        await after.announce_devices(DEVICES)
        await after.recover()
        found = after.tenants[tenant.tenant_id]
        assert set(found.device_uuids) == {UUIDS[0], UUIDS[1]}
        assert (found.limits.mem_bytes, found.limits.host_bytes) == (GIB, 3 * GIB)
        assert found.limits.oversubscribe
        assert desk.store.tenants() == [found]
        after.close()

    do(desk, steps)


def test_what_comes_beside_the_limit_of_a_container_is_kept(desk: Desk) -> None:
    """By an edit of its limits, a restart, and where the store was lost."""

    async def steps(book: Book) -> None:
        asked = wish("1", mem_bytes=GIB, context_bytes=GIB // 2)
        tenant = await book.create(asked, listening())
        assert desk.arbiter.grants[tenant.tenant_id, 1].overhead_bytes == GIB // 2
        service = SimpleNamespace(_book=book, _answers=SimpleNamespace(tenant=lambda *_: None))
        request = pb.SetTenantRequest(name=tenant.name, mem_limit_bytes=GIB // 4)
        await ControlService._set_tenant(cast("Any", service), request, 0)
        again = desk.arbiter.grants[tenant.tenant_id, 1]
        assert (again.limit_bytes, again.overhead_bytes) == (GIB // 4, GIB // 2)
        for lost in (False, True):
            if lost:
                desk.store.remove(tenant.tenant_id)
            after = desk.new_book()
            await after.announce_devices(DEVICES)
            await after.recover()
            assert after.tenants[tenant.tenant_id].limits.context_bytes == GIB // 2
            after.close()

    do(desk, steps)


def test_an_arbiter_that_does_not_count_contexts_is_told_of(desk: Desk) -> None:
    desk.arbiter.knows_contexts = False

    async def steps(book: Book) -> None:
        with capture_logs() as log:
            await book.create(wish("1", mem_bytes=GIB), listening())
            await book.create(replace(wish("1", mem_bytes=GIB), name="u"), listening())
        assert not [line for line in log if line["event"] == "contexts_not_counted"]
        with capture_logs() as log:
            asked = replace(wish("1", mem_bytes=GIB, context_bytes=GIB // 2), name="v")
            await book.create(asked, listening())
        (line,) = [line for line in log if line["event"] == "contexts_not_counted"]
        assert (line["log_level"], line["hint"]) == ("warning", "harp daemon --upgrade")

    do(desk, steps)


@pytest.mark.parametrize(("harpd", "uid", "for_root"), [(0, 7, True), (0, 0, False), (7, 7, False)])
def test_a_tenant_known_from_the_arbiter_alone_is_not_given_to_a_leases_user(
    monkeypatch: pytest.MonkeyPatch, harpd: int, uid: int, *, for_root: bool
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: harpd)
    assert as_tenant(ArbiterTenant(1, "t", uid)).for_root is for_root


def test_what_is_promised_stays_so_on_the_way_off_a_device_and_back(desk: Desk) -> None:
    async def steps(book: Book) -> None:
        one = await book.create(wish("0", mem_bytes=6 * GIB), listening())
        other = replace(wish("0", mem_bytes=6 * GIB), name="u")
        with book.leaving(one):
            await book.mark(one, suspended=True)
            with pytest.raises(QuotaExceeded, match="2GiB left"):
                await book.create(other, listening())  # it may yet stay
        assert book.promises(book.picture)[UUIDS[0]] == []
        async with book.returning(replace(one, device_uuids=(UUIDS[1],))):
            assert book.tenants[one.tenant_id].suspended
            with pytest.raises(QuotaExceeded, match="2GiB left"):
                await book.create(replace(other, gpu="1"), listening())
            await book.create(other, listening())
        assert book.promises(book.picture)[UUIDS[1]] == []
        with pytest.raises(QuotaExceeded, match="2GiB left"):
            async with book.returning(one):
                pytest.fail("the other one came first")

    do(desk, steps)


def test_limits_that_are_set_while_a_tenant_moves_hold_where_it_comes_to(desk: Desk) -> None:
    async def steps(book: Book) -> None:
        before = await book.create(wish("0", mem_bytes=GIB), listening())
        await book.mark(before, suspended=True)
        goal = replace(before, device_uuids=(UUIDS[1],))
        async with book.returning(goal):
            await book.set_limits(before, Limits(mem_bytes=2 * GIB))
            assert book.tenants[before.tenant_id].suspended
            await book.mark(goal, suspended=False)
        assert desk.arbiter.grants[before.tenant_id, 1].limit_bytes == 2 * GIB
        (kept,) = desk.store.tenants()
        assert (kept.device_uuids, kept.limits.mem_bytes) == ((UUIDS[1],), 2 * GIB)

    do(desk, steps)


def test_a_tenant_without_a_grant_does_not_stop_the_next_harpd(desk: Desk) -> None:
    """harpd was killed between ADD_TENANT and the first SET_TENANT."""

    async def steps(book: Book) -> None:
        await book.create(wish("0"), listening())
        await desk.arbiter.request(Msg(op=Op.ADD_TENANT, uid=1000, text="half"))
        desk.arbiter.broken = 0
        after = desk.new_book()
        await after.announce_devices(DEVICES)
        await after.recover()
        assert after.by_name("half").device_uuids == ("",)
        assert after.by_name("t").device_uuids == (UUIDS[0],)
        assert {t.name for t in desk.store.tenants()} == {"half", "t"}
        again = desk.new_book()
        await again.announce_devices(DEVICES)
        await again.recover()
        assert again.by_name("half").device_uuids == ("",)
        again.close()
        after.close()

    do(desk, steps)


def test_a_tenant_keeps_the_devices_that_are_left(desk: Desk) -> None:
    async def steps(book: Book) -> None:
        tenant = await book.create(wish("0,1", share_ppm=100_000), listening())
        after = desk.new_book()
        await after.announce_devices(DEVICES[:1])
        await after.recover()
        assert tenant.tenant_id in after.tenants
        assert len(after.promises(after.picture)[UUIDS[0]]) == 1
        with pytest.raises(NoDevice, match=UUIDS[1]):
            await after.set_limits(tenant, Limits())
        after.close()

    do(desk, steps)


def test_what_a_tenant_used_is_shown_per_device_and_in_all() -> None:
    rates = {UUIDS[1]: (0.5, 10.0), UUIDS[0]: (0.1, 4.0)}
    harpd = SimpleNamespace(used_ratio=lambda _tenant, uuid: rates[uuid])
    answers = Answers(cast("Any", None), cast("Any", harpd))
    tenant = Tenant(
        tenant_id=3,
        name="t",
        uid=0,
        root_pid=0,
        root_start=0,
        grant_dir="",
        device_uuids=(UUIDS[1], UUIDS[0]),
        limits=Limits(mem_bytes=5, gang=False, host_bytes=9),
        policy=Policy.WARN,
        created_s=1.0,
    )
    uses = {
        (3, UUIDS[1]): Use(4, 1, 3, 8, used_ns=70, estimated_ns=7, wait_ns=1, wants=True),
        (3, UUIDS[0]): Use(2, used_ns=30, estimated_ns=1, wait_ns=2, host_leased_bytes=8),
    }
    shown = answers.tenant(tenant, Picture(uses=uses))
    assert shown.used_ratio == pytest.approx(0.3)  # the mean: it stands beside a share per device
    assert shown.window_s == 4
    assert (shown.used_ns, shown.estimated_ns, shown.wait_ns) == (100, 8, 3)
    assert (shown.leased_bytes, shown.wants, shown.no_gang) == (6, True, True)
    assert (shown.charged_bytes, shown.unleased_bytes, shown.over_limit_bytes) == (10, 3, 3)
    assert (shown.host_leased_bytes, shown.host_limit_bytes) == (8, 9)
    assert [(u.charged_bytes, u.over_limit_bytes) for u in shown.uses] == [(8, 3), (2, 0)]
    assert list(shown.device_uuids) == [UUIDS[1], UUIDS[0]]
    assert [(u.used_ns, u.used_ratio) for u in shown.uses] == [(70, 0.5), (30, 0.1)]
