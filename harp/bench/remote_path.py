# SPDX-License-Identifier: Apache-2.0
"""A GPU elsewhere, on this host: worker, links and rings, and the programs that go through them.

A host is half of the CPUs: program and near link on one, far link and worker on the other, and so
the two ends of a raw connection. Where there are no links, all is on one half, and the raw
connection that this is compared with, too.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import os
import secrets
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harp.errors import HarpError
from harp.native import NativeDir, find
from harp.remote.authority import init, issue
from harp.remote.certificate import Kind

__all__ = [
    "Counts",
    "Far",
    "Halves",
    "Host",
    "counts_of",
    "descendants",
    "far",
    "halves",
    "host",
    "near",
    "shm",
]

_SESSION = "bench"
_COUNTS = struct.Struct("<8Q")
_END_S = 10.0
_NOT_BUILT = "install libnghttp2-dev and libssl-dev, then deploy/bootstrap"


@dataclass(frozen=True, slots=True)
class Halves:
    """CPUs of either host."""

    near: tuple[int, ...]
    far: tuple[int, ...]

    def command(self, command: Sequence[str], *, far: bool = False) -> list[str]:
        """The command, on one half."""
        cpus = self.far if far else self.near
        return ["taskset", "-c", ",".join(map(str, cpus)), *command]


def halves() -> Halves:
    """Of the CPUs that this process may use; with one, both are that one."""
    cpus = sorted(os.sched_getaffinity(0))
    middle = len(cpus) // 2
    return Halves(tuple(cpus[:middle] or cpus), tuple(cpus[middle:]))


@dataclass(frozen=True, slots=True)
class Counts:
    """What counting.c has applied, in its order (native/bench/counting.h)."""

    syncs: int = 0
    launches: int = 0
    copied_bytes: int = 0
    sum: int = 0
    modules: int = 0
    module_bytes: int = 0
    allocations: int = 0
    frees: int = 0


def counts_of(path: Path) -> Counts:
    """Read them."""
    return Counts(*_COUNTS.unpack(path.read_bytes()))


@dataclass
class Host:
    """Files of both ends; gone afterwards."""

    native: NativeDir
    folder: Path
    cpus: Halves
    env: dict[str, str]  #: of this bench, without HARP's and CUDA's variables
    worker_env: dict[str, str] = field(default_factory=dict)  #: beside `env`
    driver: Path = Path()

    @property
    def counts(self) -> Path:
        """Where the counting driver counts."""
        return self.folder / "counts"

    @property
    def certificates(self) -> tuple[Path, Path, Path]:
        """The node's certificate and key, and the authority's certificate."""
        node = self.folder / "pool" / "node-localhost"
        return node / "tls.crt", node / "tls.key", node / "ca.crt"

    def settle(self) -> None:
        """Until the last program's session has ended: one at a time runs behind a session's name.

        Raises:
            HarpError: it does not end.
        """
        deadline_s = time.monotonic() + _END_S
        with (self.folder / "sessions" / _SESSION).open("rb") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() > deadline_s:
                        raise HarpError(f"a session did not end within {_END_S:g} s") from None
                    time.sleep(0.002)
                else:
                    return

    def clear(self) -> None:
        """Count from zero. Only where no worker runs."""
        self.counts.write_bytes(bytes(_COUNTS.size))

    def client_env(self, path: Path) -> dict[str, str]:
        """Of a program whose GPU is behind the socket."""
        return {**self.env, "HARP_REMOTE": str(path), "LD_LIBRARY_PATH": str(self.folder / "lib")}

    def link(self) -> str:
        """harp-link.

        Raises:
            HarpError: it is not built on this host.
        """
        program = self.native.optional("harp-link")
        if program is None:
            raise HarpError("harp-link is not built", _NOT_BUILT)
        return str(program)

    def worker(self) -> list[str]:
        """The worker's command, without its socket."""
        images = ["--images", str(self.folder / "images")]  # as `harp remote serve` has it a lease
        return [str(self.native.file("harp-worker")), "--driver", str(self.driver), *images]

    def whole_env(self) -> dict[str, str]:
        """The worker's environment."""
        return {**self.env, **self.worker_env, "HARP_BENCH_COUNTS": str(self.counts)}


