# SPDX-License-Identifier: Apache-2.0
"""The arbiter's snapshot as data."""

from __future__ import annotations

from harp.daemon.picture import Hold, parse
from harp.lease_wire import GRANT_OVERSUBSCRIBE, STANDING_CREDIT, STANDING_LIMIT, Msg, Op
from harp.model import ClientState, Residency, ResidencyState, Standing

UUID = "GPU-00000000-0000-0000-0000-000000000001"


def test_a_snapshot_becomes_one_picture_in_any_order() -> None:
    messages = [
        Msg(op=Op.SNAP_LEASE, client=5, tenant=2, dev=0, leased_bytes=40, overhead_bytes=7),
        Msg(op=Op.SNAP_CLIENT, client=5, tenant=2, pid=50, d=1, text="python"),
        Msg(op=Op.SNAP_CLIENT, client=4, tenant=2, pid=49, d=2, text="python"),
        Msg(op=Op.SNAP_USE, tenant=2, dev=0, limit_bytes=100, b=3, c=4, d=1, used_ns=9, a=1),
        Msg(op=Op.SNAP_TENANT, tenant=2, uid=1000, text="train"),
        Msg(op=Op.SNAP_DEVICE, dev=0, leased_bytes=40, amount_bytes=8, overhead_bytes=7, tenant=2),
    ]
    for order in (messages, list(reversed(messages))):
        picture = parse(order, {0: UUID})
        device = picture.devices[UUID]
        assert (device.leased_bytes, device.draining_bytes, device.holder) == (40, 8, 2)
        tenant = picture.tenants[2]
        assert (tenant.name, tenant.uid, tenant.device_uuids) == ("train", 1000, (UUID,))
        assert (tenant.mem_bytes, tenant.share_ppm, tenant.limit_ppm) == (100, 3, 4)
        assert picture.uses[2, UUID].used_ns == 9
        assert picture.uses[2, UUID].wants
        assert [c.pid for c in picture.clients_of(2)] == [49, 50]
        assert picture.clients[5].leased_bytes == 40
        assert picture.clients[4].state is ClientState.DRAINING
        assert [c.client_id for c in picture.draining()] == [4]


def test_a_grant_of_several_devices_keeps_them_apart() -> None:
    other = UUID.replace("0001", "0002")
    messages = [
        Msg(op=Op.SNAP_TENANT, tenant=2, uid=1000, text="train"),
        Msg(op=Op.SNAP_USE, tenant=2, dev=1, limit_bytes=100, b=3, used_ns=9, quantum_ns=4),
        Msg(op=Op.SNAP_USE, tenant=2, dev=0, limit_bytes=100, b=3, used_ns=5, leased_bytes=7),
    ]
    for order in (messages, list(reversed(messages))):
        picture = parse(order, {0: UUID, 1: other})
        assert picture.tenants[2].device_uuids == (UUID, other)
        first, second = picture.uses[2, UUID], picture.uses[2, other]
        assert (first.used_ns, first.estimated_ns, first.leased_bytes) == (5, 0, 7)
        assert (second.used_ns, second.estimated_ns, second.leased_bytes) == (9, 4, 0)


def test_what_nobody_leased_is_the_clients_and_counts_in_its_tenants_use() -> None:
    messages = [
        Msg(op=Op.SNAP_CLIENT, client=5, tenant=2, pid=50, d=1),
        Msg(op=Op.SNAP_CLIENT, client=6, tenant=2, pid=51, d=1),
        Msg(
            op=Op.SNAP_LEASE,
            client=5,
            tenant=2,
            leased_bytes=40,
            overhead_bytes=30,
            amount_bytes=20,
            limit_bytes=7,
            epoch=3,
        ),
        Msg(op=Op.SNAP_LEASE, client=6, tenant=2, overhead_bytes=9, limit_bytes=9),
        Msg(
            op=Op.SNAP_USE,
            tenant=2,
            limit_bytes=50,
            leased_bytes=40,
            amount_bytes=2,
            capacity_bytes=100,
            free_bytes=60,
        ),
        Msg(op=Op.SNAP_TENANT, tenant=2, uid=1000, text="train"),
    ]
    for order in (messages, list(reversed(messages))):
        picture = parse(order, {0: UUID})
        hold = picture.holds[5, UUID]
        assert hold == Hold(40, 30, context_bytes=20, unleased_bytes=7, changes=3)
        assert hold.extra_bytes == 10
        use = picture.uses[2, UUID]
        assert (use.unleased_bytes, use.charged_bytes) == (16, 58)
        assert (use.over_bytes(50), use.over_bytes(60), use.over_bytes(0)) == (8, 0, 0)
        assert (use.host_leased_bytes, picture.tenants[2].host_bytes) == (60, 100)
        assert picture.clients[5].unleased_bytes == 7


