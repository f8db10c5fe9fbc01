# SPDX-License-Identifier: Apache-2.0
"""A private harp-arbiter process, clients that speak its protocol, and a stand-in for harpd."""

from __future__ import annotations

import array
import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

from harp.lease_wire import ALL_DEVICES, GRANULE_BYTES, MSG_BYTES, Kind, Msg, Op

ROOT = Path(__file__).resolve().parents[2]
UUID = bytes(range(16))


def program(name: str) -> Path:
    """One of the native programs."""
    return Path(os.environ.get("HARP_NATIVE_DIR", ROOT / "harp" / "_lib")) / name


def until(look: Callable[[], object], what: str, timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not look():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.01)


class Link:
    """One connection: whole messages out and in. Closed at the end of its world."""

    opened: ClassVar[list[Link]] = []

    def __init__(self, path: Path, timeout_s: float = 20) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(timeout_s)
        try:
            self.sock.connect(str(path))
        except OSError:
            self.sock.close()
            raise
        self.opened.append(self)

    def send(self, msg: Msg) -> None:
        self.sock.send(msg.pack())

    def recv(self) -> Msg:
        """The next message; EOFError when the arbiter has closed the connection."""
        try:
            data = self.sock.recv(MSG_BYTES + 1)
        except ConnectionError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        return Msg.unpack(data)

    def close(self) -> None:
        self.sock.close()


class Client(Link):
    """A tenant's process. `slack` granules of its lease are unused and given back on recall."""

    def __init__(self, grant: Path, *, flags: int = 0) -> None:
        super().__init__(grant / "arbiter.sock")
        self.leased = 0
        self.slack = 0
        self.seq = 0
        self.pushed: list[Msg] = []
        self.send(Msg(op=Op.HELLO, a=Kind.NULL, b=flags, pid=os.getpid(), text="test"))
        self.welcome = self.until(Op.WELCOME)
        self.devices = [self.until(Op.DEVICE) for _ in range(self.welcome.a)]

    def until(self, *wanted: Op) -> Msg:
        """The next message of that kind; recalls are answered, others kept in `pushed`."""
        while True:
            msg = self.recv()
            if msg.op == Op.RECALL_MEM:
                given, self.slack = self.slack, 0
                self.leased -= given
                amount = given * GRANULE_BYTES
                self.send(Msg(op=Op.RECALLED, seq=msg.seq, amount_bytes=amount))
            elif msg.op in wanted:
                return msg
            else:
                self.pushed.append(msg)

    def lease(self, granules: int, cls: int = 0) -> Msg:
        self.seq += 1
        amount = granules * GRANULE_BYTES
        self.send(Msg(op=Op.LEASE_MEM, seq=self.seq, cls=cls, amount_bytes=amount))
        answer = self.until(Op.MEM_GRANT, Op.MEM_DENY)
        assert answer.seq == self.seq
        if answer.op == Op.MEM_GRANT and cls == 0:
            self.leased += granules
        return answer

    def give_back(self, granules: int) -> None:
        self.leased -= granules
        self.send(Msg(op=Op.RETURN_MEM, amount_bytes=granules * GRANULE_BYTES))

    def serve(self) -> None:
        """Answer recalls until the connection ends."""
        with contextlib.suppress(EOFError, TimeoutError):
            while True:
                self.until()


