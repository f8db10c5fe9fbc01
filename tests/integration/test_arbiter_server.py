# SPDX-License-Identifier: Apache-2.0
"""The arbiter's sockets against the careless and the hostile: nobody harms another tenant."""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import random
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from arbiter_world import UUID, Admin, Client, Link, World, program, until, world

from harp.lease_wire import (
    GRANT_OVERSUBSCRIBE,
    GRANULE_BYTES,
    MSG_BYTES,
    TOGETHER,
    VERSION,
    Kind,
    MemClass,
    Msg,
    Op,
)

NOBODY = 65534
TURNED_AWAY = (EOFError, ConnectionError)  # before or after the first word, as it happens


@pytest.fixture
def w() -> Iterator[World]:
    with world() as made:
        made.start(HARP_MAX_CLIENTS="40")
        yield made


@pytest.fixture
def admin(w: World) -> Admin:
    admin = w.admin()
    w.device(admin, 1000)
    return admin


def raw(grant: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(10)
    sock.connect(str(grant / "arbiter.sock"))
    return sock


def closed(sock: socket.socket) -> bool:
    with contextlib.suppress(ConnectionError):
        while sock.recv(MSG_BYTES):
            pass
    return True


def test_random_datagrams_change_nobody_else(w: World, admin: Admin) -> None:
    victim = Client(w.tenant(admin, 1, limit=10))
    victim.lease(6)
    attacker = w.tenant(admin, 2, limit=10)
    seed = int(os.environ.get("HARP_TEST_SEED", "20261122"))
    print(f"seed {seed}")
    rng = random.Random(seed)
    lengths = [MSG_BYTES] * 6 + [0, 1, 255, 257, 4096, 60000]
    before = w.open_files()
    for _ in range(300):
        with raw(attacker) as sock, contextlib.suppress(ConnectionError):
            if rng.random() < 0.8:
                sock.send(Msg(op=Op.HELLO, a=Kind.NULL).pack())
            for _ in range(rng.randint(1, 8)):
                data = bytearray(rng.randbytes(rng.choice(lengths)))
                if len(data) >= 16 and rng.random() < 0.8:
                    data[:2] = rng.choice((1, 2)).to_bytes(2, "little")
                    data[2:4] = rng.randrange(120).to_bytes(2, "little")
                    data[8:12] = rng.randrange(3).to_bytes(4, "little")
                sock.send(data)
    assert w.alive()
    use = admin.use(1)
    assert (use.leased_bytes, use.denials, use.limit_bytes) == (
        6 * GRANULE_BYTES,
        0,
        10 * GRANULE_BYTES,
    )
    assert victim.lease(4).op == Op.MEM_GRANT
    Client(attacker).close()  # it is welcomed after all before it
    until(lambda: admin.drain_all() or w.open_files() <= before, "their descriptors are closed")
    assert admin.use(2).leased_bytes == 0


@pytest.mark.parametrize(
    ("description", "data"),
    [
        ("short", b"x" * 255),
        ("long", b"x" * 257),
        ("a later version", b"\x09\x00\x01\x00" + b"\0" * 252),
        ("no hello first", Msg(op=Op.MEM_INFO).pack()),
        ("harpd's word", Msg(op=Op.SNAPSHOT).pack()),
    ],
)
def test_protocol_errors_close_the_connection(
    w: World, admin: Admin, description: str, data: bytes
) -> None:
    with raw(w.tenant(admin, 1)) as sock:
        sock.send(data)
        assert closed(sock), description


@pytest.mark.parametrize("others", [0, 120])
def test_a_snapshot_knows_what_clients_said_before(others: int) -> None:
    """Though the admin's socket was ready before theirs, by an earlier question."""
    with world() as w:
        arbiter = w.start()
        admin = w.admin()
        w.device(admin, 1000)
        grant = w.tenant(admin, 1)
        crowd = [Client(grant) for _ in range(others)]
        client = Client(grant)
        arbiter.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, arbiter.pid, os.WSTOPPED | os.WNOWAIT)
        admin.send(Msg(op=Op.SNAPSHOT, seq=1))
        for one in [*crowd, client]:
            one.send(Msg(op=Op.LEASE_MEM, seq=1, amount_bytes=GRANULE_BYTES))
        admin.send(Msg(op=Op.SNAPSHOT, seq=2))
        arbiter.send_signal(signal.SIGCONT)
        leased = []
        while (said := admin.recv()).op != Op.OK or said.seq != 2:
            if said.op == Op.SNAP_USE:
                leased.append(said.leased_bytes)
        assert leased[-1] == (others + 1) * GRANULE_BYTES