def test_where_memory_is_that_can_leave() -> None:
    messages = [
        Msg(op=Op.SNAP_TENANT, tenant=2, uid=1000, text="train"),
        Msg(op=Op.SNAP_USE, tenant=2, dev=0, limit_bytes=100, leased_bytes=90),
        Msg(
            op=Op.SNAP_RESIDENCY,
            tenant=2,
            dev=0,
            a=3,
            c=GRANT_OVERSUBSCRIBE,
            leased_bytes=80,
            wait_ns=7,
            window_ns=5,
            used_ns=4,
            launches=3,
            quantum_ns=40,
        ),
        Msg(op=Op.SNAP_TENANT, tenant=3, uid=1000, text="other"),
        Msg(op=Op.SNAP_USE, tenant=3, dev=0, limit_bytes=100),
    ]
    for order in (messages, list(reversed(messages))):
        picture = parse(order, {0: UUID})
        assert picture.uses[2, UUID].residency == Residency(
            state=ResidencyState.AWAY,
            swap_bytes=80,
            away_ns=7,
            away_now_ns=5,
            swapping_ns=4,
            swaps=3,
            stay_ns=40,
        )
        assert picture.uses[3, UUID].residency is None
        assert [t.oversubscribe for t in picture.tenants.values()].count(True) == 1
        assert picture.tenants[2].oversubscribe


def test_how_a_tenant_stands_in_the_order_of_turns() -> None:
    messages = [
        Msg(op=Op.SNAP_USE, tenant=2, dev=0),
        Msg(
            op=Op.SNAP_TIME, tenant=2, dev=0, a=250_000, b=2, c=3, copy_ns=7, wait_ns=9, window_ns=4
        ),
        Msg(op=Op.SNAP_USE, tenant=3, dev=0),
        Msg(op=Op.SNAP_TIME, tenant=3, dev=0, c=STANDING_LIMIT, used_ns=5, quantum_ns=6),
        Msg(op=Op.SNAP_USE, tenant=4, dev=0),
        Msg(op=Op.SNAP_TIME, tenant=4, dev=0, a=10_000, c=STANDING_CREDIT, used_ns=5),
        Msg(op=Op.SNAP_USE, tenant=5, dev=0),
        Msg(op=Op.SNAP_TIME, tenant=6, dev=0),
    ]
    for order in (messages, list(reversed(messages))):
        uses = parse(order, {0: UUID}).uses
        assert uses[2, UUID].standing == Standing(0.25, -7, 9, open_gates=2, queued_ns=4)
        assert uses[3, UUID].standing == Standing(None, None, -6)
        assert uses[4, UUID].standing == Standing(0.01, 5, None)
        assert uses[5, UUID].standing is None, "an arbiter of version 2"
        assert (6, UUID) not in uses


def test_what_is_gone_or_on_an_unknown_device_is_left_out() -> None:
    picture = parse(
        [
            Msg(op=Op.SNAP_CLIENT, client=5, tenant=2, d=3),
            Msg(op=Op.SNAP_DEVICE, dev=7, leased_bytes=40),
            Msg(op=Op.SNAP_LEASE, client=5, dev=7, leased_bytes=40),
        ],
        {0: UUID},
    )
    assert not picture.clients
    assert not picture.devices
    assert not picture.holds


def test_of_a_container_s_contexts_what_is_beyond_counts_those_of_the_dead_too() -> None:
    holds = [
        Msg(op=Op.SNAP_CLIENT, client=5, tenant=2, pid=50, d=1),
        Msg(op=Op.SNAP_CLIENT, client=6, tenant=2, pid=51, d=2),
        Msg(
            op=Op.SNAP_LEASE, client=5, tenant=2, overhead_bytes=23, amount_bytes=20, limit_bytes=1
        ),
        Msg(op=Op.SNAP_LEASE, client=6, tenant=2, overhead_bytes=20, amount_bytes=20),
        Msg(op=Op.SNAP_TENANT, tenant=2, uid=0, text="pod"),
    ]
    for beside, counted in ((0, 0), (20, 22), (42, 0), (50, 0)):
        use = Msg(op=Op.SNAP_USE, tenant=2, limit_bytes=50, leased_bytes=3, slack_bytes=beside)
        for order in ([*holds, use], [use, *reversed(holds)]):
            picture = parse(order, {0: UUID})
            assert picture.tenants[2].context_bytes == beside
            assert picture.uses[2, UUID].context_bytes == counted
            assert picture.uses[2, UUID].charged_bytes == 3 + 1 + counted