class Admin(Link):
    """harpd, as far as the arbiter sees it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.seq = 0
        self.events: list[Msg] = []

    def ask(self, msg: Msg, fd: int | None = None) -> tuple[Msg, list[Msg]]:
        """The answer and, before it, the rows of a snapshot."""
        rights = (
            [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        )
        self.sock.sendmsg([msg.pack()], rights)
        rows: list[Msg] = []
        while True:
            answer = self.recv()
            if answer.op in (Op.OK, Op.ERR):
                return answer, rows
            (self.events if Op(answer.op).name.startswith("EVENT_") else rows).append(answer)

    def ok(self, op: Op, fd: int | None = None, **values: object) -> Msg:
        answer, _ = self.ask(Msg(op=op, **values), fd)  # type: ignore[arg-type]
        assert answer.op == Op.OK, answer
        return answer

    def snapshot(self) -> list[Msg]:
        answer, rows = self.ask(Msg(op=Op.SNAPSHOT))
        assert answer.op == Op.OK
        return rows

    def use(self, tenant: int) -> Msg:
        return next(m for m in self.snapshot() if m.op == Op.SNAP_USE and m.tenant == tenant)

    def clients(self, tenant: int) -> list[Msg]:
        return [m for m in self.snapshot() if m.op == Op.SNAP_CLIENT and m.tenant == tenant]

    def event(self, op: Op, state: int = 0) -> Msg:
        """The next event of that kind."""
        while True:
            while self.events:
                event = self.events.pop(0)
                if event.op == op and state in (0, event.d):
                    return event
            self.events.append(self.recv())

    def drain_all(self) -> None:
        for row in self.snapshot():
            if row.op == Op.SNAP_CLIENT and row.d == 2:
                self.ok(Op.DRAINED, client=row.client, dev=ALL_DEVICES)


class World:
    """Folders, the arbiter's process, tenants, and forked children; all gone in the end."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.run = base / "run"
        self.locks = base / "locks"
        self.locks.mkdir()
        self.log = base / "arbiter.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.children: list[int] = []
        self.programs: list[subprocess.Popen[str]] = []
        self.listeners: dict[int, socket.socket] = {}
        self.grants: dict[int, Path] = {}

    def start(self, run: Path | None = None, **env: str) -> subprocess.Popen[bytes]:
        command = [program("harp-arbiter"), "--run", run or self.run, "--lock-dir", self.locks]
        process = subprocess.Popen(
            [*command, "--log", self.log], stdout=subprocess.PIPE, env={**os.environ, **env}
        )
        assert process.stdout
        with process.stdout:
            ready = process.stdout.readline()
        if run is None:
            assert ready == b"ready\n", self.log.read_text()
            self.process = process
        return process

    def admin(self) -> Admin:
        return Admin(self.run / "admin.sock")

    def device(self, admin: Admin, granules: int, uuid: bytes = UUID) -> int:
        size = granules * GRANULE_BYTES
        return admin.ok(Op.ADD_DEVICE, uuid=uuid, capacity_bytes=size).dev

    def tenant(
        self, admin: Admin, number: int, limit: int = 0, share: int = 0, uid: int = 0
    ) -> Path:
        """A grant folder with its socket, known to the arbiter."""
        grant = self.base / f"grant{number}"
        if number not in self.listeners:
            grant.mkdir(mode=0o700)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            listener.bind(str(grant / "arbiter.sock"))
            listener.listen(512)
            os.chown(grant, uid, -1)
            os.chown(grant / "arbiter.sock", uid, -1)
            self.listeners[number] = listener
            self.grants[number] = grant
        name = f"tenant-{number}"
        fd = self.listeners[number].fileno()
        admin.ok(Op.ADD_TENANT, fd, tenant=number, uid=uid or os.getuid(), text=name)
        size = limit * GRANULE_BYTES
        admin.ok(Op.SET_TENANT, tenant=number, dev=0, limit_bytes=size, b=share)
        return grant

    def fork(self, work: Callable[[], None]) -> int:
        """Run `work` in a child of its own."""
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                work()
                code = 0
            finally:
                os._exit(code)
        self.children.append(pid)
        return pid

    def kill(self, pid: int) -> None:
        self.children.remove(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def wait(self, pid: int) -> int:
        self.children.remove(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def open_files(self) -> int:
        assert self.process
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))  # noqa: PTH208

    def end(self) -> None:
        for pid in list(self.children):
            self.kill(pid)
        for program in self.programs:
            program.kill()
            program.communicate()
        for listener in self.listeners.values():
            listener.close()
        while Link.opened:
            Link.opened.pop().close()
        if self.process is not None:
            self.process.terminate()
            code = self.process.wait(10)
            assert code == 0, f"arbiter ended with {code}: {self.log.read_text()[-2000:]}"


@contextlib.contextmanager
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="harp-arbiter-") as folder:
        Path(folder).chmod(0o755)
        made = World(Path(folder))
        try:
            yield made
        finally:
            made.end()
