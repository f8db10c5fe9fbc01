# SPDX-License-Identifier: Apache-2.0
"""Tenants' pages pass through the arbiter: to their clients, to the next harpd, to nobody else."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from arbiter_world import Admin, Client, World, program, until, world

from harp.lease_wire import MSG_BYTES, VERSION, Kind, Msg, Op
from harp.profile import Page

NOBODY = 65534


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


def ask(admin: Admin, message: Msg, *fds: int) -> Msg:
    socket.send_fds(admin.sock, [message.pack()], fds)
    return admin.recv()


def add(w: World, admin: Admin, number: int, *more: int) -> Msg:
    """Say a tenant again, with more than its socket."""
    message = Msg(op=Op.ADD_TENANT, tenant=number, uid=os.getuid(), text=f"tenant-{number}")
    return ask(admin, message, w.listeners[number].fileno(), *more)


def inode(fd: int) -> int:
    return os.fstat(fd).st_ino


def open_here() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def welcome(w: World, number: int, version: int = VERSION) -> tuple[socket.socket, list[int]]:
    """A new client of that version: its connection, and what came along."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sock.settimeout(10)
    sock.connect(str(w.grants[number] / "arbiter.sock"))
    sock.send(Msg(op=Op.HELLO, a=Kind.NULL, pid=os.getpid(), text="t").pack(version))
    data, fds, _, _ = socket.recv_fds(sock, MSG_BYTES, 4)
    assert Msg.unpack(data).op == Op.WELCOME
    return sock, fds


def rows(admin: Admin, asked: int, version: int = VERSION) -> dict[int, tuple[int, list[int]]]:
    """{tenant: what its row says comes along, the inodes that did}."""
    admin.sock.send(Msg(op=Op.SNAPSHOT, a=asked).pack(version))
    found = {}
    while True:
        data, fds, _, _ = socket.recv_fds(admin.sock, MSG_BYTES, 4)
        row = Msg.unpack(data)
        if row.op == Op.SNAP_TENANT:
            found[row.tenant] = row.b, [inode(fd) for fd in fds]
        else:
            assert not fds
        for fd in fds:
            os.close(fd)
        if row.op == Op.OK:
            return found


@pytest.mark.parametrize("version", [1, 2, VERSION])
def test_a_client_is_given_its_tenant_s_page(w: World, admin: Admin, version: int) -> None:
    pages = {1: Page.make(), 2: Page.make()}
    for number in (1, 2, 3):
        w.tenant(admin, number)
    for number, page in pages.items():
        assert add(w, admin, number, page.fd).op == Op.OK
    for number in (1, 2, 3, 1):
        sock, fds = welcome(w, number, version)
        with sock:
            told = [inode(fd) for fd in fds]
            given = version > 2 and number in pages
            assert told == ([inode(pages[number].fd)] if given else [])
            for fd in fds:
                os.close(fd)


def test_a_client_that_does_not_take_it_has_none_left_open(w: World, admin: Admin) -> None:
    """As libraries before pages: they read with recv()."""
    grant = w.tenant(admin, 1)
    page = Page.make()
    assert add(w, admin, 1, page.fd).op == Op.OK
    theirs = w.open_files()
    Client(grant).close()
    before = open_here()
    for _ in range(20):
        client = Client(grant)
        assert client.lease(1).op == Op.MEM_GRANT
        assert open_here() == before + 1
        client.close()
    assert open_here() == before
    until(lambda: w.open_files() == theirs, "the arbiter has closed their connections")


def test_a_new_harpd_gets_sockets_and_pages(w: World, admin: Admin) -> None:
    page = Page.make()
    for number in (1, 2):
        w.tenant(admin, number)
    assert add(w, admin, 1, page.fd).op == Op.OK
    sockets = {n: inode(listener.fileno()) for n, listener in w.listeners.items()}
    admin.close()
    before = w.open_files()
    later = w.admin()
    assert rows(later, 3) == {1: (3, [sockets[1], inode(page.fd)]), 2: (1, [sockets[2]])}
    assert rows(later, 2) == {1: (2, [inode(page.fd)]), 2: (0, [])}
    assert rows(later, 1) == {n: (1, [socket]) for n, socket in sockets.items()}
    assert rows(later, 0) == {n: (0, []) for n in sockets}
    older = w.admin()
    assert rows(older, 3, version=2) == {n: (1, [socket]) for n, socket in sockets.items()}
    later.close()
    older.close()
    until(lambda: w.open_files() <= before, "nothing of it is left open")


