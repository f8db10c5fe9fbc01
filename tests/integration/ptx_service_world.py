# SPDX-License-Identifier: Apache-2.0
"""The compiler's service in a folder of its own, and its protocol spoken by hand."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.integration.machine import ROOT, wait_for

#: native/soft/ptxc/service.h
MAGIC, VERSION, ABI, BUSY = 0x43545048, 1, 3, 8
REQUEST, REPLY = struct.Struct("<IIIIQII"), struct.Struct("<IIIIQ")
PIECE = 64 << 10
SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
HEAD = ".version 8.0\n.target sm_70\n.address_size 64\n"


def kernel(name: str, value: int) -> str:
    """A kernel that writes a number to where its parameter says."""
    return (
        f".visible .entry {name}(.param .u64 at)\n{{\n.reg .b64 %d;\nld.param.u64 %d, [at];\n"
        f"st.global.u32 [%d], {value};\nret;\n}}\n"
    )


@dataclass(frozen=True)
class Answer:
    """What the service said."""

    status: int
    why: str
    thing: bytes


class Service:
    """`python -m harp.softgpu compiler`; ended with what it started."""

    def __init__(
        self,
        base: Path,
        native: Path,
        *options: str,
        env: Mapping[str, str] | None = None,
        socket_path: Path | None = None,
    ) -> None:
        self.socket = socket_path or base / "served" / "sock"
        self.cache = base / "cache"
        self.log = base / "service.log"
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_"))}
        command = [sys.executable, "-m", "harp.softgpu", "compiler"]
        command += ["--socket", str(self.socket), "--cache", str(self.cache), *options]
        before = self.text().count("serving")
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command,
                env={**outside, "PYTHONPATH": str(ROOT), "HARP_NATIVE_DIR": str(native)}
                | dict(env or {}),
                stdout=log,
                stderr=log,
            )
        wait_for(
            lambda: self.text().count("serving") > before or self.process.poll() is not None,
            "the service listens or ends",
        )

    def text(self) -> str:
        """Its log."""
        return self.log.read_text() if self.log.exists() else ""

    def connect(self) -> socket.socket:
        """A connection, with patience."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.settimeout(60)
        sock.connect(str(self.socket))
        return sock

    def ask(self, text: str, name: str) -> Answer:
        """Have a kernel compiled."""
        with self.connect() as sock:
            send(sock, text.encode(), name)
            return read(sock)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status."""
        self.process.send_signal(number)
        return self.process.wait(20)


@contextlib.contextmanager
def service(
    base: Path,
    native: Path,
    *options: str,
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Iterator[Service]:
    """A service that serves; `folder`: where other users can reach it."""
    at = None
    if folder is not None:
        folder.chmod(0o755)
        at = folder / "sock"
    one = Service(base, native, *options, env=env, socket_path=at)
    try:
        assert one.process.poll() is None, one.text()
        yield one
    finally:
        if one.process.poll() is None:
            one.end()


def sealed(text: bytes, seals: int = SEALS) -> int:
    """A memory file; its position is at its end."""
    fd = os.memfd_create("text", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, text)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def send(
    sock: socket.socket,
    text: bytes,
    name: str,
    *,
    fds: Sequence[int] | None = None,
    text_bytes: int | None = None,
    abi: int = ABI,
    version: int = VERSION,
) -> None:
    """A request; what it lacks or says wrongly is the caller's wish."""
    own = [] if fds is not None else [sealed(text)]
    count = len(text) if text_bytes is None else text_bytes
    head = REQUEST.pack(MAGIC, version, abi, 90, count, len(name.encode()), 0)
    try:
        socket.send_fds(sock, [head + name.encode()], own if fds is None else fds)
    finally:
        for fd in own:
            os.close(fd)


def read(sock: socket.socket) -> Answer:
    """An answer with all its pieces."""
    message = sock.recv(4096)
    assert message, "the service hung up"
    magic, version, status, why_bytes, size = REPLY.unpack(message[: REPLY.size])
    assert (magic, version) == (MAGIC, VERSION)
    assert len(message) == REPLY.size + why_bytes
    thing = b""
    while len(thing) < size:
        piece = sock.recv(PIECE)
        assert piece, "the end is missing"
        thing += piece
    # A refusal may name a byte that is no text.
    return Answer(status, message[REPLY.size :].decode(errors="replace"), thing)


def ended(pid: str) -> bool:
    """Whether it runs no more; a parent may be slow to hear of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
