# SPDX-License-Identifier: Apache-2.0
"""A tenant that oversubscribes: a scripted arbiter, the software GPU, a program told what to do."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from shim_world import MIB, World, soft_world

from harp.lease_wire import GRANT_OVERSUBSCRIBE, MemClass, Msg, Op

WAIT_S = float(os.environ.get("SWAP_WAIT_S", "30"))


class Arbiter:
    """One client's connection, answered by a thread; gates are open unless told otherwise."""

    def __init__(
        self,
        listener: socket.socket,
        uuids: list[bytes],
        *,
        limit: int,
        flags: int = GRANT_OVERSUBSCRIBE,
        host: int = 0,
        opens: bool = True,
    ) -> None:
        self.limit = limit
        #: quota of pinned host memory; 0: none
        self.host = host
        #: {(device, class): bytes leased}
        self.leased: dict[tuple[int, int], int] = {}
        self.open = opens
        #: said before the next grant, this long after one another; how long a grant takes
        self.before_grant: list[dict[str, int]] = []
        self.pause_s = 0.1
        self.grants_after_s = 0.0
        self.epoch = 0
        #: lanes of device 0 whose gate is open, by epoch
        self.turns: dict[int, int] = {}
        self.heard: queue.Queue[Msg] = queue.Queue()
        self.adopted: list[Msg] = []
        listener.settimeout(WAIT_S)
        self.link, _ = listener.accept()
        self.link.settimeout(WAIT_S)
        hello = Msg.unpack(self.link.recv(4096))
        assert hello.op == Op.HELLO
        self.say(op=Op.WELCOME, a=len(uuids), b=2, c=4, client=1, text="t")
        for dev, uuid in enumerate(uuids):
            self.say(
                op=Op.DEVICE,
                dev=dev,
                uuid=uuid,
                a=flags,
                limit_bytes=limit,
                capacity_bytes=limit,
                free_bytes=host,
            )
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def say(self, **fields: object) -> None:
        self.link.send(Msg(**fields).pack())  # type: ignore[arg-type]

    def _used(self, classes: tuple[MemClass, ...]) -> int:
        return sum(n for (_, cls), n in self.leased.items() if cls in classes)

    def _lease(self, msg: Msg) -> None:
        host = msg.cls == MemClass.HOST
        classes = (MemClass.HOST,) if host else (MemClass.DEVICE, MemClass.SWAP)
        most = self.host if host else self.limit
        counts = self.host != 0 if host else msg.cls != MemClass.OVERHEAD
        if counts and self._used(classes) + msg.amount_bytes > most:
            self.say(op=Op.MEM_DENY, seq=msg.seq, dev=msg.dev, cls=msg.cls, a=1)
            return
        key = (msg.dev, msg.cls)
        self.leased[key] = self.leased.get(key, 0) + msg.amount_bytes
        time.sleep(self.grants_after_s)
        while self.before_grant:
            self.say(**self.before_grant.pop(0))
            time.sleep(self.pause_s if self.before_grant else 0)
        self.say(
            op=Op.MEM_GRANT,
            seq=msg.seq,
            dev=msg.dev,
            cls=msg.cls,
            amount_bytes=msg.amount_bytes,
        )

    def _serve(self) -> None:
        try:
            while packed := self.link.recv(4096):
                self._take(Msg.unpack(packed))
        except OSError:
            return

    def _take(self, msg: Msg) -> None:
        with self._lock:
            match msg.op:
                case Op.LEASE_MEM:
                    self._lease(msg)
                case Op.RETURN_MEM:
                    self.leased[msg.dev, msg.cls] -= msg.amount_bytes
                case Op.ADOPT_MEM:
                    self.adopted.append(msg)
                    self.leased[msg.dev, msg.cls] = msg.amount_bytes
                case Op.MEM_INFO:
                    used = self._used((MemClass.DEVICE, MemClass.SWAP))
                    free = self.limit - used
                    told = {"limit_bytes": self.limit, "free_bytes": free}
                    self.say(op=Op.MEM_STATE, seq=msg.seq, dev=msg.dev, **told)
                case Op.WANT_TIME:
                    self.heard.put(msg)
                    if self.open:
                        self._open(msg.dev, msg.cls)
                case Op.YIELD_TIME:
                    self.turns.pop(msg.cls, None)
                    self.heard.put(msg)
                case _:
                    self.heard.put(msg)

    def _open(self, dev: int, lane: int) -> None:
        self.epoch += 1
        self.turns[lane] = self.epoch
        self.say(op=Op.OPEN_GATE, dev=dev, cls=lane, epoch=self.epoch)

    def until(self, op: Op) -> Msg:
        """The next message of this kind."""
        deadline = time.monotonic() + WAIT_S  # a client that wants says so each second
        while True:
            msg = self.heard.get(timeout=max(0.0, deadline - time.monotonic()))
            if msg.op == op:
                return msg

    def shut(self) -> None:
        """Closes the gate of both lanes, and waits until they are drained."""
        with self._lock:
            self.open = False
            turns = dict(self.turns)
            for lane, epoch in turns.items():
                self.say(op=Op.CLOSE_GATE, cls=lane, epoch=epoch)
        for _ in turns:
            self.until(Op.YIELD_TIME)

    def evict(self) -> Msg:
        """Takes the device away, memory and all."""
        self.shut()
        self.say(op=Op.EVICT, seq=77)
        answer = self.until(Op.EVICTED)
        assert answer.seq == 77
        return answer

    def restore(self) -> Msg:
        """Gives it back; the gate opens when that is done and somebody wants it."""
        self.say(op=Op.RESTORE, seq=78)
        answer = self.until(Op.RESTORED)
        assert answer.seq == 78
        with self._lock:
            self.open = answer.b == 0
            for lane in (0, 1) if self.open else ():
                self._open(0, lane)
        return answer


