# SPDX-License-Identifier: Apache-2.0
"""The run folder, network namespaces and processes of the rig, and how they go away."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, TypeVar

from rig import cgroups

__all__ = ["NET", "RUN", "Machine", "connect", "inside", "sh", "wait_for"]

_Said = TypeVar("_Said")

#: everything of the rig's is in here, or is a network namespace or bridge of this name
NET = "hk"
RUN = Path("/tmp/harp-kube")
#: etcd and containers write through to the disk; in memory that costs nothing
_IN_MEMORY = Path("/dev/shm")
_MEMORY_LEAST_BYTES = 6 << 30
_NETNS = Path("/run/netns")
_CLONE_NEWNET = 0x40000000


def sh(*command: str | Path, **more: object) -> str:
    """Run a command; what it said. What it said on stderr is in the error."""
    done = subprocess.run(
        list(map(str, command)), check=False, capture_output=True, text=True, **more
    )
    if done.returncode:
        said = (done.stderr or done.stdout)[-2000:]
        raise RuntimeError(f"{' '.join(map(str, command))}: {done.returncode}: {said}")
    return done.stdout


def wait_for(
    what: str, look: Callable[[], _Said], *, limit_s: float = 60, pause_s: float = 0.1
) -> _Said:
    """What `look` says once that is true.

    Raises:
        TimeoutError: it was not within `limit_s`; a bound against hanging, not a measure.
    """
    deadline = time.monotonic() + limit_s
    while True:
        if said := look():
            return said
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {limit_s} s: {what}")
        time.sleep(pause_s)


def connect(netns: str, host: str, port: int, timeout_s: float = 10) -> socket.socket:
    """A connection made in a network namespace."""
    return inside(netns, lambda: socket.create_connection((host, port), timeout=timeout_s))


def inside(netns: str, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket made in a network namespace: it stays in the one it was made in."""
    result: list[socket.socket | BaseException] = []

    def enter() -> None:
        try:
            with (_NETNS / netns).open() as space:
                if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"setns to {netns}")  # noqa: TRY301
            result.append(make())
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            result.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


class Machine:
    """Holds the run folder: one rig at a time. What an earlier one left is taken away first."""

    def __init__(self) -> None:
        self._lock: IO[str] = Path(f"{RUN}.lock").open("w")  # noqa: SIM115 - held
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(f"another rig runs on this machine: it holds {RUN}.lock") from error
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.clear()
        RUN.mkdir(mode=0o700)
        for folder in ("log", "etcd"):
            (RUN / folder).mkdir(mode=0o700)
        self.space = self._space()
        cgroups.make("rig")

    @staticmethod
    def _space() -> Path:
        """Folder for what is large and written often."""
        if _IN_MEMORY.is_dir() and shutil.disk_usage(_IN_MEMORY).free > _MEMORY_LEAST_BYTES:
            folder = _IN_MEMORY / RUN.name
            folder.mkdir(mode=0o700)
            return folder
        return RUN

    def network(self, names: Sequence[str], addresses: Mapping[str, Sequence[str]]) -> None:
        """Network namespaces, the first with a bridge that the others are on.

        Args:
            names: of them.
            addresses: {name: of its bridge or its interface}.
        """
        first, *others = names
        for name in names:
            sh("ip", "netns", "add", name)
            sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "-n", first, "link", "add", "br0", "type", "bridge")
        for other in others:
            peer = ["type", "veth", "peer", "name", "eth0", "netns", other]
            sh("ip", "link", "add", f"v-{other}", "netns", first, *peer)
            sh("ip", "-n", first, "link", "set", f"v-{other}", "master", "br0", "up")
        for name in names:
            device = "br0" if name == first else "eth0"
            for address in addresses[name]:
                sh("ip", "-n", name, "addr", "add", address, "dev", device)
            sh("ip", "-n", name, "link", "set", device, "up")
            forward = "echo 1 >/proc/sys/net/ipv4/ip_forward"
            sh("nsenter", f"--net={_NETNS / name}", "sh", "-c", forward)

    def borrow(self, path: Path) -> None:
        """A folder to mount something on; what is made for that goes when the rig goes."""
        new = [one for one in (path, *path.parents) if not one.exists()]
        path.mkdir(parents=True, exist_ok=True)
        with (RUN / "borrowed").open("a") as record:
            record.writelines(f"{one}\n" for one in new)

    def start(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        netns: str,
        mounts_of: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start one of the rig's processes; its log is RUN/log/NAME.

        Args:
            name: of it.
            command: what it is.
            netns: where its network is.
            mounts_of: a process whose mounts it sees; None: ours.
            env: in addition to ours, without what is HARP's.
        """
        enter = ["nsenter", f"--net={_NETNS / netns}"]
        if mounts_of is not None:
            enter += [f"--mount=/proc/{mounts_of}/ns/mnt"]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "CUDA_"))}
        with (RUN / "log" / name).open("ab") as log:
            child = subprocess.Popen(
                [*cgroups.spawn_prefix(), *enter, *map(str, command)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**clean, **(env or {})},
                start_new_session=True,
            )
        self.processes[name] = child
        return child

    def stop(self, name: str, *, kill: bool = False, limit_s: float = 20) -> None:
        """End one of them and wait for that."""
        child = self.processes.pop(name)
        if kill:
            child.kill()
        else:
            child.terminate()
        child.wait(limit_s)

    def log(self, name: str, chars: int = 3000) -> str:
        """The end of a process's log."""
        path = RUN / "log" / name
        return path.read_text(errors="replace")[-chars:] if path.exists() else ""

    def alive(self) -> None:
        """Raises:
        RuntimeError: a process of the rig has ended by itself.
        """
        for name, child in list(self.processes.items()):  # others start more meanwhile
            if child.poll() is not None:
                raise RuntimeError(f"{name} ended with {child.returncode}: {self.log(name)}")

    def clear(self) -> None:
        """Take away everything of the rig's: processes, groups, namespaces, folders."""
        cgroups.end_all()
        for child in self.processes.values():
            child.wait()
        self.processes.clear()
        if _NETNS.is_dir():
            for path in sorted(_NETNS.iterdir()):
                if path.name == NET or path.name.startswith(f"{NET}-"):
                    sh("ip", "netns", "del", path.name)
        if (RUN / "borrowed").exists():
            for line in (RUN / "borrowed").read_text().splitlines():
                with contextlib.suppress(OSError):  # somebody else uses it now
                    Path(line).rmdir()
        for folder in (RUN, _IN_MEMORY / RUN.name):
            shutil.rmtree(folder, ignore_errors=True)
            if folder.exists():
                shutil.rmtree(folder)

    def close(self) -> None:
        """The same, and let others have a rig."""
        try:
            self.clear()
        finally:
            with contextlib.suppress(OSError):
                self._lock.close()
