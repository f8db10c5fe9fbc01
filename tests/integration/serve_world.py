# SPDX-License-Identifier: Apache-2.0
"""`harp remote serve` on a private machine, and clients of it: leases, sessions, programs."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from link_session import Near, link_program
from machine import ROOT, Machine, machine
from uid_blocks import UidBlock

from harp import __version__
from harp.api.v1 import remote_pb2 as pb
from harp.api.v1.remote_pb2_grpc import RemoteStub
from harp.procs import all_procs
from harp.wire import CUDA, FORMAT, TABLE_HASH

__all__ = ["MIB", "TABLE", "Client", "Remote", "serving"]

HERE = Path(__file__).resolve().parent
MIB = 1 << 20
TABLE = pb.TableId(format=FORMAT, cuda=CUDA, hash=bytes.fromhex(TABLE_HASH), version=__version__)
TIMEOUT_S = 30


def below(pid: int) -> set[int]:
    """All that descend from a process."""
    procs, found = all_procs(), {pid}
    for proc in sorted(procs.values(), key=lambda p: (p.start, p.pid)):
        if proc.ppid in found:
            found.add(proc.pid)
    return found - {pid}


def exe(pid: int) -> str:
    """Its program's name; as the kernel has it where the process cannot be looked into."""
    proc = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError):
        try:
            return (proc / "exe").readlink().name
        except PermissionError:
            return (proc / "comm").read_text().strip()
    return ""


class Remote:
    """A node that serves."""

    def __init__(self, at: Machine, *options: str, **env: str) -> None:
        self.at = at
        link_program(at.native_dir)
        self.uids = UidBlock() if os.geteuid() == 0 and "--worker-uids" not in options else None
        users = ("--worker-uids", str(self.uids.range)) if self.uids else ()
        command = [sys.executable, "-m", "harp", "remote", "serve", "--json", *options, *users]
        self.log = at.base / f"serve-{len(list(at.base.glob('serve-*')))}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--data-port", "0"],
                env={**at.env, **env},
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        self.told: dict[str, Any] = json.loads(line)
        self.endpoint: str = self.told["endpoint"]
        self.clients: list[Client] = []

    def client(self, channel: grpc.Channel | None = None, **near: str) -> Client:
        made = Client(self, channel or grpc.insecure_channel(self.endpoint), near)
        self.clients.append(made)
        return made

    def workers(self) -> list[int]:
        """harp-worker processes below it."""
        return [pid for pid in below(self.process.pid) if exe(pid) == "harp-worker"]

    def events(self, name: str) -> list[dict[str, Any]]:
        whole, _, _ = self.log.read_text().rpartition("\n")  # it may be writing its next line
        lines = [x for x in whole.splitlines() if x.startswith("{")]
        return [e for e in map(json.loads, lines) if e["event"] == name]

    def leases(self) -> list[dict[str, Any]]:
        """As the command shows them."""
        told = self.at.json("remote", "sessions", "--insecure", "--node", self.endpoint)
        found: list[dict[str, Any]] = told["leases"]
        return found

    def stop(self) -> None:
        """In order; nothing of it may be left."""
        for client in self.clients:
            client.close()
        if self.process.poll() is None:
            mine = below(self.process.pid)
            self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(timeout=TIMEOUT_S) == 0, self.log.read_text()
            assert not [pid for pid in mine if exe(pid) in ("harp-link", "harp-worker")]
        assert self.process.stdout is not None
        self.process.stdout.close()
        if self.uids is not None:
            self.uids.close()


