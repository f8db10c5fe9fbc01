# SPDX-License-Identifier: Apache-2.0
"""What libharp does with an arbiter's messages: a scripted arbiter, the fake driver."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from shim_script import UUID, Client, Script, client, program
from shim_world import MIB, compile_c

from harp.lease_wire import Msg, Op

BUSY = Path(__file__).with_name("shim_busy.c")
EPOCH = 7
QUANTUM_NS = 5_000_000


@pytest.fixture
def busy(native_dir: Path, tmp_path: Path) -> Iterator[Client]:
    """Kernels of 1 ms, as many as it may queue, for 20 s."""
    program = compile_c(BUSY, tmp_path / "busy")
    with client(native_dir, tmp_path, program, "deep", "1000", "20") as made:
        yield made


@pytest.fixture
def script(busy: Client) -> Script:
    busy.go()
    return busy.arbiter()


@pytest.mark.slow
def test_a_change_that_crossed_the_yield_opens_nothing(script: Script) -> None:
    script.until(Op.WANT_TIME)
    script.say(op=Op.OPEN_GATE, epoch=EPOCH)
    time.sleep(0.2)
    script.say(op=Op.CLOSE_GATE, epoch=EPOCH)
    script.until(Op.YIELD_TIME)
    script.say(op=Op.OPEN_GATE, epoch=EPOCH, a=1, window_ns=4_000_000)
    while (heard := script.hear(1.0)) is not None:
        assert heard.op == Op.WANT_TIME, "it launched into somebody else's turn"


def test_an_opening_of_the_same_epoch_opens(script: Script) -> None:
    """Several processes of a tenant share a turn: one may come back into it."""
    script.until(Op.WANT_TIME)
    for _ in range(3):
        script.say(op=Op.OPEN_GATE, epoch=EPOCH, quantum_ns=QUANTUM_NS)
        script.until(Op.YIELD_TIME)


def test_a_turns_end_is_announced_and_its_work_told_once(script: Script) -> None:
    script.until(Op.WANT_TIME)
    turns, epoch = 0, 0
    while turns < 19:  # at first it does not know how long its kernels are
        epoch += 1
        assert epoch < 100, "it announces no turn's end"
        opened, said = time.monotonic_ns(), None
        script.say(op=Op.OPEN_GATE, epoch=epoch, quantum_ns=QUANTUM_NS)
        while (over := script.hear(20)) is not None and over.op != Op.YIELD_TIME:
            if over.op == Op.USED_TIME and over.a == 1:
                assert said is None, "it is announced once"
                said, announced = over, time.monotonic_ns()
        yielded = time.monotonic_ns()
        assert over is not None
        assert over.epoch == epoch
        if said is None:  # it was not let run in time, or had nothing queued for a moment
            continue
        turns += 1
        assert said.epoch == epoch
        assert said.c == 1, "it has more to do"
        assert over.a == 1
        used = said.used_ns + over.used_ns
        assert 0 < used <= yielded - opened
        left_ns, took_ns, age_ns = said.window_ns, yielded - announced, over.age_ns
    assert left_ns > 0
    # What is left is said to the quarter of a kernel, were the machine not busy.
    assert abs(left_ns - took_ns) < 10_000_000
    assert age_ns < 10_000_000
    # Kernels of 1 ms one behind the other: as many as fit.
    assert used == pytest.approx(round(used / 1e6) * 1e6, rel=0.01)


def test_a_turn_is_renewed_while_it_drains(script: Script) -> None:
    """A queue may be as long as the turn: the new one is for what comes behind it."""
    script.until(Op.WANT_TIME)
    epoch, used, announced, renewed, asked = EPOCH, 0, 0, 0, False
    script.say(op=Op.OPEN_GATE, epoch=epoch, quantum_ns=QUANTUM_NS, window_ns=QUANTUM_NS)
    while renewed < 10:
        assert announced < 100, "it yields turns that have been renewed in time"
        heard = script.hear(20)
        assert heard is not None
        used += heard.used_ns
        if heard.op == Op.YIELD_TIME:  # we were not let run in time
            epoch, asked = epoch + 1, False
            script.say(op=Op.OPEN_GATE, epoch=epoch, quantum_ns=QUANTUM_NS, window_ns=QUANTUM_NS)
        elif heard.op == Op.USED_TIME and heard.a == 1:
            announced, renewed, asked = announced + 1, renewed + asked, True
            more = heard.window_ns + QUANTUM_NS
            script.say(op=Op.OPEN_GATE, epoch=epoch, a=1, quantum_ns=more, window_ns=QUANTUM_NS)
    over = script.until(Op.YIELD_TIME)
    assert used + over.used_ns > 9 * QUANTUM_NS / 2, "work of renewed turns is missing"


def kept(script: Script, epoch: int, s: float) -> bool:
    """Whether it keeps a turn for so long. On a busy machine it may have nothing queued for a
    moment, and give it away."""
    script.say(op=Op.OPEN_GATE, epoch=epoch, quantum_ns=2_000_000_000)
    end = time.monotonic() + s
    while (heard := script.hear(end - time.monotonic())) is not None:
        if heard.op == Op.YIELD_TIME:
            return False
        assert heard.a == 0
    return True


def test_a_closed_turn_is_not_announced(script: Script) -> None:
    """The arbiter knows: it closed it."""
    script.until(Op.WANT_TIME)
    epoch = next(epoch for epoch in range(EPOCH, EPOCH + 100) if kept(script, epoch, 0.1))
    script.say(op=Op.CLOSE_GATE, epoch=epoch)
    while (heard := script.hear(20)) is not None and heard.op != Op.YIELD_TIME:
        assert heard.a == 0
    assert heard is not None
    assert heard.used_ns > 50_000_000


@pytest.mark.slow
def test_when_it_was_done_is_known_though_nobody_looked(native_dir: Path, tmp_path: Path) -> None:
    """Stopped over the end of its turn, it says afterwards when that was."""
    turn_ns, stopped_s = 100_000_000, 0.3
    busy = compile_c(BUSY, tmp_path / "busy")
    with client(native_dir, tmp_path, busy, "deep", "5000", "60") as made:
        made.go()
        script = made.arbiter()
        script.until(Op.WANT_TIME)
        epoch = 1
        for turn in range(1, 4):
            script.say(op=Op.OPEN_GATE, epoch=epoch, quantum_ns=turn_ns)
            while (said := script.hear(20)) is not None and (said.op, said.a) != (Op.USED_TIME, 1):
                assert epoch < 100, "it announces no turn's end"
                if said.op == Op.YIELD_TIME:  # it was not let run in time to announce that
                    epoch += 1
                    script.say(op=Op.OPEN_GATE, epoch=epoch, quantum_ns=turn_ns)
            assert said is not None, "no USED_TIME"
            end = time.monotonic_ns() + said.window_ns
            if turn == 3:
                time.sleep(turn_ns / 2e9)
                made.process.send_signal(signal.SIGSTOP)
                time.sleep(stopped_s)
                made.process.send_signal(signal.SIGCONT)
            over = script.until(Op.YIELD_TIME, epoch=epoch)
            epoch += 1
        done = time.monotonic_ns() - over.age_ns
        assert over.age_ns > 0.5 * stopped_s * 1e9
        assert abs(done - end) < 20_000_000
        assert said.used_ns + over.used_ns == pytest.approx(turn_ns, rel=0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("in_front")
def test_alone_little_is_measured_and_called_an_estimate(native_dir: Path, tmp_path: Path) -> None:
    code = """
