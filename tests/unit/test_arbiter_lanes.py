# SPDX-License-Identifier: Apache-2.0
"""Two lanes of time per device, and charges by interval."""

from __future__ import annotations

import pytest
from arbiter_core import CLOSE, DEAD, GRANULE, LATENCY, MS, PPM, QUANTUM, SECOND, Core, ops, sends
from arbiter_engine import US, Job, Machine, Proc
from hypothesis import given, settings
from hypothesis import strategies as st

from harp.lease_wire import TIME_LANES, Lane, Op

COPY = int(Lane.COPY)


def want(core: Core, client: int, lane: int = 0) -> int:
    """Wants; the epoch of the gate that opens."""
    ((to, msg),) = sends(core.tell(client, Op.WANT_TIME, cls=lane))
    assert (to, msg.op, msg.cls) == (client, Op.OPEN_GATE, lane)
    return int(msg.epoch)


def test_the_welcome_says_how_many_lanes(core: Core) -> None:
    core.join(core.add_tenant())
    assert sends(core.last)[0][1].b == TIME_LANES


def test_lanes_have_turns_of_their_own(core: Core) -> None:
    tenant, other = core.add_tenant(), core.add_tenant()
    a, b = core.join(tenant), core.join(other)
    want(core, a)
    epoch = want(core, b, COPY)
    assert core.snapshot()[0].tenant == tenant  # of compute
    core.now += 3 * MS
    core.tell(b, Op.YIELD_TIME, cls=COPY, epoch=epoch, used_ns=2 * MS)
    use = core.use(other)
    assert (use.used_ns, use.copy_ns) == (0, 2 * MS)
    rows = [m for m in core.snapshot() if m.op == Op.SNAP_LEASE]
    assert [(m.client, m.b) for m in rows] == [(a, 1)]


def test_lane_that_does_not_exist_is_a_protocol_error(core: Core) -> None:
    for op in (Op.WANT_TIME, Op.YIELD_TIME, Op.USED_TIME):
        client = core.join(core.add_tenant())
        acts = core.tell(client, op, cls=TIME_LANES)
        assert CLOSE in [act.kind for act in acts], op


def test_epochs_of_lanes_fence_apart(core: Core) -> None:
    tenant = core.add_tenant()
    a = core.join(tenant)
    want(core, a)
    copy_epoch = want(core, a, COPY)
    core.now += MS
    core.tell(a, Op.YIELD_TIME, cls=COPY, epoch=copy_epoch + 1, used_ns=MS)
    assert core.use(tenant).copy_ns == 0
    core.tell(a, Op.YIELD_TIME, cls=COPY, epoch=copy_epoch, used_ns=MS)
    assert core.use(tenant).copy_ns == MS


