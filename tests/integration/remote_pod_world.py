# SPDX-License-Identifier: Apache-2.0
"""A pool on the software GPU, and a node without one: `harp remote keep`, the plugin, containers.

Kubelet alone is a fake. The keeper has PIDs of its own, as in a pod; a container has its mounts,
its environment and its user. Whether a runtime does the same is for tests/kube.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from machine import ROOT, Machine, machine, wait_for
from plugin_world import FakeApi
from serve_world import Remote, below, exe

from device_plugin.book import Book
from device_plugin.checkpoint import load
from device_plugin.fake_kubelet import Ask, FakeKubelet
from device_plugin.identity import Container, Pod
from device_plugin.kubelet import PodResources
from device_plugin.plugin import Tempo
from device_plugin.proto import deviceplugin_pb2 as pb
from device_plugin.remote_keeper import Keeper
from device_plugin.remote_plugin import RemotePlugin, RemoteSettings
from device_plugin.starts import Patience
from harp.inject import shim_dir
from harp.keep_wire import Held
from harp.native import NativeDir
from harp.procs import all_procs
from harp.remote import authority
from harp.remote.certificate import Kind

__all__ = ["Elsewhere", "PodNode", "elsewhere", "pod_node"]

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 30
DAY = dt.timedelta(days=1)


class Elsewhere:
    """The pool: one machine that serves, with certificates; and the client's folder."""

    def __init__(self, at: Machine, service: str = "") -> None:
        self.at, self.service = at, service
        base = at.base / "pool"
        now = dt.datetime.now(dt.UTC)
        authority.init(base, now - 2 * DAY)
        authority.issue(base, Kind.NODE, "n1", hosts=[service or "127.0.0.1"], now=now)
        authority.issue(base, Kind.CLIENT, "kubernetes", hosts=[], now=now)
        self.base = base
        self.node, self.client = base / "node-n1", base / "client-kubernetes"
        self.served = Remote(at, *self._options("127.0.0.1:0"))
        self.endpoint = self.served.endpoint

    def _options(self, where: str) -> tuple[str, ...]:
        plain = ("--dir", str(self.node), "--listen", where, "--admin", "kubernetes")
        return (*plain, "--name", "127.0.0.1", "--id", "gpu-1") if self.service else plain

    def start(self) -> None:
        self.served = Remote(self.at, *self._options(self.endpoint))

    def stop(self) -> None:
        self.served.stop()

    def another_authority(self) -> None:
        """The pool is made anew, and the client still has its folder of before."""
        base, now = self.at.base / "other", dt.datetime.now(dt.UTC)
        authority.init(base, now)
        authority.issue(base, Kind.NODE, "n1", hosts=["127.0.0.1"], now=now)
        authority.issue(base, Kind.CLIENT, "kubernetes", hosts=[], now=now)
        self.stop()
        self.node = base / "node-n1"
        self.start()

    def short_client(self, seconds: float) -> Path:
        """A client whose certificate runs out so soon."""
        began = dt.datetime.now(dt.UTC) - DAY + dt.timedelta(seconds=seconds)
        authority.issue(self.base, Kind.CLIENT, "short", hosts=[], now=began, days=1)
        return self.base / "client-short"

    def renew(self, client: Path, source: Path) -> None:
        """Put another client in the place of one, as a Secret's files are renewed."""
        for name in ("ca.crt", "tls.crt", "tls.key"):
            fresh = client / f".{name}"
            shutil.copy2(source / name, fresh)
            fresh.replace(client / name)

    def leases(self) -> list[dict[str, Any]]:
        """As an administrator sees them."""
        asked = ("--node", self.endpoint, "--dir", str(self.client))
        told = self.at.json("remote", "sessions", *asked)
        found: list[dict[str, Any]] = told["leases"]
        return found


@contextlib.contextmanager
def elsewhere(native_dir: Path, *, service: str = "", **extra: str) -> Iterator[Elsewhere]:
    """service: a name that is all nodes', and their one certificate's."""
    with machine(native_dir, **extra) as at:
        found = Elsewhere(at, service)
        try:
            yield found
        finally:
            found.stop()


