# SPDX-License-Identifier: Apache-2.0
"""Versions of the lease protocol in the core: what is agreed on, and who is told what."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from arbiter_core import CLOSE, GRANULE, JOIN, MESSAGE, Act, Core, Msg, ops, sends

from harp.lease_wire import GRANT_OVERSUBSCRIBE, VERSION, Kind, Op

LOOK = 2  # HARP_HELLO_LOOK


@pytest.fixture
def core() -> Iterator[Core]:
    core = Core()
    core.add_device(100 * GRANULE)
    yield core
    core.close()


def hello(core: Core, tenant: int, version: int, newest: int) -> tuple[int, list[Act]]:
    acts = core.step(JOIN, msg=Msg(tenant=tenant, pid=7, uid=1000))
    client = next(act.client for act in acts if act.client)
    said = Msg(version=version, op=Op.HELLO, a=Kind.NULL, c=newest, pid=7)
    return client, core.step(MESSAGE, client, said)


@pytest.mark.parametrize(
    ("version", "newest", "agreed"),
    [(1, 0, 1), (1, 1, 1), (1, 2, 2), (2, 0, 2), (2, 2, 2), (1, 3, 3), (1, 9, VERSION)],
)
def test_the_newest_both_speak_is_spoken(
    core: Core, version: int, newest: int, agreed: int
) -> None:
    client, acts = hello(core, core.add_tenant(), version, newest)
    assert [(m.op, m.version) for _, m in sends(acts)] == [
        (Op.WELCOME, agreed),
        (Op.DEVICE, agreed),
    ]
    lease = Msg(version=agreed, op=Op.LEASE_MEM, seq=1, bytes=GRANULE)
    ((_, granted),) = sends(core.step(MESSAGE, client, lease))
    assert (granted.op, granted.version) == (Op.MEM_GRANT, agreed)


@pytest.mark.parametrize("version", [0, VERSION + 1])
def test_a_version_nobody_speaks_is_turned_away(core: Core, version: int) -> None:
    _, acts = hello(core, core.add_tenant(), version, 0)
    assert [act.kind for act in acts if act.kind == CLOSE]


def test_a_version_other_than_agreed_is_an_error(core: Core) -> None:
    client, _ = hello(core, core.add_tenant(), 1, 0)
    acts = core.step(MESSAGE, client, Msg(version=2, op=Op.MEM_INFO, seq=1))
    assert [act.client for act in acts if act.kind == CLOSE] == [client]


def test_version_1_carries_nothing_of_version_2(core: Core) -> None:
    tenant = core.add_tenant()
    for fields in ({"op": 10}, {"op": Op.LEASE_MEM, "cls": 2, "bytes": GRANULE}):
        client, _ = hello(core, tenant, 1, 0)
        acts = core.step(MESSAGE, client, Msg(version=1, seq=1, **fields))
        assert [act.client for act in acts if act.kind == CLOSE] == [client], fields


@pytest.mark.parametrize("version", [1, VERSION])
def test_fields_that_version_1_has_not_are_left_out(core: Core, version: int) -> None:
    core.add_device(100 * GRANULE, overhead=GRANULE)
    tenant = core.add_tenant(flags=GRANT_OVERSUBSCRIBE)
    core.admin(Op.SET_TENANT, tenant=tenant, a=GRANT_OVERSUBSCRIBE, free_bytes=GRANULE)
    client, acts = hello(core, tenant, version, 0)
    (_, welcome), (_, device) = sends(acts)
    ((_, state),) = sends(core.step(MESSAGE, client, Msg(version=version, op=Op.MEM_INFO, seq=1)))
    look = Msg(version=version, op=Op.HELLO, b=LOOK, uuid=device.uuid)
    acts = core.step(JOIN, msg=Msg(tenant=tenant, pid=8, uid=1000))
    ((_, seen),) = sends(core.step(MESSAGE, next(a.client for a in acts if a.client), look))
    assert (state.version, seen.version) == (version, version)
    news = [welcome.c, device.a, device.free_bytes]
    news += [number for said in (state, seen) for number in (said.a, said.overhead_bytes)]
    assert all(news) if version > 1 else not any(news)


def test_what_is_not_known_is_ignored_and_logged_once_from_version_2_on(core: Core) -> None:
    client = core.join(core.add_tenant())
    for op in (30, 31, 30):
        acts = core.step(MESSAGE, client, Msg(version=VERSION, op=op, bytes=GRANULE, dev=99))
        assert not sends(acts)
        assert not [act for act in acts if act.kind == CLOSE]
    assert core.log.count("unknown_message_ignored") == 1
    assert ops(core.lease(client, GRANULE)) == [Op.MEM_GRANT]
    for op in (0, Op.WELCOME, Op.SNAPSHOT, 200):  # not a client's word in any version
        other = core.join(1)
        acts = core.step(MESSAGE, other, Msg(version=VERSION, op=op))
        assert [act.client for act in acts if act.kind == CLOSE] == [other], op