@contextmanager
def host(
    base: Mapping[str, str], *, driver: Path | None = None, more: Mapping[str, str] | None = None
) -> Iterator[Host]:
    """Folders, certificates, a session's token.

    Args:
        base: environment to start from.
        driver: what workers open; None: the one that counts.
        more: of their environment.
    """
    native = find(base)
    env = {k: v for k, v in base.items() if not k.startswith(("HARP_", "LD_", "CUDA_"))}
    with tempfile.TemporaryDirectory(prefix="harp-bench-") as name:
        folder = Path(name)
        made = Host(native, folder, halves(), env, dict(more or {}))
        made.driver = driver or native.file("harp-bench-counting.so")
        made.clear()
        (folder / "lib").mkdir()
        for library in ("libcuda.so", "libcuda.so.1"):
            (folder / "lib" / library).symlink_to(native.libharp)
        token = secrets.token_hex(16)
        (folder / "token").write_text(f"{token}\n")
        (folder / "sessions").mkdir(mode=0o700)
        (folder / "images").mkdir(mode=0o700)
        (folder / "sessions" / _SESSION).write_text(f"{token}\n")
        now = dt.datetime.now(dt.UTC)
        init(folder / "pool", now)
        issue(folder / "pool", Kind.NODE, "localhost", hosts=["localhost"], now=now, days=1)
        yield made


@contextmanager
def _running(
    command: Sequence[str | Path], env: Mapping[str, str], log: Path
) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A program that says when it is ready; ended afterwards, and whatever it has started.

    Raises:
        HarpError: it ended instead.
    """
    with log.open("w") as err:
        process = subprocess.Popen(
            [str(part) for part in command],
            env=dict(env),
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        words = process.stdout.readline().split()
        process.stdout.close()
        if words[:1] != ["ready"]:
            raise HarpError(f"{log.stem} link: {log.read_text().strip()[-300:]}")
        yield process, words
    finally:
        # Its session is its own: what it has started is in it, and nobody else.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait(_END_S)


@dataclass(frozen=True, slots=True)
class Far:
    """The far link."""

    pid: int
    port: int

    def worker(self) -> int:
        """Pid of the one session's worker.

        Raises:
            HarpError: there is none.
        """
        for pid in descendants(self.pid):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/exe").readlink().name == "harp-worker":
                    return pid
        raise HarpError("the session has no worker")


def descendants(pid: int) -> list[int]:
    """Processes that it and they have started, and that still are."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, path.read_text().split()):
                found += [child, *descendants(child)]
    return found


@contextmanager
def far(
    at: Host, *, tls: bool, listen: str = "127.0.0.1", prefix: Sequence[str] = ()
) -> Iterator[Far]:
    """The far link, with a worker for each session.

    Args:
        at: whose.
        tls: with the node's certificate.
        listen: address.
        prefix: what starts it, such as `ip netns exec NAME`.
    """
    certificate, key, _ = at.certificates
    options = ["--cert", str(certificate), "--key", str(key)] if tls else []
    command = [at.link(), "far", "--listen", f"{listen}:0", *options]
    command += ["--sessions", str(at.folder / "sessions"), "--", *at.worker()]
    command = [*prefix, *at.cpus.command(command, far=True)]
    with _running(command, at.whole_env(), at.folder / "far.log") as (process, words):
        yield Far(process.pid, int(words[1]))


@contextmanager
def near(at: Host, address: str, *, tls: bool, prefix: Sequence[str] = ()) -> Iterator[Path]:
    """The near link of the far one at `address`; its socket, for programs."""
    path = at.folder / "near.sock"
    options = ["--ca", str(at.certificates[2]), "--name", "localhost"] if tls else []
    command = [at.link(), "near", "--socket", str(path), "--to", address, "--session", _SESSION]
    command = [
        *prefix,
        *at.cpus.command([*command, "--token-file", str(at.folder / "token"), *options]),
    ]
    with _running(command, at.env, at.folder / "near.log") as _:
        yield path


@contextmanager
def shm(at: Host) -> Iterator[Path]:
    """No links: a worker for each program that connects, on the same host as the program."""
    path = at.folder / "shm.sock"
    workers: list[subprocess.Popen[bytes]] = []
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(16)

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                command = at.cpus.command([*at.worker(), "--socket", str(connection.fileno())])
                workers.append(
                    subprocess.Popen(command, env=at.whole_env(), pass_fds=(connection.fileno(),))
                )

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield path
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
        for worker in workers:  # they end when their programs have
            worker.wait(_END_S)
        path.unlink(missing_ok=True)
