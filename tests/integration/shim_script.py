# SPDX-License-Identifier: Apache-2.0
"""A scripted arbiter before a program under libharp, over the fake driver."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from shim_world import MIB, build_fake

from harp.lease_wire import Msg, Op

__all__ = ["UUID", "Client", "Script", "client", "program"]

UUID = b"fake-device-0001"


class Script:
    """The arbiter's end of one client's connection; grants all memory."""

    def __init__(
        self, listener: socket.socket, *, lanes: int = 0, devices: int = 1, classes: int = 0
    ) -> None:
        listener.settimeout(20)
        self.link, _ = listener.accept()
        assert Msg.unpack(self.link.recv(4096)).op == Op.HELLO
        self.say(op=Op.WELCOME, a=devices, b=lanes, c=classes, client=1, text="t")
        for dev in range(devices):
            uuid = UUID[:-1] + str(dev + 1).encode()
            self.say(
                op=Op.DEVICE,
                dev=dev,
                uuid=uuid,
                limit_bytes=64 * MIB,
                capacity_bytes=1024 * MIB,
                b=500_000,
            )

    def say(self, **fields: object) -> None:
        self.link.send(Msg(**fields).pack())  # type: ignore[arg-type]

    def hear(self, timeout_s: float) -> Msg | None:
        """The next message that is not about memory; None: none in time."""
        end = time.monotonic() + timeout_s
        while (left := end - time.monotonic()) > 0:
            self.link.settimeout(left)
            try:
                packed = self.link.recv(4096)
            except TimeoutError:
                return None
            if not packed:
                return None  # it has ended
            msg = Msg.unpack(packed)
            if msg.op == Op.LEASE_MEM:
                self.say(op=Op.MEM_GRANT, seq=msg.seq, cls=msg.cls, amount_bytes=msg.amount_bytes)
            elif msg.op not in (Op.RETURN_MEM, Op.MEM_INFO):
                return msg
        return None

    def lease(self, cls: int) -> int:
        """Grants memory until some of that class is asked for; how much of it."""
        while True:
            msg = Msg.unpack(self.link.recv(4096))
            if msg.op == Op.LEASE_MEM:
                self.say(op=Op.MEM_GRANT, seq=msg.seq, cls=msg.cls, amount_bytes=msg.amount_bytes)
                if msg.cls == cls:
                    return msg.amount_bytes

    def until(self, op: Op, **fields: int) -> Msg:
        """Reads on until `op` with these values."""
        end = time.monotonic() + 20  # a client that wants says so again each second
        while True:
            heard = self.hear(end - time.monotonic())
            assert heard is not None, f"no {op.name}"
            if heard.op == op and all(getattr(heard, k) == v for k, v in fields.items()):
                return heard


@dataclass
class Client:
    """A program under libharp, over the fake driver, before a scripted arbiter."""

    process: subprocess.Popen[str]
    listener: socket.socket
    log: Path
    scripts: list[Script] = field(default_factory=list)

    def arbiter(self, *, lanes: int = 0, devices: int = 1, classes: int = 0) -> Script:
        """Takes its next connection."""
        self.scripts.append(Script(self.listener, lanes=lanes, devices=devices, classes=classes))
        return self.scripts[-1]

    def go(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()


@contextmanager
def client(native_dir: Path, folder: Path, *command: object, **more: str) -> Iterator[Client]:
    """Starts `command`; killed at the end."""
    shim, grant = folder / "shim", folder / "grant"
    shim.mkdir()
    grant.mkdir()
    (shim / "libcuda.so.1").symlink_to(native_dir / "libharp.so")
    env = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "CUDA_"))}
    env |= {
        "LD_PRELOAD": str(shim / "libcuda.so.1"),
        "HARP_GRANT": str(grant),
        "HARP_CUDA_REAL": str(build_fake(folder / "fake")),
        "HARP_LOG": str(folder / "log"),
        "FAKE_DRIVER": "1",
        **more,
    }
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) as listener:
        listener.bind(str(grant / "arbiter.sock"))
        listener.listen(1)
        process = subprocess.Popen(
            [str(part) for part in command],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        made = Client(process, listener, folder / "log")
        try:
            yield made
        finally:
            for script in made.scripts:
                script.link.close()
            process.kill()
            process.communicate()


#: launch(us) and copy(kib), on the first device
COPIES = """
import ctypes as C
cuda = C.CDLL("libcuda.so.1")
contexts = []
assert cuda.cuInit(0) == 0
stream = C.c_void_p()
for dev in range(DEVICES):
    contexts.append(C.c_void_p())
    assert cuda.cuCtxCreate_v2(C.byref(contexts[-1]), 0, dev) == 0
assert cuda.cuCtxSetCurrent(contexts[0]) == 0
assert cuda.cuStreamCreate(C.byref(stream), 1) == 0
buffer = C.create_string_buffer(1 << 20)
def launch(us=100, stream=stream):
    assert cuda.cuLaunchKernel(None, us, 1, 1, 1, 1, 1, 0, stream, None, None) == 0
def copy(kib=100, stream=stream):
    assert cuda.cuMemcpyHtoDAsync_v2(1 << 40, buffer, C.c_size_t(kib << 10), stream) == 0
"""


def program(code: str, devices: int = 1) -> tuple[str, str, str]:
    """What runs `code` after the calls above are there, in a context on each device."""
    return sys.executable, "-c", COPIES.replace("DEVICES", str(devices)) + code