HEAD = """
import ctypes as C, sys, threading, time
cuda = C.CDLL("libcuda.so.1")
def ok(result):
    assert result == 0, result
def tell(*words):
    print(*words, flush=True)
def wait():
    assert sys.stdin.readline()
def alloc(size):
    at = C.c_uint64()
    ok(cuda.cuMemAlloc_v2(C.byref(at), C.c_size_t(size)))
    return at.value
def free(at):
    ok(cuda.cuMemFree_v2(C.c_uint64(at)))
def put(at, data):
    ok(cuda.cuMemcpyHtoD_v2(C.c_uint64(at), data, C.c_size_t(len(data))))
def get(at, size):
    data = C.create_string_buffer(size)
    ok(cuda.cuMemcpyDtoH_v2(data, C.c_uint64(at), C.c_size_t(size)))
    return data.raw
def pattern(seed, size):
    return (seed.to_bytes(4, "little") * (size // 4 + 1))[:size]
ok(cuda.cuInit(0))
ctx = C.c_void_p()
ok(cuda.cuCtxCreate_v2(C.byref(ctx), 0, 0))
"""


class Tenant:
    """A program under libharp; `arbiter()` takes its connection."""

    def __init__(self, world: World, code: str, folder: Path, **env: str) -> None:
        self.world = world
        self.grant = folder / "grant"
        self.grant.mkdir()
        self.log = folder / "log"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(self.grant / "arbiter.sock"))
        self.listener.listen(4)
        told = world.env("t", HARP_GRANT=str(self.grant), HARP_LOG=str(self.log), **env)
        self.process = subprocess.Popen(
            [sys.executable, "-c", HEAD + code],
            env=told,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.links: list[Arbiter] = []

    def arbiter(self, *, limit: int = 512 * MIB, host: int = 0, opens: bool = True) -> Arbiter:
        """Takes its next connection."""
        uuids = [self.world.uuid, *(uuid for uuid, _ in self.world.more)]
        made = Arbiter(self.listener, uuids, limit=limit, host=host, opens=opens)
        self.links.append(made)
        return self.links[-1]

    def told(self) -> str:
        """The program's next line."""
        assert self.process.stdout
        late = threading.Timer(3 * WAIT_S, self.process.kill)
        late.start()
        line = self.process.stdout.readline()
        late.cancel()
        if not line:
            assert self.process.stderr
            raise AssertionError(self.process.stderr.read() + self.log.read_text())
        return line.strip()

    def go(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def ended(self) -> None:
        """It has ended well."""
        _, err = self.process.communicate(timeout=WAIT_S)
        log = self.log.read_text() if self.log.exists() else ""
        assert self.process.returncode == 0, err + log

    def device_bytes(self) -> int:
        """What it holds on the device, by the engine's own ledger: contexts and all."""
        said = subprocess.run(
            [self.world.native / "harp-soft-truth", "--json"],
            env=self.world.bare_env(),
            capture_output=True,
            check=True,
        )
        return sum(int(device["used_bytes"]) for device in json.loads(said.stdout)["devices"])

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        for link in self.links:
            link.link.close()
        self.listener.close()
        deadline = time.monotonic() + WAIT_S
        while self.device_bytes() != 0:  # else the next test takes it for its own
            assert time.monotonic() < deadline
            time.sleep(0.01)


@contextmanager
def tenant(world: World, code: str, folder: Path, **env: str) -> Iterator[Tenant]:
    with closing(Tenant(world, code, folder, **env)) as made:
        yield made


@contextmanager
def faults(world: World, *rules: str) -> Iterator[None]:
    """The software GPU's rules, of this process's calls."""
    tool = world.native / "harp-soft-fault"
    subprocess.run([tool, "set", *rules], env=world.bare_env(), check=True)
    try:
        yield
    finally:
        subprocess.run([tool, "clear"], env=world.bare_env(), check=True)


def swap_bytes(arbiter: Arbiter) -> int:
    return arbiter.leased.get((0, MemClass.SWAP), 0)


def eventually(holds: Callable[[], bool]) -> None:
    """What the arbiter's thread has still to read."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


FILL = """
sizes = [100, 70_000, 3 << 20, 40 << 20, 1 << 20, 5]
blocks = [alloc(size) for size in sizes]
for seed, (at, size) in enumerate(zip(blocks, sizes)):
    put(at, pattern(seed, size))
tell("filled")
wait()
for seed, (at, size) in enumerate(zip(blocks, sizes)):
    assert get(at, size) == pattern(seed, size), (seed, size)
tell("same")
wait()
for at in blocks:
    free(at)
tell("freed")
wait()
"""
FILLED = 46 * MIB


def check_same(made: Tenant) -> None:
    """Its data is what it was, and can be freed."""
    made.go()
    assert made.told() == "same"
    made.go()
    assert made.told() == "freed"
    eventually(lambda: swap_bytes(made.links[-1]) <= 2 * MIB)  # a granule is kept for the next
    made.go()
    made.ended()


__all__ = [
    "FILL",
    "FILLED",
    "MIB",
    "Arbiter",
    "Tenant",
    "check_same",
    "eventually",
    "faults",
    "soft_world",
    "swap_bytes",
    "tenant",
]