import time
end = time.monotonic() + 2
while time.monotonic() < end:
    for _ in range(10):
        launch(100)
    cuda.cuCtxSynchronize()
"""
    with client(native_dir, tmp_path, *program(code), FAKE_EVENTS=str(tmp_path / "events")) as made:
        script = made.arbiter(lanes=2)
        script.until(Op.WANT_TIME)
        script.say(op=Op.OPEN_GATE, epoch=EPOCH)
        opened = time.monotonic()
        reports = []
        while (heard := script.hear(5)) is not None and heard.op == Op.USED_TIME:
            reports.append(heard)
        wall_ns = (time.monotonic() - opened) * 1e9
        assert all(r.b == 1 for r in reports if r.used_ns)
        used = sum(r.used_ns for r in reports)
        assert 0.3 * wall_ns < used <= 1.01 * wall_ns
        assert made.process.wait(20) == 0
        events = int((tmp_path / "events").read_text())
        assert 20 < events <= 2 * 200 + 20, "more than a pair in 10 ms"


@pytest.mark.parametrize("lanes", [0, 1, 2])
def test_copies_have_a_lane_where_the_arbiter_has(
    native_dir: Path, tmp_path: Path, lanes: int
) -> None:
    with client(native_dir, tmp_path, *program("copy()\nprint('copied')")) as made:
        script = made.arbiter(lanes=lanes)
        want = script.until(Op.WANT_TIME)
        assert want.cls == (1 if lanes == 2 else 0)
        if lanes == 2:  # that lane, not the other, lets it go
            script.say(op=Op.OPEN_GATE, cls=0, epoch=1, quantum_ns=QUANTUM_NS)
            assert script.until(Op.YIELD_TIME, cls=0).used_ns == 0
        script.say(op=Op.OPEN_GATE, cls=want.cls, epoch=2, quantum_ns=QUANTUM_NS)
        assert script.until(Op.YIELD_TIME, cls=want.cls).used_ns > 0
        assert made.process.wait(20) == 0


@pytest.mark.slow
def test_a_bracket_holds_work_of_one_lane(native_dir: Path, tmp_path: Path) -> None:
    """On one stream by turns: 2 ms of kernels and 6 ms of copies, each charged to its lane."""
    code = """
