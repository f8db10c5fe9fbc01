# SPDX-License-Identifier: Apache-2.0
"""Cases of checkpoints: a program that is locked, put away and brought back by another."""

from __future__ import annotations

import contextlib
import ctypes as c
import itertools
import os
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from soft_mod_cases_management import Nvml
from soft_mod_driver import (
    ILLEGAL_STATE,
    INVALID_VALUE,
    NOT_READY,
    NOT_SUPPORTED,
    Driver,
    Params,
    case,
    main,
    np,
)

RUNNING, LOCKED, CHECKPOINTED, FAILED = 0, 1, 2, 3
OUT_OF_MEMORY, NOT_INITIALIZED, OPERATING_SYSTEM = 2, 3, 304
UNLIMITED = ("soft", "gpu")
HARPS = "libharp leaves the checkpoints of a tenant with a limit to `harp suspend`"
SMALL = "fills the device, or is another program's memory to be left alone"
MODELLED = "what is documented of drivers up to 580 and was not tried: it spoils the process"
N = 1_000_000


class LockArgs(c.Structure):
    _fields_ = (("timeout_ms", c.c_uint), ("zero", c.c_uint), ("zeros", c.c_uint64 * 7))


class RestoreArgs(c.Structure):
    _fields_: ClassVar = [
        ("pairs", c.c_void_p),
        ("count", c.c_uint),
        ("zero", c.c_char * 44),
        ("zeros", c.c_uint64),
    ]


def data() -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.random.default_rng(5).random(N).astype("f4")


def uuid_of(d: Driver, device: int) -> bytes:
    uuid = (c.c_ubyte * 16)()
    d.ok("cuDeviceGetUuid", uuid, device)
    return bytes(uuid)


