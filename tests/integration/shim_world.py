# SPDX-License-Identifier: Apache-2.0
"""A machine in a folder: harp-arbiter, one device, tenants; programs run under libharp in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from harp.lease_wire import Msg, Op

MIB = 1 << 20
GRANULE = 2 * MIB
HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def compile_c(source: Path, out: Path, *options: str, cc: str = "gcc") -> Path:
    """Build one C file; the test fails with the compiler's words."""
    command = [cc, "-O1", "-D_GNU_SOURCE", f"-I{ROOT / 'native'}", "-o", str(out), str(source)]
    command += options
    done = subprocess.run(
        [*command, "-ldl", "-lpthread"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out


def build_fake(folder: Path) -> Path:
    """The fake driver, under the name a driver has."""
    folder.mkdir(parents=True, exist_ok=True)
    return compile_c(
        ROOT / "tests" / "native" / "shim_fake_cuda.c",
        folder / "libcuda.so.1",
        "-shared",
        "-fPIC",
        "-Wl,-soname,libcuda.so.1",
        "-Wl,-Bsymbolic",
    )


class World:
    """One arbiter with one device or more; closed with everything that runs in it."""

    def __init__(
        self,
        native: Path,
        *,
        cuda: Path,
        nvml: Path | None = None,
        uuid: bytes = b"fake-device-0001",
        capacity: int = 4096 * MIB,
        overhead: int = 64 * MIB,
        more: Sequence[tuple[bytes, int]] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.native = native
        self.cuda = cuda
        self.nvml = nvml
        self.base = Path(tempfile.mkdtemp(prefix="harp-world-"))
        self.base.chmod(0o755)
        self._env = dict(env or {})
        #: what finds the software GPU; empty over the fake driver
        self.soft_env = dict(env or {})
        self._seq = 0
        self.device = 0
        self.uuid = uuid
        self.capacity = capacity
        self.overhead = overhead
        #: uuid and capacity of the devices besides the first
        self.more = tuple(more)
        self.devices: list[int] = []
        self.sockets: dict[str, socket.socket] = {}
        #: descriptors that the arbiter is told along with sockets
        self.pages: dict[str, int] = {}
        self.tenants: dict[str, int] = {}
        self.limits: dict[str, dict[str, int]] = {}
        self.started: list[subprocess.Popen[str]] = []
        shim = self.base / "shim"
        shim.mkdir()
        for source, name in (("libharp.so", "libcuda.so"), ("libharp-nvml.so", "libnvidia-ml.so")):
            shutil.copyfile(native / source, shim / f"{name}.1")
            (shim / f"{name}.1").chmod(0o755)
            (shim / name).symlink_to(f"{name}.1")
        self.shim = shim
        self.start_arbiter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self.stop_arbiter()
        for listening in self.sockets.values():
            listening.close()
        shutil.rmtree(self.base, ignore_errors=True)

    # --- the arbiter ---------------------------------------------------------------------------

    def start_arbiter(self) -> None:
        run = self.base / "run"
        run.mkdir(exist_ok=True)
        run.chmod(0o700)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_"))}
        env["HARP_LOCK_DIR"] = str(self.base)
        self.arbiter = subprocess.Popen(
            [self.native / "harp-arbiter", "--run", run, "--log", self.base / "arbiter.log"],
            env=env,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.arbiter.stdout is not None
        line = self.arbiter.stdout.readline()
        assert line.strip() == "ready", (line, (self.base / "arbiter.log").read_text())
        self.admin = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.admin.settimeout(5)
        self.admin.connect(str(run / "admin.sock"))
        self.devices = [
            self.ask(
                op=Op.ADD_DEVICE,
                uuid=uuid,
                capacity_bytes=capacity,
                overhead_bytes=self.overhead,
            )[-1].dev
            for uuid, capacity in ((self.uuid, self.capacity), *self.more)
        ]
        self.device = self.devices[0]
        for name, tenant in list(self.tenants.items()):
            self._announce(name, tenant)

    def stop_arbiter(self, sig: int = signal.SIGTERM) -> None:
        self.admin.close()
        if self.arbiter.poll() is None:
            self.arbiter.send_signal(sig)
        self.arbiter.wait(timeout=10)
        if self.arbiter.stdout is not None:
            self.arbiter.stdout.close()

    def ask(self, *, fds: Sequence[int] = (), **values: object) -> list[Msg]:
        """One question; everything up to its OK."""
        self._seq += 1
        packed = Msg(seq=self._seq, **values).pack()  # type: ignore[arg-type]
        socket.send_fds(self.admin, [packed], list(fds))
        answers: list[Msg] = []
        while True:
            answer = Msg.unpack(self.admin.recv(4096))
            assert answer.op != Op.ERR, answer
            if answer.seq == self._seq or answer.op not in (Op.EVENT_CLIENT, Op.EVENT_DENY):
                answers.append(answer)
            if answer.op == Op.OK and answer.seq == self._seq:
                return answers

    # --- tenants -------------------------------------------------------------------------------

    def _announce(self, name: str, tenant: int) -> None:
        answers = self.ask(
            op=Op.ADD_TENANT,
            tenant=tenant,
            uid=os.getuid(),
            text=name,
            fds=[self.sockets[name].fileno(), *([self.pages[name]] if name in self.pages else [])],
        )
        self.tenants[name] = answers[-1].tenant
        limits = self.limits[name]
        for device in self.devices:
            self.ask(op=Op.SET_TENANT, tenant=self.tenants[name], dev=device, **limits)

    def tenant(
        self, name: str, *, mem: int = 0, share_ppm: int = 0, limit_ppm: int = 0, flags: int = 0
    ) -> Path:
        """Make a tenant; returns its grant folder."""
        grant = self.base / "grants" / name
        grant.mkdir(parents=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listening.bind(str(grant / "arbiter.sock"))
        listening.listen(1024)
        self.sockets[name] = listening
        self.limits[name] = {"limit_bytes": mem, "b": share_ppm, "c": limit_ppm, "a": flags}
        self._announce(name, 0)
        return grant

    def set_tenant(self, name: str, **limits: int) -> None:
        self.limits[name].update(limits)
        for device in self.devices:
            self.ask(op=Op.SET_TENANT, tenant=self.tenants[name], dev=device, **self.limits[name])

    def usage(self, name: str) -> Msg:
        """The tenant's SNAP_USE of the first device."""
        return next(use for use in self.usages(name) if use.dev == self.device)

    def usages(self, name: str) -> list[Msg]:
        """The tenant's SNAP_USE of every device."""
        tenant = self.tenants[name]
        answers = self.ask(op=Op.SNAPSHOT)
        return [a for a in answers if a.op == Op.SNAP_USE and a.tenant == tenant]

    def clients(self) -> list[Msg]:
        return [a for a in self.ask(op=Op.SNAPSHOT) if a.op == Op.SNAP_CLIENT]

    # --- programs ------------------------------------------------------------------------------

    def bare_env(self) -> dict[str, str]:
        """What a program needs to find the driver without HARP."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "CUDA_"))}
        env |= self._env
        env["LD_LIBRARY_PATH"] = str(self.cuda.parent)
        return env

    def env(self, name: str, **more: str) -> dict[str, str]:
        """The environment of a tenant's process."""
        env = self.bare_env()
        env["HARP_GRANT"] = str(self.base / "grants" / name)
        env["HARP_CUDA_REAL"] = str(self.cuda)
        if self.nvml is not None:
            env["HARP_NVML_REAL"] = str(self.nvml)
        env["HARP_LOG"] = str(self.base / f"{name}.log")
        env["LD_PRELOAD"] = str(self.shim / "libcuda.so.1")
        env["LD_LIBRARY_PATH"] = str(self.shim)
        return env | more

    def log(self, name: str) -> str:
        path = self.base / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def start(self, name: str | None, *command: object, **more: str) -> subprocess.Popen[str]:
        """Start a program as a tenant (None: without HARP)."""
        process = subprocess.Popen(
            [str(c) for c in command],
            env=self.env(name, **more) if name is not None else self.bare_env() | more,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def run(self, name: str | None, *command: object, timeout: float = 60, **more: str) -> str:
        """Run a program to its end; its output. It must succeed."""
        process = self.start(name, *command, **more)
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"hung: {out}\n{err}\n{self.log(name or '')}") from None
        assert process.returncode == 0, (process.returncode, out, err, self.log(name or ""))
        return out

    def python(self, name: str | None, code: str, *args: object, **more: str) -> str:
        """Run Python code as a tenant."""
        return self.run(name, sys.executable, "-c", code, *args, **more)

    def children(self, pid: int) -> list[int]:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(word) for word in text.split()]

    def device_pids(self) -> list[int]:
        """Processes that the device's own (real, here: software) NVML lists."""
        return [int(w) for w in self.python(None, LIST_PIDS, str(self.nvml)).split()]


LIST_PIDS = """
import ctypes as C, sys
nvml = C.CDLL(sys.argv[1])
class Info(C.Structure):
    _fields_ = [("pid", C.c_uint), ("used", C.c_ulonglong), ("gi", C.c_uint), ("ci", C.c_uint)]
infos, count, handle = (Info * 1024)(), C.c_uint(1024), C.c_void_p()
assert nvml.nvmlInit_v2() == 0
assert nvml.nvmlDeviceGetHandleByIndex_v2(0, C.byref(handle)) == 0
assert nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle, C.byref(count), infos) == 0
print(*(infos[i].pid for i in range(count.value)))
"""

IDENTIFY = """
import ctypes as C, sys
cuda = C.CDLL(sys.argv[1])
uuid, total, count = (C.c_uint8 * 16)(), C.c_size_t(), C.c_int()
assert cuda.cuInit(0) == 0
assert cuda.cuDeviceGetCount(C.byref(count)) == 0
for device in range(count.value):
    assert cuda.cuDeviceGetUuid_v2(uuid, device) == 0
    assert cuda.cuDeviceTotalMem_v2(C.byref(total), device) == 0
    print(bytes(uuid).hex(), total.value)
"""


@contextlib.contextmanager
def soft_world(native: Path, *, devices: str = "tiny", overhead: int = 64 * MIB) -> Iterator[World]:
    """A world whose devices are a private software GPU's, readable by every user."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="harp-test-", dir=base) as state:
        Path(state).chmod(0o777)
        folder = Path(state) / "lib"
        shutil.copytree(native / "soft", folder)
        if (native / "harp-ptxc").exists():
            shutil.copy(native / "harp-ptxc", folder)
        folder.chmod(0o755)
        soft = Path(state) / "gpu"
        soft.mkdir()
        soft.chmod(0o777)
        env = {"HARP_SOFT_DIR": str(soft), "HARP_SOFT_DEVICES": devices}
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_"))}
        told = subprocess.run(
            [sys.executable, "-c", IDENTIFY, folder / "libcuda.so.1"],
            env=clean | env,
            capture_output=True,
            text=True,
            check=True,
        )
        words = [line.split() for line in told.stdout.splitlines()]
        found = [(bytes.fromhex(uuid), int(total)) for uuid, total in words]
        with World(
            native,
            cuda=folder / "libcuda.so.1",
            nvml=folder / "libnvidia-ml.so.1",
            uuid=found[0][0],
            capacity=found[0][1],
            more=found[1:],
            overhead=overhead,
            env=env,
        ) as world:
            yield world
