# SPDX-License-Identifier: Apache-2.0
"""What libharp does with an arbiter's messages: a scripted arbiter, the fake driver."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from shim_world import MIB, build_fake, compile_c

from harp.lease_wire import Msg, Op

BUSY = Path(__file__).with_name("shim_busy.c")
UUID = b"fake-device-0001"
EPOCH = 7


class Script:
    """The arbiter's end of one client's connection; grants all memory."""

    def __init__(self, listener: socket.socket) -> None:
        listener.settimeout(20)
        self.link, _ = listener.accept()
        assert Msg.unpack(self.link.recv(4096)).op == Op.HELLO
        self.say(op=Op.WELCOME, a=1, client=1, text="t")
        self.say(
            op=Op.DEVICE, uuid=UUID, limit_bytes=64 * MIB, capacity_bytes=1024 * MIB, b=500_000
        )

    def say(self, **fields: object) -> None:
        self.link.send(Msg(**fields).pack())  # type: ignore[arg-type]

    def hear(self, timeout_s: float) -> Op | None:
        """The next message that is not about memory; None: none in time."""
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            self.link.settimeout(left)
            try:
                msg = Msg.unpack(self.link.recv(4096))
            except TimeoutError:
                return None
            if msg.op != Op.LEASE_MEM:
                return Op(msg.op)
            self.say(op=Op.MEM_GRANT, seq=msg.seq, cls=msg.cls, amount_bytes=msg.amount_bytes)
        return None

    def until(self, op: Op) -> None:
        """Reads on until `op`."""
        while (heard := self.hear(20)) != op:
            assert heard is not None, f"no {op.name}"


@pytest.fixture
def script(native_dir: Path, tmp_path: Path) -> Iterator[Script]:
    shim, grant = tmp_path / "shim", tmp_path / "grant"
    shim.mkdir()
    grant.mkdir()
    (shim / "libcuda.so.1").symlink_to(native_dir / "libharp.so")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "CUDA_"))}
    env |= {
        "LD_PRELOAD": str(shim / "libcuda.so.1"),
        "HARP_GRANT": str(grant),
        "HARP_CUDA_REAL": str(build_fake(tmp_path / "fake")),
        "HARP_LOG": str(tmp_path / "log"),
        "FAKE_DRIVER": "1",
    }
    command = [compile_c(BUSY, tmp_path / "busy"), "deep", "1000", "20"]
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as listener:
        listener.bind(str(grant / "arbiter.sock"))
        listener.listen(1)
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            made = Script(listener)
            assert process.stdin
            process.stdin.write("go\n")
            process.stdin.flush()
            yield made
            made.link.close()
        finally:
            process.kill()
            process.communicate()


def test_a_change_that_crossed_the_yield_opens_nothing(script: Script) -> None:
    script.until(Op.WANT_TIME)
    script.say(op=Op.OPEN_GATE, epoch=EPOCH)
    time.sleep(0.2)
    script.say(op=Op.CLOSE_GATE, epoch=EPOCH)
    script.until(Op.YIELD_TIME)
    script.say(op=Op.OPEN_GATE, epoch=EPOCH, a=1, window_ns=4_000_000)
    while (heard := script.hear(1.0)) is not None:
        assert heard == Op.WANT_TIME, "it launched into somebody else's turn"


def test_an_opening_of_the_same_epoch_opens(script: Script) -> None:
    """Several processes of a tenant share a turn: one may come back into it."""
    script.until(Op.WANT_TIME)
    for _ in range(3):
        script.say(op=Op.OPEN_GATE, epoch=EPOCH, quantum_ns=5_000_000)
        script.until(Op.YIELD_TIME)