def test_descriptors_sent_by_a_client_are_not_kept(w: World, admin: Admin) -> None:
    client = Client(w.tenant(admin, 1))
    before = w.open_files()
    for _ in range(50):
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
        client.sock.sendmsg([Msg(op=Op.WANT_TIME).pack()], rights)
    client.send(Msg(op=Op.MEM_INFO, seq=9))
    assert client.until(Op.MEM_STATE).seq == 9
    assert w.open_files() == before


def ask_without_end(client: Client) -> None:
    for seq in range(200_000):
        client.send(Msg(op=Op.MEM_INFO, seq=seq))


def test_client_that_does_not_read_is_disconnected_and_others_are_served(
    w: World, admin: Admin
) -> None:
    deaf, other = Client(w.tenant(admin, 1)), Client(w.tenant(admin, 2))
    deaf.lease(3)
    with pytest.raises(ConnectionError):
        ask_without_end(deaf)
    begun = time.monotonic()
    assert other.lease(1).op == Op.MEM_GRANT
    assert time.monotonic() - begun < 2
    assert [m.d for m in admin.clients(1)] == [2]  # drains: it lives and may adopt again
    assert "reason=does_not_read" in w.log.read_text()
    back = Client(w.grants[1], flags=1)
    back.send(Msg(op=Op.ADOPT_MEM, amount_bytes=3 * GRANULE_BYTES))
    back.send(Msg(op=Op.MEM_INFO))
    assert back.until(Op.MEM_STATE).leased_bytes == 3 * GRANULE_BYTES


@pytest.mark.alone
def test_flood_of_one_tenant_does_not_hold_up_another(w: World, admin: Admin) -> None:
    flooder, other = w.tenant(admin, 1), Client(w.tenant(admin, 2))

    def flood() -> None:
        client = Client(flooder)
        while True:
            client.send(Msg(op=Op.WANT_TIME))

    for _ in range(2):
        w.fork(flood)
    until(lambda: len(admin.clients(1)) == 2, "both flood")
    waits = []
    for _ in range(50):
        begun = time.monotonic()
        other.lease(1)
        waits.append(time.monotonic() - begun)
    assert sorted(waits)[25] < 0.05


def test_client_maximum_of_a_tenant(w: World, admin: Admin) -> None:
    crowd = w.tenant(admin, 1)
    clients = [Client(crowd) for _ in range(40)]
    with pytest.raises(TURNED_AWAY):
        Client(crowd)
    assert Client(w.tenant(admin, 2)).welcome.tenant == 2
    clients.pop().close()
    until(lambda: len(admin.clients(1)) == 39, "its place is free")
    assert Client(crowd).welcome.tenant == 1


def test_listening_socket_made_blocking_by_its_owner(w: World, admin: Admin) -> None:
    """The tenant shares the socket: it may set flags and take connections away."""
    grant = w.tenant(admin, 1)
    shared = w.listeners[1].fileno()
    fcntl.fcntl(shared, fcntl.F_SETFL, fcntl.fcntl(shared, fcntl.F_GETFL) & ~os.O_NONBLOCK)
    other = Client(w.tenant(admin, 2))
    assert Client(grant).welcome.tenant == 1
    w.listeners[1].settimeout(0)
    for _ in range(200):
        with raw(grant):
            fcntl.fcntl(shared, fcntl.F_SETFL, os.O_NONBLOCK)  # the arbiter may be faster
            with contextlib.suppress(BlockingIOError):
                w.listeners[1].accept()[0].close()
            fcntl.fcntl(shared, fcntl.F_SETFL, 0)
    assert other.lease(1).op == Op.MEM_GRANT


def as_nobody(work: object) -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    assert callable(work)
    work()


def look(link: Link) -> None:
    link.send(Msg(op=Op.SNAPSHOT))
    link.recv()


@pytest.mark.skipif(os.getuid() != 0, reason="a second uid needs root")
def test_another_uid_can_neither_join_nor_administer(w: World, admin: Admin) -> None:
    grant = w.tenant(admin, 1)

    def locked_out() -> None:
        for path in (grant / "arbiter.sock", w.run / "admin.sock"):
            with pytest.raises(PermissionError):
                Link(path)

    assert w.wait(w.fork(lambda: as_nobody(locked_out))) == 0
    grant.chmod(0o777)
    (grant / "arbiter.sock").chmod(0o777)
    (w.run / "admin.sock").chmod(0o777)

    def refused() -> None:
        with pytest.raises(TURNED_AWAY):
            Client(grant)
        link = Link(w.run / "admin.sock")
        with pytest.raises(TURNED_AWAY):
            look(link)

    assert w.wait(w.fork(lambda: as_nobody(refused))) == 0
    assert admin.clients(1) == []
    assert "join_refused_uid" in w.log.read_text()


