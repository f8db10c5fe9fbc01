# SPDX-License-Identifier: Apache-2.0
"""A node with the real harpd, arbiter, shim and software GPU; kubelet alone is a fake.

A "container" is a process with what Allocate gave. begin() looks each path inside up in the mounts;
boxed() has them mounted, in a mount namespace of its own, as root or as another user.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from plugin_world import FakeApi

from device_plugin.book import Book
from device_plugin.checkpoint import load
from device_plugin.fake_kubelet import FakeKubelet
from device_plugin.hardware import survey
from device_plugin.kubelet import PodResources
from device_plugin.plugin import Others, Plugin, Tempo
from device_plugin.proto import deviceplugin_pb2 as pb
from device_plugin.settings import Settings
from device_plugin.signs import HarpdSigns
from device_plugin.starts import Patience
from device_plugin.tenants import HarpdTenants, tenant_name
from harp.native import NativeDir
from tests.integration.machine import PROGRAM, ROOT, Machine, machine

__all__ = ["LIBRARIES", "MIB", "Node", "boxes", "plugin_machine", "said"]

#: where images have the driver: a folder that no host has
LIBRARIES = "/opt/image/lib"

MIB = 1 << 20


@dataclass
class Node:
    """A machine with a kubelet and a plugin."""

    box: Machine
    kubelet: FakeKubelet
    settings: Settings
    api: FakeApi = field(default_factory=FakeApi)
    plugin: Plugin | None = None
    tenants: HarpdTenants | None = None
    resources: PodResources | None = None
    containers: list[subprocess.Popen[str]] = field(default_factory=list)

    def start_plugin(self) -> None:
        self.tenants = HarpdTenants(self.box.env)
        before = load(self.settings.checkpoint)
        native = NativeDir(self.box.native_dir)
        view = self.tenants.look()
        hardware, node = survey(view, native, self.settings.state_dir, self.box.env)
        self.resources = PodResources(self.settings.pod_resources, self.settings.resource)
        self.plugin = Plugin(
            self.settings,
            node,
            hardware,
            Others(self.tenants, self.resources, self.api, self.api, HarpdSigns(self.tenants)),
            Book(before.grants),
            tempo=Tempo(look_s=0.05, sweep_s=3600, health_s=3600, wake_s=0.05),
            patience=Patience(identity_s=5, harpd_s=5, pause_s=0.05),
        )
        self.plugin.start()
        assert self.kubelet.listed.wait(20)

    def stop_plugin(self) -> None:
        for part in (self.plugin, self.resources, self.tenants):
            if isinstance(part, Plugin):
                part.stop()
            elif part is not None:
                part.close()
        self.plugin = self.resources = self.tenants = None

    def begin(self, name: str, mib: int) -> subprocess.Popen[str]:
        """Start a pod's container: a program that allocates."""
        return self.enter(self.kubelet.begin("ns", name, "main"), mib)

    def enter(
        self,
        given: pb.ContainerAllocateResponse,
        mib: int,
        command: Sequence[str] | None = None,
    ) -> subprocess.Popen[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith(("HARP_", "LD_", "CUDA_"))}
        for name, value in given.envs.items():
            env[name] = outside(given, value) if value.startswith("/") else value
        child = subprocess.Popen(
            command or [sys.executable, str(PROGRAM), str(mib)],
            env=env,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.containers.append(child)
        return child

    def boxed(
        self,
        given: pb.ContainerAllocateResponse,
        mib: int,
        *,
        uid: int = 0,
        env: Mapping[str, str] | None = None,
        setup: str = "",
        program: Path = PROGRAM,
    ) -> subprocess.Popen[str]:
        """Start a program as a runtime would: what Allocate said is mounted.

        Args:
            given: what it said.
            mib: to allocate.
            uid: who it runs as.
            env: in place of the environment that Allocate said.
            setup: shell commands after the mounts.
            program: in Python; its argument is `mib`.
        """
        lines = ["mount -t tmpfs -o mode=755 box /opt", "umask 022"]
        for mount in given.mounts:
            inside, host = shlex.quote(mount.container_path), shlex.quote(mount.host_path)
            make = "mkdir -p" if Path(mount.host_path).is_dir() else "touch"
            lines += [f"mkdir -p $(dirname {inside})", f"{make} {inside}"]
            lines += [f"mount --bind {host} {inside}"]
            if mount.read_only:
                lines += [f"mount -o remount,bind,ro {inside}"]
        lines += [f"cp {program} /opt/program.py", "chmod 755 /opt/program.py", "cd /", setup]
        # The interpreter may lie where that user does not get.
        lines += ["mkdir /opt/python", f"mount --bind {sys.base_prefix} /opt/python"]
        told = dict(given.envs) if env is None else dict(env)
        words = [f"{name}={value}" for name, value in told.items()]
        # The image's loader would find the driver's folder by itself.
        words += ["PATH=/usr/bin:/bin", f"LD_LIBRARY_PATH={LIBRARIES}:/opt/python/lib"]
        python = f"/opt/python/bin/{Path(os.path.realpath(sys.executable)).name}"
        run = ["env", "-i", *words, python, "/opt/program.py", str(mib)]
        who = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"]
        lines += ["exec " + shlex.join([*who, *run])]
        child = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-eu", "-c", "\n".join(lines)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.containers.append(child)
        return child

    def tenant_of(self, pod: str) -> dict[str, object]:
        assert self.plugin is not None
        (grant,) = (g for g in self.plugin.starts.living() if g.owner and g.owner.pod == pod)
        found = self.box.ps(tenant_name(grant))
        assert found is not None
        return found


def outside(given: pb.ContainerAllocateResponse, path: str) -> str:
    """The host's path of a container's."""
    for mount in given.mounts:
        if path == mount.container_path or path.startswith(f"{mount.container_path}/"):
            return mount.host_path + path[len(mount.container_path) :]
    pytest.fail(f"{path} is not mounted")


def said(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


@contextmanager
def plugin_machine(native_dir: Path, *arguments: str) -> Iterator[Node]:
    """A node that is up, its harpd with these arguments."""
    with machine(native_dir) as box:
        box.start_harpd(*arguments)
        settings = Settings(
            kubelet_dir=box.base / "k",
            state_dir=box.base / "s",
            run_dir=box.run_dir,
            node="n1",
            library_dirs=(LIBRARIES,),
        )
        node = Node(box, FakeKubelet(settings.kubelet_dir), settings)
        node.kubelet.start()
        try:
            node.start_plugin()
            yield node
        finally:
            for child in node.containers:
                child.kill()
                child.communicate()
            node.stop_plugin()
            node.kubelet.stop()


def boxes() -> bool:
    """Whether mount namespaces are to be had."""
    words = ["unshare", "--mount", "mount", "-t", "tmpfs", "box", "/opt"]
    return (
        os.geteuid() == 0
        and subprocess.run(words, capture_output=True, check=False).returncode == 0
    )