class Client:
    """Takes leases and runs programs under them."""

    def __init__(self, node: Remote, channel: grpc.Channel, near: dict[str, str]) -> None:
        self.node = node
        self.stub = RemoteStub(channel)
        self._channel = channel
        self._near_options = [word for k, v in near.items() for word in (f"--{k}", v)]
        self._nears: list[Near] = []
        self._programs: list[subprocess.Popen[str]] = []

    def lease(self, **values: Any) -> pb.LeaseReply:
        values.setdefault("ttl_s", 60)
        return self.stub.Lease(pb.LeaseRequest(**values), timeout=TIMEOUT_S)

    def attach(self, lease: pb.LeaseReply, **more: Any) -> pb.AttachReply:
        request = pb.AttachRequest(lease_id=lease.lease_id, table=TABLE, program="job.py")
        return self.stub.Attach(request, timeout=TIMEOUT_S, **more)

    def release(self, lease: pb.LeaseReply) -> pb.ReleaseReply:
        return self.stub.Release(pb.ReleaseRequest(lease_id=lease.lease_id), timeout=TIMEOUT_S)

    @contextlib.contextmanager
    def renewing(self, lease: pb.LeaseReply) -> Iterator[None]:
        """Meanwhile the lease is renewed often."""
        done = threading.Event()

        def renew() -> None:
            while not done.wait(0.3):
                self.stub.Renew(pb.RenewRequest(lease_id=lease.lease_id), timeout=TIMEOUT_S)

        thread = threading.Thread(target=renew)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def near(self, session: pb.AttachReply) -> Near:
        """What a program of the session connects to."""
        folder = self.node.at.base / f"near-{session.session_id}"
        folder.mkdir()
        (folder / "token").write_text(session.token)
        made = Near(
            self.node.at.native_dir,
            folder,
            session.endpoint,
            *("--token-file", str(folder / "token")),
            *self._near_options,
            session=session.session_id,
        )
        self._nears.append(made)
        return made

    def start(self, lease: pb.LeaseReply, program: str, *argv: str) -> subprocess.Popen[str]:
        """A program with a session of its own."""
        path = self.near(self.attach(lease)).path
        return self.start_at(path, program, *argv)

    def start_at(self, path: Path, program: str, *argv: str) -> subprocess.Popen[str]:
        """A program whose GPU is behind a socket."""
        native = self.node.at.native_dir
        plain = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "CUDA_"))}
        child = subprocess.Popen(
            [sys.executable, str(HERE / program), *argv],
            env={
                **plain,
                "HARP_REMOTE": str(path),
                "LD_PRELOAD": str(native / "libharp.so"),
                "LD_LIBRARY_PATH": str(self._library()),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._programs.append(child)
        return child

    def run(self, lease: pb.LeaseReply, program: str, *argv: str) -> str:
        """To its end; what it said."""
        child = self.start(lease, program, *argv)
        return child.communicate(timeout=120)[0]

    def holder(self, lease: pb.LeaseReply, mib: int, gpus: int = 1) -> subprocess.Popen[str]:
        """A program that holds so much until it is told to end."""
        child = self.start(lease, "gpu_program.py", str(mib), str(gpus))
        assert child.stdout is not None
        line = child.stdout.readline()
        assert line == "ready\n", line + self.node.log.read_text()
        return child

    def close(self) -> None:
        for child in self._programs:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        for near in self._nears:
            near.close()
        self._channel.close()

    def _library(self) -> Path:
        folder = self.node.at.base / "client-lib"
        folder.mkdir(exist_ok=True)
        for name in ("libcuda.so", "libcuda.so.1"):
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(self.node.at.native_dir / "libharp.so")
        return folder


@contextlib.contextmanager
def serving(native_dir: Path, *options: str, **env: str) -> Iterator[Remote]:
    """A machine that serves, in plaintext unless the options say otherwise."""
    with machine(native_dir, **env) as at:
        found = Remote(at, *(options or ("--insecure", "--listen", "127.0.0.1:0")))
        try:
            yield found
        finally:
            found.stop()
            if found.process.returncode == 0:
                # It was the root of all its tenants: they are gone with it.
                assert not [t for t in at.json("ps")["tenants"] if t["name"].startswith("remote-")]
                assert not list((at.base / "user" / "harp" / "remote").iterdir())