def test_copies_are_a_fair_queue_whatever_the_shares() -> None:
    """A share of 90 % and a limit of 10 % are of compute."""
    jobs = [Job([Proc(lane=COPY)], share=900_000), Job([Proc(lane=COPY)], cap=PPM // 10)]
    machine = Machine(jobs)
    machine.run(2 * SECOND)
    used = [each.busy(machine.start, machine.core.now, COPY) for each in jobs]
    assert used[0] / sum(used) == pytest.approx(0.5, abs=0.005)
    assert sum(used) > 0.99 * 2 * SECOND
    assert [machine.core.use(each.tenant).used_ns for each in jobs] == [0, 0]
    machine.core.close()


def test_copy_and_compute_of_a_tenant_run_at_once() -> None:
    jobs = [Job([Proc(), Proc(lane=COPY)], share=share) for share in (300_000, 700_000)]
    machine = Machine(jobs)
    machine.run(2 * SECOND)
    for lane, share in ((0, 0.3), (COPY, 0.5)):
        used = [each.busy(machine.start, machine.core.now, lane) for each in jobs]
        assert used[0] / sum(used) == pytest.approx(share, abs=0.01), lane
        assert sum(used) > 0.99 * 2 * SECOND, lane
    machine.core.close()


def test_classes_order_copies_too(core: Core) -> None:
    fast, slow = core.add_tenant(cls=LATENCY), core.add_tenant()
    a, b = core.join(fast), core.join(slow)
    want(core, b, COPY)
    core.now += 100 * US
    acts = core.tell(a, Op.WANT_TIME, cls=COPY)
    assert [(to, msg.op, msg.cls) for to, msg in sends(acts)] == [
        (b, Op.CLOSE_GATE, COPY),
        (a, Op.OPEN_GATE, COPY),
    ]


def turn_of_two(core: Core) -> tuple[int, int, int, int]:
    """A quantum of a tenant with two processes, another one waiting: tenant, clients, epoch."""
    tenant, other = core.add_tenant(), core.add_tenant()
    a, twin, b = core.join(tenant), core.join(tenant), core.join(other)
    first = want(core, a)
    core.tell(twin, Op.WANT_TIME)
    core.tell(b, Op.WANT_TIME)
    for client in (a, twin):
        acts = core.tell(client, Op.YIELD_TIME, epoch=first, a=1)
    gates = {to: msg for to, msg in sends(acts) if msg.op == Op.OPEN_GATE}
    if b in gates:
        acts = core.tell(b, Op.YIELD_TIME, epoch=gates[b].epoch, a=1)
        gates = {to: msg for to, msg in sends(acts) if msg.op == Op.OPEN_GATE}
    assert set(gates) == {a, twin}
    return tenant, a, twin, int(gates[a].epoch)


@pytest.mark.parametrize(
    ("spans", "charged"),
    [
        (((0, 3), (1, 4)), 4),  # side by side: a union, not a sum
        (((0, 2), (3, 5)), 5),  # the gap within one's quantum is one's own
        (((3, 5), (0, 2)), 5),  # in whatever order it is told
        (((0, 5), (0, 5)), 5),
        (((2, 2), (1, 3)), 2),
    ],
)
def test_processes_of_a_turn_are_charged_one_interval(
    core: Core, spans: tuple[tuple[int, int], tuple[int, int]], charged: int
) -> None:
    tenant, a, twin, epoch = turn_of_two(core)
    opened = core.now
    core.now += 5 * MS
    for client, (lo, hi) in zip((a, twin), spans, strict=True):
        age = core.now - (opened + hi * MS)
        fields = {"epoch": epoch, "used_ns": (hi - lo) * MS, "age_ns": age}
        core.tell(client, Op.YIELD_TIME, a=0, **fields)
    assert core.use(tenant).used_ns == charged * MS


def test_nothing_is_charged_outside_the_turn(core: Core) -> None:
    tenant, a, twin, epoch = turn_of_two(core)
    core.now += 5 * MS
    core.tell(a, Op.USED_TIME, epoch=epoch, used_ns=9 * SECOND, age_ns=4 * MS)
    assert core.use(tenant).used_ns == MS
    core.tell(twin, Op.USED_TIME, epoch=epoch, used_ns=MS, age_ns=9 * SECOND)
    assert core.use(tenant).used_ns == MS


def test_idle_time_of_an_open_ended_turn_is_not_charged(core: Core) -> None:
    tenant = core.add_tenant()
    a, twin = core.join(tenant), core.join(tenant)
    epoch = want(core, a)
    core.tell(twin, Op.WANT_TIME)
    core.now += SECOND
    core.tell(a, Op.USED_TIME, epoch=epoch, used_ns=10 * MS)
    core.now += SECOND
    core.tell(a, Op.USED_TIME, epoch=epoch, used_ns=10 * MS)
    core.tell(twin, Op.USED_TIME, epoch=epoch, used_ns=15 * MS, age_ns=5 * MS)
    assert core.use(tenant).used_ns == 20 * MS
    core.now += 5 * MS
    core.tell(twin, Op.USED_TIME, epoch=epoch, used_ns=MS, b=1)
    use = core.use(tenant)
    assert (use.used_ns, use.estimated_ns) == (21 * MS, MS)  # b=1: not measured


def test_what_the_dead_did_not_say_is_an_estimate(core: Core) -> None:
    tenant, a, twin, epoch = turn_of_two(core)
    core.now += 2 * MS
    core.tell(a, Op.YIELD_TIME, epoch=epoch, used_ns=MS, age_ns=MS)
    core.step(DEAD, twin)
    use = core.use(tenant)
    assert (use.used_ns, use.estimated_ns) == (2 * MS, MS)


reports = st.lists(
    st.tuples(
        st.integers(0, 2),  # who
        st.sampled_from(["want", "yield", "used", "announce", "tick", "die"]),
        st.integers(0, 12 * MS),  # time that passes first
        st.integers(0, 20 * MS),  # used
        st.integers(0, 6 * MS),  # age
        st.integers(0, 3 * MS),  # rest
        st.booleans(),
    ),
    max_size=120,
)


@settings(max_examples=150, deadline=None)
@given(events=reports, lane=st.integers(0, 1))
def test_charges_never_exceed_the_time_that_passed(
    events: list[tuple[int, str, int, int, int, int, bool]], lane: int
) -> None:
    """Whatever is said: true or not, overlapping, late, by the dead."""
    core = Core(quantum_ns=QUANTUM)
    core.add_device(100 * GRANULE)
    tenants = [core.add_tenant() for _ in range(3)]
    clients = [core.join(tenant) for tenant in tenants]
    epochs = dict.fromkeys(clients, 0)
    start = core.now
    for who, what, passes, used, age, rest, flag in events:
        acts = list(core.advance(passes))
        client = clients[who]
        said = {"cls": lane, "epoch": epochs.get(client, 0), "used_ns": used, "age_ns": age}
        match what:
            case "want":
                acts += core.tell(client, Op.WANT_TIME, cls=lane)
            case "yield":
                acts += core.tell(client, Op.YIELD_TIME, a=int(flag), **said)
            case "used":
                acts += core.tell(client, Op.USED_TIME, b=int(flag), **said)
            case "announce":
                more = {"a": 1, "c": int(flag), "window_ns": rest}
                acts += core.tell(client, Op.USED_TIME, **more, **said)
            case "die":
                acts += core.step(DEAD, client)
                clients[who] = core.join(tenants[who])
        epochs |= {to: msg.epoch for to, msg in sends(acts) if msg.op == Op.OPEN_GATE}
        uses = [core.use(tenant) for tenant in tenants]
        total = sum(use.copy_ns if lane else use.used_ns for use in uses)
        assert total <= core.now - start
    assert Op.OPEN_GATE in ops(core.tell(core.join(core.add_tenant()), Op.WANT_TIME, cls=1 - lane))
    core.close()
