# SPDX-License-Identifier: Apache-2.0
"""A node: containerd and kubelet with mounts of their own, as if it were another machine.

Kubelet's folder, HARP's and CNI's are constants of their programs, so each node has a mount
namespace where these paths are its own folders. A process that only sleeps holds the namespace.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from rig import cgroups
from rig.control import DNS
from rig.machine import NET, RUN, Machine, sh, wait_for

__all__ = ["Node"]

_SNAPSHOTTERS = ("btrfs", "zfs", "aufs", "devmapper", "native")
_PLUGINS_OFF = [
    *(f"io.containerd.snapshotter.v1.{one}" for one in _SNAPSHOTTERS),
    "io.containerd.internal.v1.opt",
]
_PAUSE = "docker.io/local/pause:3"
#: kubelet sets these for the whole machine where they are otherwise; it is shown that they are not
_KERNEL = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}
#: the machine's folders that are the node's own in its mounts
_OWN = (
    "/var/lib/kubelet",
    "/var/lib/cni",
    "/var/lib/harp",
    "/run/harp",
    "/run/containerd",
    "/var/log/pods",
    "/var/log/containers",
)
_CONTAINERD = """
version = 2
root = "{space}/containerd"
state = "{run}/containerd"
disabled_plugins = {off}
[grpc]
  address = "{run}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  # runc without CAP_SYS_RESOURCE cannot lower it
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{run}/cni"
"""


class Node:
    """Node `number`.

    Args:
        machine: where.
        folder: of Kubernetes' programs.
        pki: of the control plane's certificates and kubeconfigs.
        number: from 1.
    """

    def __init__(self, machine: Machine, folder: Path, pki: Path, number: int) -> None:
        self._machine, self._programs, self._pki, self.number = machine, folder, pki, number
        self.name = f"node{number}"
        self.net = f"{NET}-n{number}"
        self.address = f"10.98.0.{number + 1}"
        self.pods = f"10.244.{number}.0/24"
        self.run = RUN / self.name
        self.space = machine.space / f"{self.name}-space"
        self.holder = 0  #: pid of the process that holds the mounts
        self.socket = self.run / "containerd.sock"
        self.manifests = self.run / "manifests"  #: of static pods

    def start(self) -> None:
        """Mounts and containerd."""
        parts = (self.run / "cni", self.run / "kernel", self.manifests)
        for folder in (self.run, self.space, *parts):
            folder.mkdir(mode=0o755, exist_ok=True)
        cgroups.make(self.name)
        self._hold()
        self._write_cni()
        config = self.run / "containerd.toml"
        config.write_text(
            _CONTAINERD.format(
                space=self.space, run=self.run, off=json.dumps(_PLUGINS_OFF), pause=_PAUSE
            )
        )
        self._start("containerd", ["containerd", "-c", str(config)])
        wait_for(f"{self.name}: containerd answers", self._containerd_answers, pause_s=0.05)

    def start_kubelet(self) -> None:
        """Kubelet, for the first time or again."""
        config = self.run / "kubelet.json"
        config.write_text(json.dumps(self._kubelet_config()))
        self._start(
            "kubelet",
            [
                str(self._programs / "kubelet"),
                f"--config={config}",
                "--v=2",
                f"--kubeconfig={self._pki / f'{self.name}.kubeconfig'}",
                f"--hostname-override={self.name}",
                f"--node-ip={self.address}",
                "--container-runtime=remote",
                f"--container-runtime-endpoint=unix://{self.socket}",
                f"--pod-infra-container-image={_PAUSE}",
                "--root-dir=/var/lib/kubelet",
                f"--cert-dir={self.run / 'kubelet-pki'}",
            ],
        )

    def stop_kubelet(self, *, kill: bool = False) -> None:
        """End kubelet; containers go on."""
        self._machine.stop(f"{self.name}-kubelet", kill=kill)

    def ctr(self, *arguments: str | Path) -> str:
        """containerd's command line, in the namespace of kubelet's containers."""
        return sh("ctr", "-a", self.socket, "-n", "k8s.io", *arguments)

    def load(self, archive: Path) -> None:
        """Take images from an archive."""
        self.ctr("images", "import", archive)

    def inside(self, *command: str | Path, **more: object) -> subprocess.CompletedProcess[str]:
        """Run a command with this node's mounts and network."""
        return subprocess.run(
            [*self.enter(), *map(str, command)], check=False, capture_output=True, text=True, **more
        )

    def enter(self) -> list[str]:
        """Command line in front of one that is to be run there."""
        return ["nsenter", f"--mount=/proc/{self.holder}/ns/mnt", f"--net=/run/netns/{self.net}"]

    def path(self, inside: str) -> Path:
        """A path of the node's, as it is found from outside."""
        return Path(f"/proc/{self.holder}/root{inside}")

    def _start(self, what: str, command: list[str]) -> None:
        self._machine.start(f"{self.name}-{what}", command, netns=self.net, mounts_of=self.holder)

    def _hold(self) -> None:
        """Make the mounts."""
        ready = self.run / "ready"
        script = ["set -e", "mount --make-rshared /"]
        # CNI's namespaces are mounts of the node's; else their names stay behind.
        script += ["mount -t tmpfs -o mode=755 tmpfs /run/netns"]
        for name, value in _KERNEL.items():
            file = self.run / "kernel" / name.replace("/", "_")
            file.write_text(f"{value}\n")
            script.append(f"mount --bind {file} /proc/sys/{name}")
        for target in _OWN:
            own = self.space / target.strip("/").replace("/", "-")
            own.mkdir(exist_ok=True)
            self._machine.borrow(Path(target))
            script += [f"mount --bind {own} {target}", f"mount --make-rshared {target}"]
        script += [f"touch {ready}", "exec sleep infinity"]
        made = ["unshare", "--mount", "--propagation=private", "sh", "-c", "\n".join(script)]
        child = self._machine.start(f"{self.name}-mounts", made, netns=self.net)
        wait_for(f"{self.name}: mounts", lambda: ready.exists() or child.poll() is not None)
        self._machine.alive()
        self.holder = child.pid

    def _write_cni(self) -> None:
        bridge = {
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": self.pods}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        conflist = {"cniVersion": "0.3.1", "name": "hk", "plugins": [bridge]}
        (self.run / "cni" / "10-hk.conflist").write_text(json.dumps(conflist))

    def _containerd_answers(self) -> bool:
        self._machine.alive()
        done = subprocess.run(
            ["ctr", "-a", self.socket, "version"], check=False, capture_output=True
        )
        return done.returncode == 0

    def _kubelet_config(self) -> dict[str, object]:
        ca = str(self._pki / "ca.crt")
        return {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": ca},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(self._pki / f"{self.name}.crt"),
            "tlsPrivateKeyFile": str(self._pki / f"{self.name}.key"),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{cgroups.ROOT}/{self.name}",
            "failSwapOn": False,
            "makeIPTablesUtilChains": False,
            "readOnlyPort": 0,
            "podCIDR": self.pods,
            "clusterDNS": [DNS],
            "clusterDomain": "cluster.local",
            "oomScoreAdj": 0,
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%"},
            "nodeStatusUpdateFrequency": "2s",
            "syncFrequency": "2s",
            "staticPodPath": str(self.manifests),
            "fileCheckFrequency": "2s",
            "volumePluginDir": str(self.run / "volume-plugins"),
        }