class PodNode:
    """The node without a GPU."""

    def __init__(self, native: Path, pool: Elsewhere, **settings: Any) -> None:
        keep = ("HARP_", "LD_", "CUDA_", "XDG_", "GRPC_")
        self.base = Path(tempfile.mkdtemp(prefix="hp-"))  # short: sockets lie in it
        self.env = {k: v for k, v in os.environ.items() if not k.startswith(keep)}
        self.env |= {"HARP_NATIVE_DIR": str(native), "PYTHONPATH": str(ROOT)}
        self.pool = pool
        self.native = NativeDir(native)
        self.settings = RemoteSettings(
            kubelet_dir=self.base / "k",
            state_dir=self.base / "s",
            run_dir=self.base / "r",
            node="n1",
            library_dirs=("/opt/lib",),
            **settings,
        )
        self.kubelet = FakeKubelet(self.settings.kubelet_dir, self.settings.resource)
        self.api = FakeApi()
        self.keeper_log = self.base / "keeper.log"
        self.keeper: subprocess.Popen[str] | None = None
        self.plugin: RemotePlugin | None = None
        self.program: subprocess.Popen[str] | None = None
        self.resources: PodResources | None = None
        self.containers: list[subprocess.Popen[str]] = []

    # --- the keeper ---

    def start_keeper(self, *options: str) -> dict[str, Any]:
        """In a PID namespace of its own: of a container's processes it sees no PIDs."""
        alone = ("unshare", "--pid", "--fork", "--kill-child")
        where = self.pool.endpoint
        if self.pool.service:
            where = f"localhost:{where.rpartition(':')[2]}"
            options = (*options, "--tls-name", self.pool.service)
        words = ["--pool", where, "--dir", str(self.pool.client), *options]
        words += ["--run-dir", str(self.settings.run_dir), "--json"]
        with self.keeper_log.open("a") as log:
            self.keeper = subprocess.Popen(
                [*alone, sys.executable, "-m", "harp", "remote", "keep", *words],
                env=self.env,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.keeper.stdout is not None
        line = self.keeper.stdout.readline()
        assert line, self.keeper_log.read_text()
        found: dict[str, Any] = json.loads(line)
        return found

    def stop_keeper(self, number: int = signal.SIGTERM) -> None:
        if self.keeper is None:
            return
        (child,) = (pid for pid in below(self.keeper.pid) if "python" in exe(pid))
        mine = below(self.keeper.pid)
        os.kill(child, number)
        self.keeper.wait(TIMEOUT_S)
        assert self.keeper.stdout is not None
        self.keeper.stdout.close()
        wait_for(lambda: not [p for p in mine if exe(p) == "harp-link"], "its harp-links end")
        self.keeper = None

    def held(self) -> tuple[Held, ...]:
        """What the keeper says."""
        return Keeper(self.settings.run_dir).held()

    def links(self) -> list[int]:
        """harp-link processes that listen for containers."""
        assert self.keeper is not None
        (child,) = (pid for pid in below(self.keeper.pid) if "python" in exe(pid))
        ours = [proc.pid for proc in all_procs().values() if proc.ppid == child]
        return [pid for pid in ours if exe(pid) == "harp-link"]

    # --- the plugin ---

    def start_plugin(self, sweep_s: float = 3600) -> RemotePlugin:
        """In this process, with an API server."""
        self.resources = PodResources(self.settings.pod_resources, self.settings.resource)
        self.plugin = RemotePlugin(
            self.settings,
            shim_dir(self.native, self.settings.state_dir, keep_old=True),
            Book(load(self.settings.checkpoint).grants),
            keeper=Keeper(self.settings.run_dir),
            holders=self.resources,
            pods=self.api,
            events=self.api,
            tempo=Tempo(look_s=0.05, sweep_s=sweep_s, health_s=3600, wake_s=0.05),
            patience=Patience(identity_s=5, harpd_s=2, pause_s=0.05),
        )
        self.plugin.start()
        assert self.kubelet.listed.wait(TIMEOUT_S)
        return self.plugin

    def stop_plugin(self) -> None:
        if self.plugin is not None:
            self.plugin.stop()
        if self.resources is not None:
            self.resources.close()
        self.plugin = self.resources = None

    def start_program(self, *more: str) -> None:
        """As it is run, without an API server."""
        folders = ["--kubelet-dir", str(self.settings.kubelet_dir), "--node", "n1"]
        folders += ["--state-dir", str(self.settings.state_dir), "--library-dir", "/opt/lib"]
        folders += ["--run-dir", str(self.settings.run_dir)]
        with (self.base / "plugin.log").open("a") as log:
            self.program = subprocess.Popen(
                [sys.executable, "-m", "device_plugin", "remote", *folders, *more],
                env=self.env,
                cwd=ROOT,
                stdout=log,
                stderr=log,
                text=True,
            )
        assert self.kubelet.listed.wait(TIMEOUT_S), (self.base / "plugin.log").read_text()

    def kill_program(self) -> None:
        if self.program is not None:
            self.program.kill()
            self.program.wait()
            self.program = None
            wait_for(lambda: not self.kubelet.listed.is_set(), "kubelet sees that it is gone")

    # --- pods ---

    def admit(self, name: str, size: int, annotations: Mapping[str, str] | None = None) -> None:
        said = {"harp.dev/remote": "required"} if annotations is None else annotations
        self.api.pods = [pod for pod in self.api.pods if pod.name != name]
        self.api.pods.append(
            Pod("ns", name, f"uid-{name}", "n1", (Container("main"),), annotations=said)
        )
        self.kubelet.admit("ns", name, Ask("main", size))

    def begin(self, name: str, *command: str, uid: int = 0) -> subprocess.Popen[str]:
        """Start a pod's container."""
        return self.enter(self.kubelet.begin("ns", name, "main"), *command, uid=uid)

    def enter(
        self,
        given: pb.ContainerAllocateResponse,
        *command: str,
        uid: int = 0,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """A program in a container that was given this; env: what it says in its place."""
        mounts = [[m.container_path, m.host_path, m.read_only] for m in given.mounts]
        said = dict(given.envs if env is None else env)
        told = {"mounts": mounts, "env": said, "uid": uid, "command": command}
        child = subprocess.Popen(
            [sys.executable, str(HERE / "as_container.py"), json.dumps(told)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.containers.append(child)
        return child

    def close(self) -> None:
        for child in self.containers:
            child.kill()
            child.communicate()
        self.stop_plugin()
        self.kill_program()
        self.stop_keeper()
        self.kubelet.stop()
        shutil.rmtree(self.base)


@contextlib.contextmanager
def pod_node(native_dir: Path, pool: Elsewhere, **settings: Any) -> Iterator[PodNode]:
    node = PodNode(native_dir, pool, **settings)
    try:
        node.kubelet.start()
        node.start_keeper()
        yield node
    finally:
        node.close()