while True:
    launch(100)
    launch(100)
    copy(600)
    launch(100)
    launch(100)
    copy(600)
    cuda.cuCtxSynchronize()
"""
    with client(native_dir, tmp_path, *program(code)) as made:
        script = made.arbiter(lanes=2)
        used, launches, epoch = [0, 0], [0, 0], 0
        end = time.monotonic() + 1.5
        while time.monotonic() < end:
            heard = script.hear(1)
            if heard is None:
                break
            used[heard.cls] += heard.used_ns
            launches[heard.cls] += heard.launches
            if heard.op == Op.WANT_TIME or (heard.op == Op.YIELD_TIME and heard.a == 1):
                epoch += 1
                # one launch a turn: first to last event is then that launch alone
                script.say(op=Op.OPEN_GATE, cls=heard.cls, epoch=epoch, quantum_ns=1)
        assert min(launches) > 20, launches
        each = [used[lane] / launches[lane] for lane in (0, 1)]
        assert each[0] == pytest.approx(100_000, rel=0.5), (each, launches)
        assert each[1] == pytest.approx(600_000, rel=0.3), (each, launches)


def slow_calls(log: Path) -> tuple[int, int]:
    """Launches, and those on the slow path, as libharp's last line says."""
    line = next(line for line in log.read_text().splitlines() if " calls " in f" {line}")
    words = dict(word.split("=") for word in line.split() if "=" in word)
    first = line.split("slow=")[1].split()[0]
    return int(words["launches"]), int(first)


@pytest.mark.slow
@pytest.mark.parametrize("others_open", [False, True], ids=["closed", "open"])
@pytest.mark.parametrize("stream", ["stream", "None"], ids=["own", "default"])
def test_idle_lanes_and_devices_cost_launches_nothing(
    native_dir: Path, tmp_path: Path, stream: str, *, others_open: bool
) -> None:
    """A lane that waits for its turn, and one that would measure, keep nobody off the fast path."""
    code = f"""
import threading, time
# another device, and another lane of this one, get no work but one piece that must wait
def elsewhere(dev):
    cuda.cuCtxSetCurrent(contexts[dev])
    copy(1, None)
for dev in (0, 1):
    threading.Thread(target=elsewhere, args=(dev,), daemon=True).start()
end = time.monotonic() + 2
while time.monotonic() < end:
    for _ in range(1000):
        launch(1, {stream})
"""
    with client(native_dir, tmp_path, *program(code, 2), FAKE_DEVICES="2") as made:
        script = made.arbiter(lanes=2, devices=2)
        while (heard := script.hear(5)) is not None:
            mine = (heard.dev, heard.cls) == (0, 0)
            if heard.op == Op.WANT_TIME and (mine or others_open):
                script.say(op=Op.OPEN_GATE, dev=heard.dev, cls=heard.cls, epoch=1)
        assert made.process.wait(20) == 0
        launches, slow = slow_calls(made.log)
        # once when the lane opens, and once for each sample, however fast the machine is
        assert slow < 500, (launches, slow)
        assert launches > 10 * 500