def test_a_page_stays_until_another_or_the_end(w: World, admin: Admin) -> None:
    w.tenant(admin, 2)
    empty = w.open_files()
    w.tenant(admin, 1)
    first, second = Page.make(), Page.make()

    def has() -> list[int]:
        return rows(admin, 2)[1][1]

    assert add(w, admin, 1, first.fd).op == Op.OK
    assert w.open_files() == empty + 2
    assert add(w, admin, 1).op == Op.OK, "an older harpd: the socket alone"
    assert has() == [inode(first.fd)]
    assert add(w, admin, 1, second.fd).op == Op.OK
    assert has() == [inode(second.fd)]
    assert w.open_files() == empty + 2
    admin.ok(Op.DEL_TENANT, tenant=1)
    assert w.open_files() == empty


def test_descriptors_that_belong_nowhere_are_closed(w: World, admin: Admin) -> None:
    w.tenant(admin, 1)
    page = Page.make()
    assert add(w, admin, 1, page.fd).op == Op.OK
    before = w.open_files()
    assert ask(admin, Msg(op=Op.SNAPSHOT), page.fd, page.fd).op == Op.SNAP_DEVICE
    until(lambda: admin.recv().op == Op.OK, "the rest of it")
    assert add(w, admin, 1, page.fd, page.fd, page.fd).op == Op.OK
    assert rows(admin, 2)[1][1] == [inode(page.fd)]
    bad = Msg(op=Op.ADD_TENANT, tenant=9)
    assert ask(admin, bad, page.fd, page.fd).op == Op.ERR, "no socket"
    until(lambda: w.open_files() == before, "they are closed")


def flood(told: int) -> None:
    """As nobody: more descriptors on their way than the arbiter may have open, until killed."""
    os.setuid(NOBODY)
    ours, theirs = socket.socketpair()
    for _ in range(4):
        socket.send_fds(ours, [b"x"], [theirs.fileno()] * 200)
    os.write(told, b"x")
    signal.pause()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
def test_too_many_descriptors_on_their_way_cost_the_page_alone() -> None:
    """The kernel counts a user's, whoever of that user's does not read."""
    with world() as w:
        w.run.mkdir()
        for folder in (w.run, w.locks, w.base):
            os.chown(folder, NOBODY, NOBODY)
        program_there = shutil.copy(program("harp-arbiter"), w.base / "arbiter")
        command = ["prlimit", "--nofile=600:600", "setpriv", f"--reuid={NOBODY}", "--clear-groups"]
        command += [program_there, "--run", w.run, "--lock-dir", w.locks, "--log", w.log]
        w.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert w.process.stdout
        with w.process.stdout:
            assert w.process.stdout.readline() == b"ready\n"
        admin = w.admin()
        w.device(admin, 1000)
        w.tenant(admin, 1)
        page = Page.make()
        assert add(w, admin, 1, page.fd).op == Op.OK
        reading, flooded = os.pipe()
        pid = w.fork(lambda: flood(flooded))
        assert os.read(reading, 1) == b"x"
        sock, fds = welcome(w, 1)
        with sock:
            assert fds == []
        assert rows(admin, 3) == {1: (0, [])}
        w.kill(pid)
        until(lambda: rows(admin, 2) == {1: (2, [inode(page.fd)])}, "they have gone")
        os.close(reading)
        os.close(flooded)


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_a_socket_that_is_no_tenant_s_any_more_wakes_nobody(w: World, admin: Admin) -> None:
    """Its other holders keep it, and who connects waits in it: the arbiter turned round for it."""
    grant = w.tenant(admin, 1)
    admin.ok(Op.DEL_TENANT, tenant=1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(str(grant / "arbiter.sock"))
        assert w.process
        before = cpu_ticks(w.process.pid)
        time.sleep(0.3)
        assert cpu_ticks(w.process.pid) - before < 5