def target(d: Driver) -> None:
    """The other program: has memory, a stream, an event, a graph; does what it is told by line."""
    want, stream, event = data(), d.stream(), d.event()
    ptr = d.up_now(want)
    add1 = d.function(d.module(), "add1")
    params = Params(ptr, ptr, c.c_uint32(N))
    d.ok("cuStreamBeginCapture_v2", stream, 0)
    d.launch(add1, params, (-(-N // 256), 1, 1), (256, 1, 1), stream=stream)
    graph = c.c_void_p()
    d.ok("cuStreamEndCapture", stream, c.byref(graph))
    run = d.handle("cuGraphInstantiateWithFlags", graph, c.c_ulonglong(0))
    word, adds = d.up_now(np.zeros(1, "u4")), 0

    def tick() -> None:
        for ticks in itertools.count(1):
            os.pwrite(int(sys.argv[2]), ticks.to_bytes(8, "little"), 0)
            time.sleep(0.001)

    threading.Thread(target=tick, daemon=True).start()
    d.ok("cuEventRecord", event, stream)
    print("ready", flush=True)
    for line in sys.stdin:
        match line.split():
            case ["add"]:
                d.ok("cuGraphLaunch", run, stream)
                d.ok("cuEventRecord", event, stream)
                d.ok("cuEventSynchronize", event)
                adds += 1
                print("added", flush=True)
            case ["same"]:
                for _ in range(adds):
                    want = want + np.float32(1)
                adds = 0
                same = d.down(ptr, N).tobytes() == want.tobytes()
                print(same, uuid_of(d, d.device.value).hex(), flush=True)
            case ["wait"]:  # for a value that only the next line brings
                d.ok("cuMemsetD32_v2", word, c.c_uint(0), c.c_size_t(1))
                d.sync()
                d.ok("cuStreamWaitValue32_v2", stream, word, c.c_uint32(1), c.c_uint(0))
                print("waits", flush=True)
            case ["go"]:
                go = d.stream()
                d.ok("cuStreamWriteValue32_v2", go, word, c.c_uint32(1), c.c_uint(0))
                d.ok("cuStreamSynchronize", stream)
                print("went", flush=True)
            case ["managed"]:
                d.ok("cuMemAllocManaged", c.byref(c.c_uint64()), c.c_size_t(N), c.c_uint(1))
                print("has", flush=True)
            case ["ipc"]:
                d.ok("cuIpcGetMemHandle", (c.c_ubyte * 64)(), ptr)
                print("has", flush=True)
            case ["self"]:
                me = os.getpid()
                d.ok("cuCheckpointProcessLock", me, None)
                d.ok("cuCheckpointProcessCheckpoint", me, None)
                d.ok("cuCheckpointProcessRestore", me, None)
                d.ok("cuCheckpointProcessUnlock", me, None)
                print("back", flush=True)


class Other:
    """That program, and calls about it."""

    def __init__(self, d: Driver) -> None:
        self.d = d
        self._ticks = os.memfd_create("ticks")
        self.process = subprocess.Popen(
            [sys.executable, "-B", __file__, "target", str(self._ticks)],
            pass_fds=[self._ticks],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.hears() == "ready"
        self.pid = self.process.pid

    def hears(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def told(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def does(self, line: str) -> str:
        self.told(line)
        return self.hears()

    def ticks(self) -> int:
        """How often its other thread has come by."""
        return int.from_bytes(os.pread(self._ticks, 8, 0), "little")

    def state(self) -> int:
        state = c.c_int(-1)
        self.d.ok("cuCheckpointProcessGetState", self.pid, c.byref(state))
        return state.value

    def lock(self, timeout_ms: int = 20_000) -> int:
        return self.d.call("cuCheckpointProcessLock", self.pid, c.byref(LockArgs(timeout_ms)))

    def restore(self, *pairs: tuple[bytes, bytes]) -> int:
        names = b"".join(old + new for old, new in pairs)
        buffer = c.create_string_buffer(names, len(names)) if pairs else None
        args = RestoreArgs(c.addressof(buffer) if buffer else None, len(pairs))
        return self.d.call("cuCheckpointProcessRestore", self.pid, c.byref(args))

    def put_away(self) -> None:
        assert self.lock() == 0
        self.d.ok("cuCheckpointProcessCheckpoint", self.pid, None)
        assert self.state() == CHECKPOINTED

    def unlock(self) -> None:
        self.d.ok("cuCheckpointProcessUnlock", self.pid, None)
        assert self.state() == RUNNING


@contextlib.contextmanager
def other(d: Driver) -> Iterator[Other]:
    one = Other(d)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.communicate()


def settled(d: Driver, least: int) -> bool:
    """As much is free; the dead count until they are torn down."""
    end = time.monotonic() + 20
    while d.free_bytes() < least and time.monotonic() < end:
        time.sleep(0.01)
    return d.free_bytes() >= least


@case(only=UNLIMITED, why=HARPS)
def states_follow_the_calls(d: Driver) -> None:
    with other(d) as one:
        steps = ("Checkpoint", "Restore", "Unlock", "Lock")
        order = {"Lock": LOCKED, "Checkpoint": CHECKPOINTED, "Restore": LOCKED, "Unlock": RUNNING}
        assert one.state() == RUNNING
        for right, after in order.items():
            fits = {right} | ({"Checkpoint", "Unlock"} if one.state() == LOCKED else set())
            for wrong in set(steps) - fits:
                d.fails(ILLEGAL_STATE, f"cuCheckpointProcess{wrong}", one.pid, None)
            d.ok(f"cuCheckpointProcess{right}", one.pid, None)
            assert one.state() == after, right
        assert one.does("same").startswith("True")


@case(only=UNLIMITED, why=HARPS)
def a_locked_program_waits_in_its_next_call_and_computes_on(d: Driver) -> None:
    with other(d) as one:
        one.does("add")
        assert one.lock() == 0
        one.told("add")
        for step in (
            lambda: 0,
            lambda: d.call("cuCheckpointProcessCheckpoint", one.pid, None),
            one.restore,
        ):
            assert step() == 0
            before, until_s = one.ticks(), time.monotonic() + 20
            while one.ticks() <= before + 30:  # its own thread goes on all the while
                assert time.monotonic() < until_s
                time.sleep(0.01)
            assert not select.select([one.process.stdout], [], [], 0)[0]  # the call does not
        one.unlock()
        assert one.hears() == "added"
        assert one.does("same").startswith("True")


@case(only=UNLIMITED, why=HARPS)
def a_lock_waits_for_what_was_submitted_and_gives_up_in_time(d: Driver) -> None:
    with other(d) as one:
        assert one.does("wait") == "waits"
        assert one.lock(200) == NOT_READY
        assert one.state() == RUNNING
        assert one.does("go") == "went"  # undone: its calls go on
        assert one.lock() == 0
        one.unlock()


@case(only=UNLIMITED, why=HARPS)
def a_checkpoint_gives_all_of_the_device_back(d: Driver) -> None:
    before, nvml = d.free_bytes(), Nvml(d)
    with other(d) as one:
        one.does("add")
        held = before - d.free_bytes()
        assert held >= N * 4
        assert one.pid in nvml.processes()
        one.put_away()
        assert one.pid not in nvml.processes()
        assert d.free_bytes() >= before - held // 100
        assert one.restore() == 0
        assert before - d.free_bytes() >= held * 99 // 100
        assert one.pid in nvml.processes()
        one.unlock()
        one.does("add")
        assert one.does("same").startswith("True")


@case(devices="tiny,tiny,tiny", only="soft", why=HARPS)
def a_restore_goes_to_other_devices(d: Driver) -> None:
    a, b, third = (uuid_of(d, i) for i in range(3))
    with other(d) as one:
        one.does("add")
        for wrong in (
            ((a, b),),  # not all that it sees
            ((a, b), (b, b), (third, third)),
            ((a, b), (b, a), (third, bytes(16))),
            ((a, b), (a, third), (b, a)),
        ):
            one.put_away()
            assert one.restore(*wrong) == INVALID_VALUE
            assert one.state() == CHECKPOINTED
            assert one.restore() == 0
            one.unlock()
        before = d.free_bytes()
        for names, at in (
            (((a, b), (b, a), (third, third)), b),
            (((b, third), (third, b), (a, a)), third),
        ):
            one.put_away()
            assert one.restore(*names) == 0
            one.unlock()
            one.does("add")
            assert one.does("same").split() == ["True", at.hex()]
        assert d.free_bytes() >= before + N * 4  # of the first


@case(devices="tiny,t4-16g", only="soft", why=HARPS)
def a_device_of_another_kind_takes_nothing(d: Driver) -> None:
    a, b = uuid_of(d, 0), uuid_of(d, 1)
    with other(d) as one:
        one.put_away()
        assert one.restore((a, b), (b, a)) == INVALID_VALUE
        assert one.restore((a, a), (b, b)) == 0
        one.unlock()


@case(devices="tiny", only="soft", why=SMALL)
def a_restore_that_finds_no_room_can_be_tried_again(d: Driver) -> None:
    with other(d) as one:
        one.does("add")
        one.put_away()
        ours = d.alloc(d.free_bytes())
        for _ in range(2):
            assert one.restore() == OUT_OF_MEMORY
            assert one.state() == CHECKPOINTED
        d.fails(ILLEGAL_STATE, "cuCheckpointProcessUnlock", one.pid, None)
        d.ok("cuMemFree_v2", ours)
        assert one.restore() == 0
        one.unlock()
        assert one.does("same").startswith("True")


@case(only=UNLIMITED, why=HARPS)
def managed_memory_is_not_put_away_and_the_program_goes_on(d: Driver) -> None:
    with other(d) as one:
        assert one.does("managed") == "has"
        assert one.lock() == 0
        d.fails(NOT_SUPPORTED, "cuCheckpointProcessCheckpoint", one.pid, None)
        assert one.state() == LOCKED
        one.unlock()
        one.does("add")
        assert one.does("same").startswith("True")


@case(only=UNLIMITED, why=HARPS)
def a_handle_that_nobody_opened_hinders_no_checkpoint(d: Driver) -> None:
    with other(d) as one:
        assert one.does("ipc") == "has"
        one.put_away()
        assert one.restore() == 0
        one.unlock()
        assert one.does("same").startswith("True")


@case(only="soft", why=MODELLED)
def a_host_without_room_fails_it(d: Driver) -> None:
    with other(d) as one:
        assert one.lock() == 0
        pages = Path(f"/proc/{one.pid}/statm").read_text().split()[0]
        size = int(pages) * os.sysconf("SC_PAGE_SIZE")
        resource.prlimit(one.pid, resource.RLIMIT_AS, (size + 65536, size + 65536))
        d.fails(OUT_OF_MEMORY, "cuCheckpointProcessCheckpoint", one.pid, None)
        assert one.state() == FAILED


@case(only=UNLIMITED, why=HARPS)
def who_can_be_asked(d: Driver) -> None:
    state, thread = c.c_int(-1), c.c_int(-1)
    for pid, code in ((0, INVALID_VALUE), (-1, INVALID_VALUE), (os.getppid(), NOT_INITIALIZED)):
        d.fails(code, "cuCheckpointProcessGetState", pid, c.byref(state))
    d.fails(INVALID_VALUE, "cuCheckpointProcessGetState", os.getpid(), None)
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    d.fails(OPERATING_SYSTEM, "cuCheckpointProcessGetState", ended.pid, c.byref(state))
    assert state.value == -1
    with other(d) as one:
        args = LockArgs(0, 1)
        d.fails(INVALID_VALUE, "cuCheckpointProcessLock", one.pid, c.byref(args))
        d.ok("cuCheckpointProcessGetRestoreThreadId", one.pid, c.byref(thread))
        assert Path(f"/proc/{one.pid}/task/{thread.value}").exists()
        assert one.does("self") == "back"


def killed_while_it_asks(pid: int) -> None:
    asks = f"import ctypes; exit(ctypes.CDLL('libcuda.so.1').cuCheckpointProcessLock({pid}, None))"
    asker = subprocess.Popen([sys.executable, "-c", asks])
    time.sleep(0.4)
    assert asker.poll() is None, asker.returncode
    asker.kill()
    asker.wait()


@case(only="soft", why="how long a driver takes to notice is its own")
def a_killed_asker_leaves_no_lock(d: Driver) -> None:
    with other(d) as one:
        assert one.does("wait") == "waits"
        killed_while_it_asks(one.pid)
        assert one.does("go") == "went"
        assert one.state() == RUNNING
        assert one.does("wait") == "waits"
        killed_while_it_asks(one.pid)
        assert one.lock(200) == NOT_READY  # not held up by what the dead one asked
        assert one.does("go") == "went"


def stop(pid: int) -> None:
    """Until every thread of it has stopped: the signal does not wait for that."""
    os.kill(pid, signal.SIGSTOP)
    stats = Path(f"/proc/{pid}/task").glob("*/stat")
    for stat in stats:
        while stat.read_text().rpartition(")")[2].split()[0] != "T":
            time.sleep(0.001)


@case(only="soft", why="how long a driver takes to notice is its own")
def a_killed_or_stopped_target_holds_nobody_up(d: Driver) -> None:
    before = d.free_bytes()
    for kill_in in ("locked", "away", "asked"):
        with other(d) as one:
            if kill_in == "locked":
                assert one.lock() == 0
            elif kill_in == "away":
                one.put_away()
            else:
                stop(one.pid)
                assert one.lock(200) == NOT_READY
                threading.Timer(0.3, one.process.kill).start()
                assert one.lock(0) == OPERATING_SYSTEM
        assert settled(d, before), kill_in


@case(only="local", why=HARPS)
def a_tenant_with_a_limit_is_refused(d: Driver) -> None:
    me, state = os.getpid(), c.c_int(-1)
    for step in ("Lock", "Checkpoint", "Restore", "Unlock"):
        d.fails(NOT_SUPPORTED, f"cuCheckpointProcess{step}", me, None)
    d.ok("cuCheckpointProcessGetState", me, c.byref(state))
    assert state.value == RUNNING


if __name__ == "__main__":
    if sys.argv[1] == "target":
        target(Driver())
    else:
        main()