@pytest.mark.skipif(os.getuid() != 0, reason="a second uid needs root")
def test_tenant_of_another_uid_joins_its_own_grant(w: World, admin: Admin) -> None:
    grant = w.tenant(admin, 1, uid=NOBODY)

    def work() -> None:
        assert Client(grant).welcome.tenant == 1

    assert w.wait(w.fork(lambda: as_nobody(work))) == 0
    assert w.wait(w.fork(work)) == 0  # root may too


def test_admin_socket_is_private_and_folder_is_served_once(w: World, admin: Admin) -> None:
    mode = (w.run / "admin.sock").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    second = w.start(run=w.run)
    assert second.wait(10) == 3
    assert admin.snapshot()


def test_device_belongs_to_one_arbiter_of_the_machine(w: World, admin: Admin) -> None:
    assert w.process
    lock = w.locks / "device-00010203-0405-0607-0809-0a0b0c0d0e0f.lock"
    assert lock.read_text() == f"{w.process.pid} {os.geteuid()} {w.run}\n"
    elsewhere = w.start(run=w.base / "run2")
    try:
        rival = Admin(w.base / "run2" / "admin.sock")
        answer, _ = rival.ask(Msg(op=Op.ADD_DEVICE, uuid=UUID, capacity_bytes=GRANULE_BYTES))
        assert (answer.op, answer.a) == (Op.ERR, 16)  # EBUSY
        assert (answer.pid, answer.uid) == (w.process.pid, os.geteuid())
        assert answer.text == str(w.run)
        admin.ok(Op.SHUTDOWN)
        assert w.process.wait(10) == 0
        assert not lock.exists()
        w.process = None
        assert rival.ask(Msg(op=Op.ADD_DEVICE, uuid=UUID, capacity_bytes=1))[0].op == Op.OK
    finally:
        elsewhere.send_signal(signal.SIGTERM)
        assert elsewhere.wait(10) == 0


def test_add_tenant_needs_a_listening_seqpacket_socket(w: World, admin: Admin) -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right, Path(os.devnull).open() as file:
        before = w.open_files()
        for fd in (left.fileno(), file.fileno(), None):
            answer, _ = admin.ask(Msg(op=Op.ADD_TENANT, tenant=9), fd)
            assert answer.op == Op.ERR
        assert w.open_files() == before
    assert [m for m in admin.snapshot() if m.op == Op.SNAP_TENANT] == []


def test_deleted_tenant_is_disconnected_and_cannot_come_back(w: World, admin: Admin) -> None:
    grant = w.tenant(admin, 1)
    client = Client(grant)
    admin.ok(Op.DEL_TENANT, tenant=1)
    with pytest.raises(EOFError):
        client.recv()
    w.listeners[1].close()
    with pytest.raises(ConnectionRefusedError):
        Link(grant / "arbiter.sock")


def test_slow_harpd_gets_every_answer(w: World, admin: Admin) -> None:
    """Answers queue up beyond what the socket holds."""
    grant = w.tenant(admin, 1)
    clients = [Client(grant) for _ in range(30)]
    for client in clients:
        client.lease(1)
    for seq in range(100):
        admin.send(Msg(op=Op.SNAPSHOT, seq=seq))
    rows = 0
    answers = []
    while len(answers) < 100:
        answer = admin.recv()
        rows += answer.op == Op.SNAP_LEASE
        if answer.op == Op.OK:
            answers.append(answer.seq)
    assert answers == list(range(100))
    assert rows == 100 * 30