def test_launches_on_several_devices_have_a_fast_path(native_dir: Path, tmp_path: Path) -> None:
    """They waited for a row of their function, which only other launches give it."""
    code = """
class Params(C.Structure):
    _fields_ = [("function", C.c_char_p), ("grid", C.c_uint * 3), ("block", C.c_uint * 3),
                ("shared", C.c_uint), ("stream", C.c_void_p), ("params", C.c_void_p)]
one = Params(b"together", (1, 1, 1), (1, 1, 1), 0, stream, None)
for _ in range(5000):
    assert cuda.cuLaunchCooperativeKernelMultiDevice(C.byref(one), 1, 0) == 0
"""
    with client(native_dir, tmp_path, *program(code)) as made:
        script = made.arbiter()
        script.until(Op.WANT_TIME)
        script.say(op=Op.OPEN_GATE, epoch=EPOCH)
        assert made.process.wait(20) == 0
        launches, slow = slow_calls(made.log)
        assert launches == 5000
        assert slow < 500, slow  # once, and once for each sample


TOTAL = """
import ctypes as C
cuda, total = C.CDLL("libcuda.so.1"), C.c_size_t()
assert cuda.cuInit(0) == 0
assert cuda.cuDeviceTotalMem_v2(C.byref(total), 0) == 0
print(total.value >> 20)
"""


def test_an_arbiter_that_knows_no_looks_is_asked_in_earnest(
    native_dir: Path, tmp_path: Path
) -> None:
    with client(native_dir, tmp_path, sys.executable, "-c", TOTAL) as made:
        made.listener.settimeout(20)
        link, _ = made.listener.accept()
        with closing(link):
            hello = Msg.unpack(link.recv(4096))
            assert (hello.op, hello.b, hello.uuid) == (Op.HELLO, 2, UUID)
            link.send(Msg(op=Op.WELCOME, a=1, client=1).pack())
            assert link.recv(4096) == b""  # no answer to a look: it goes
        script = made.arbiter()
        asked = Msg.unpack(script.link.recv(4096))
        assert asked.op == Op.MEM_INFO
        script.say(
            op=Op.MEM_STATE,
            dev=asked.dev,
            seq=asked.seq,
            limit_bytes=48 * MIB,
            capacity_bytes=1024 * MIB,
        )
        assert made.process.stdout
        assert made.process.stdout.readline() == "48\n"


LEASES = """
import ctypes as C
cuda = C.CDLL("libcuda.so.1")
ctx, p = C.c_void_p(), C.c_uint64()
assert cuda.cuInit(0) == 0 and cuda.cuCtxCreate_v2(C.byref(ctx), 0, 0) == 0
while True:
    assert cuda.cuMemAlloc_v2(C.byref(p), C.c_size_t(4 << 20)) == 0
    assert cuda.cuMemFree_v2(p) == 0
    input()
"""


def test_who_waits_for_memory_may_read_that_a_turn_begins(native_dir: Path, tmp_path: Path) -> None:
    """Then the service thread, which ends the turn, learns of it."""
    with client(native_dir, tmp_path, sys.executable, "-c", LEASES) as made:
        script = made.arbiter()
        for epoch in range(1, 201):
            while (msg := Msg.unpack(script.link.recv(4096))).op != Op.LEASE_MEM:
                continue
            script.say(op=Op.OPEN_GATE, epoch=epoch, quantum_ns=QUANTUM_NS)
            script.until(Op.YIELD_TIME, epoch=epoch)
            script.say(op=Op.MEM_GRANT, seq=msg.seq, cls=msg.cls, amount_bytes=msg.amount_bytes)
            made.go()
