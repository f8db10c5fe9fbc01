# SPDX-License-Identifier: Apache-2.0
"""The arbiter as a process: races for memory, stopped and killed clients, teardown."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from arbiter_world import UUID, Admin, Client, World, until, world

from harp.lease_wire import GRANULE_BYTES, Deny, Msg, Op

DRAINING = 2


@pytest.fixture
def w() -> Iterator[World]:
    with world() as made:
        made.start()
        yield made


def greedy(grant: Path, done: int, seed: int, *, slack: bool) -> None:
    """Lease until one granule more is denied, then hold it and answer recalls."""
    rng = random.Random(seed)
    client = Client(grant)
    while True:
        wish = rng.randint(1, 4)
        if client.lease(wish).op == Op.MEM_GRANT:
            if slack and rng.random() < 0.3:
                client.slack = 1  # lets go of one granule without saying so
            continue
        if client.slack:
            client.slack = 0  # one's own unused lease comes first
        elif client.lease(1).op == Op.MEM_DENY:
            break
    os.write(done, b"d")
    client.serve()


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "stopped"), [(8, False), (8, True), (64, True)])
def test_racing_processes_fill_the_limit_exactly(w: World, processes: int, stopped: bool) -> None:
    admin = w.admin()
    w.device(admin, 4000)
    limit = 40 * processes
    grant = w.tenant(admin, 1, limit=limit)
    done, say = os.pipe()
    pids = [
        w.fork(lambda seed=seed: greedy(grant, say, seed, slack=not stopped or seed > 0))  # type: ignore[misc]
        for seed in range(processes)
    ]
    if stopped:
        until(lambda: admin.use(1).leased_bytes > 10 * GRANULE_BYTES, "first leases")
        os.kill(pids[0], signal.SIGSTOP)
    finished = 0
    deadline = time.monotonic() + 60
    while finished < processes - int(stopped):
        finished += len(os.read(done, 100))
        use = admin.use(1)
        assert use.leased_bytes <= limit * GRANULE_BYTES
        assert time.monotonic() < deadline
    use = admin.use(1)
    assert use.peak_bytes <= limit * GRANULE_BYTES
    assert limit * GRANULE_BYTES == use.leased_bytes
    assert use.denials >= processes - 1
    os.close(done)
    os.close(say)


@pytest.mark.parametrize("teardown_ms", [0, 300, 2000])
def test_neighbour_waits_for_the_memory_of_the_dead(w: World, teardown_ms: int) -> None:
    admin = w.admin()
    w.device(admin, 100)
    admin.ok(Op.SUBSCRIBE, a=1)
    victim = w.tenant(admin, 1, limit=80)
    neighbour = Client(w.tenant(admin, 2, limit=60))
    hold, say = os.pipe()

    def work() -> None:
        client = Client(victim)
        client.lease(80)
        os.write(say, b"h")
        client.serve()

    pid = w.fork(work)
    assert os.read(hold, 1) == b"h"
    born = admin.event(Op.EVENT_CLIENT, state=1)
    while born.tenant != 1:
        born = admin.event(Op.EVENT_CLIENT, state=1)
    assert born.pid == pid
    killed = time.monotonic()
    w.kill(pid)
    asked = w.fork(lambda: os._exit(0 if neighbour.lease(60).op == Op.MEM_GRANT else 7))
    dead = admin.event(Op.EVENT_CLIENT, state=DRAINING)
    assert time.monotonic() - killed < 1
    assert (dead.client, dead.tenant) == (born.client, 1)
    assert admin.use(1).amount_bytes == 80 * GRANULE_BYTES
    time.sleep(teardown_ms / 1000)  # the device still lists the pid
    assert admin.use(2).leased_bytes == 0
    admin.ok(Op.DRAINED, client=dead.client, dev=0)
    assert w.wait(asked) == 0
    assert admin.use(2).leased_bytes == 60 * GRANULE_BYTES
    os.close(hold)
    os.close(say)


def test_sigkill_at_any_point_leaves_nothing(w: World) -> None:
    admin = w.admin()
    w.device(admin, 400)
    grants = [w.tenant(admin, n, limit=100) for n in (1, 2)]

    def restless(seed: int) -> None:
        rng = random.Random(seed)
        client = Client(grants[seed % 2])
        while True:
            if client.leased and rng.random() < 0.5:
                client.give_back(rng.randint(1, client.leased))
            else:
                client.lease(rng.randint(1, 20), cls=int(rng.random() < 0.2))
            client.send(Msg(op=Op.WANT_TIME))
            client.send(Msg(op=Op.USED_TIME, used_ns=rng.randint(0, 10**9)))

    rng = random.Random(5)
    for _ in range(4):
        pids = [w.fork(lambda seed=seed: restless(seed)) for seed in range(6)]  # type: ignore[misc]
        for pid in pids:
            time.sleep(rng.random() * 0.06)
            w.kill(pid)
    until(lambda: admin.drain_all() or not admin.clients(1) + admin.clients(2), "all are gone")
    for tenant in (1, 2):
        use = admin.use(tenant)
        assert (use.leased_bytes, use.amount_bytes, use.overhead_bytes, use.a) == (0, 0, 0, 0)
        assert use.peak_bytes <= 100 * GRANULE_BYTES


def test_death_is_seen_even_if_a_child_keeps_the_socket_open(w: World) -> None:
    """A forked child inherits the descriptor: no end of file comes, the process handle tells."""
    admin = w.admin()
    w.device(admin, 10)
    admin.ok(Op.SUBSCRIBE, a=1)
    grant = w.tenant(admin, 1)
    heirs, say = os.pipe()

    def work() -> None:
        client = Client(grant)
        client.lease(1)
        heir = os.fork()
        if heir == 0:
            time.sleep(60)
        os.write(say, str(heir).encode())
        time.sleep(60)

    pid = w.fork(work)
    heir = int(os.read(heirs, 20))
    try:
        w.kill(pid)
        assert admin.event(Op.EVENT_CLIENT, state=DRAINING).pid == pid
    finally:
        os.kill(heir, signal.SIGKILL)
        os.close(heirs)
        os.close(say)


def test_harpd_comes_and_goes_and_clients_do_not_notice(w: World) -> None:
    admin = w.admin()
    w.device(admin, 100)
    client = Client(w.tenant(admin, 1, limit=10))
    client.lease(4)
    admin.close()
    assert client.lease(6).op == Op.MEM_GRANT
    fresh = w.admin()
    assert fresh.use(1).leased_bytes == 10 * GRANULE_BYTES
    w.tenant(fresh, 1, limit=20)  # the same id, uid and name: the socket is replaced
    second = Client(w.grants[1])
    assert second.lease(10).op == Op.MEM_GRANT
    assert client.lease(1).a == Deny.LIMIT


def test_arbiter_killed_and_started_again_adopts_what_clients_hold(w: World) -> None:
    admin = w.admin()
    w.device(admin, 100)
    grant = w.tenant(admin, 1, limit=10)
    client = Client(grant)
    client.lease(7)
    assert w.process
    w.process.kill()
    w.process.wait()
    with pytest.raises(EOFError):
        client.recv()
    w.start()
    admin = w.admin()
    w.device(admin, 100)
    w.tenant(admin, 1, limit=10)
    again = Client(grant, flags=1)
    again.send(Msg(op=Op.ADOPT_MEM, amount_bytes=7 * GRANULE_BYTES))
    assert again.lease(3).op == Op.MEM_GRANT
    assert again.lease(1).a == Deny.LIMIT
    assert admin.use(1).leased_bytes == 10 * GRANULE_BYTES


@pytest.mark.slow
def test_256_clients_come_at_once(w: World) -> None:
    admin = w.admin()
    w.device(admin, 1000)
    grant = w.tenant(admin, 1, limit=512)
    done, say = os.pipe()

    def work() -> None:
        begun = time.monotonic()
        client = Client(grant)
        assert client.lease(2).op == Op.MEM_GRANT
        os.write(say, f"{time.monotonic() - begun:.6f}\n".ljust(12).encode())
        client.serve()

    for _ in range(256):
        w.fork(work)
    text = b""
    while len(text) < 256 * 12:
        text += os.read(done, 4096)
    took = sorted(float(line) for line in text.split())
    assert admin.use(1).leased_bytes == 512 * GRANULE_BYTES
    print(f"connect and lease: median {took[128] * 1e3:.2f} ms, worst {took[-1] * 1e3:.1f} ms")
    assert took[128] < 0.5
    assert took[-1] < 3
    os.close(done)
    os.close(say)


def test_uuid_is_what_the_device_is_known_by(w: World) -> None:
    admin: Admin = w.admin()
    assert w.device(admin, 10) == 0
    assert w.device(admin, 10, uuid=UUID[::-1]) == 1
    assert w.device(admin, 20) == 0
    grant = w.tenant(admin, 1)
    assert Client(grant).devices[0].capacity_bytes == 20 * GRANULE_BYTES