@pytest.mark.parametrize("version", [1, 2, VERSION])
def test_harpd_of_an_older_version_is_told_nothing_of_a_newer_one(
    w: World, admin: Admin, version: int
) -> None:
    client = Client(w.tenant(admin, 1))
    admin.ok(Op.SET_TENANT, tenant=1, dev=0, a=GRANT_OVERSUBSCRIBE, free_bytes=1 << 20)
    client.lease(1, cls=MemClass.OVERHEAD)
    client.lease(1, cls=MemClass.SWAP)
    sock = w.admin().sock
    rows: dict[int, Msg] = {}
    sock.send(Msg(op=Op.SNAPSHOT).pack(version))
    while Op.OK not in rows:
        data = sock.recv(MSG_BYTES)
        assert int.from_bytes(data[:2], sys.byteorder) == version
        rows[Msg.unpack(data).op] = Msg.unpack(data)
    lease, use = rows[Op.SNAP_LEASE], rows[Op.SNAP_USE]
    assert (lease.leased_bytes, lease.overhead_bytes) == (GRANULE_BYTES, GRANULE_BYTES)
    news = [Op.SNAP_RESIDENCY in rows, lease.amount_bytes, lease.epoch, use.capacity_bytes]
    assert all(news) if version > 1 else not any(news)
    assert (Op.SNAP_TIME in rows) == (version > 2)


@pytest.mark.parametrize(("version", "asked"), [(VERSION, 1), (VERSION, 0), (2, 1), (1, 1)])
def test_rows_come_together_for_who_asks_for_it_from_version_3_on(
    w: World, admin: Admin, version: int, asked: int
) -> None:
    """As many rows, each once, before the OK; a row with a descriptor comes alone."""
    for number in range(1, 41):
        w.tenant(admin, number)
    sock = w.admin().sock
    sock.send(Msg(op=Op.SNAPSHOT, b=asked).pack(version))
    sizes, rows = [], []
    while not rows or rows[-1].op != Op.OK:
        data = sock.recv(TOGETHER * MSG_BYTES)
        sizes.append(len(data) // MSG_BYTES)
        rows += [Msg.unpack(data[at : at + MSG_BYTES]) for at in range(0, len(data), MSG_BYTES)]
    assert [row.tenant for row in rows if row.op == Op.SNAP_TENANT] == [*range(1, 41)]
    assert max(sizes) == (TOGETHER if version > 2 and asked else 1)
    if version < 2:
        return
    sock.send(Msg(op=Op.SNAPSHOT, a=1).pack(version))
    found = []
    while True:
        data, fds, _, _ = socket.recv_fds(sock, TOGETHER * MSG_BYTES, 2)
        found += fds
        assert len(fds) < 2
        assert not fds or len(data) == MSG_BYTES
        if Msg.unpack(data[-MSG_BYTES:]).op == Op.OK:
            break
    assert len(found) == 40
    for fd in found:
        os.close(fd)


@pytest.mark.slow
def test_nobody_there_ends_it_and_anybody_keeps_it(tmp_path: Path, w: World) -> None:
    lone = w.start(tmp_path / "run", HARP_IDLE_EXIT_S="2")
    link = Admin(tmp_path / "run" / "admin.sock")
    time.sleep(4)
    assert lone.poll() is None, "harpd is there"
    link.close()
    assert lone.wait(20) == 0


def test_daemonize_returns_when_ready(tmp_path: Path, w: World) -> None:
    assert w.process
    binary = Path(f"/proc/{w.process.pid}/exe").resolve()
    log = tmp_path / "log"
    command = [binary, "--run", tmp_path / "run", "--lock-dir", w.locks, "--log", log]
    done = subprocess.run(
        [*command, "--daemonize"], capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stdout == "ready\n"
    link = Admin(tmp_path / "run" / "admin.sock")
    link.ok(Op.SHUTDOWN)
    until(lambda: "arbiter_stopped" in log.read_text(), "it ends")


@pytest.mark.parametrize(
    ("option", "value", "remedy"),
    [
        ("--policy", "lottery", "one of drr, priority, fifo"),
        ("--burst-us", "1000001", "from 0 to 1000000"),
        ("--burst-us", "-1", "from 0 to 1000000"),
        ("--quantum-us", "999", "from 1000 to 50000"),
        ("--quantum-us", "50001", "from 1000 to 50000"),
    ],
)
def test_option_that_cannot_be_meant(tmp_path: Path, option: str, value: str, remedy: str) -> None:
    command = [program("harp-arbiter"), "--run", tmp_path, option, value]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert value in done.stderr
    assert remedy in done.stderr


def test_policy_is_chosen_and_said(tmp_path: Path) -> None:
    command = [program("harp-arbiter"), "--run", tmp_path, "--lock-dir", tmp_path]
    command += ["--policy", "fifo", "--quantum-us", "2000", "--burst-us", "20000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    finally:
        process.terminate()
        _, log = process.communicate(timeout=10)
    assert "policy=fifo quantum_us=2000" in log
