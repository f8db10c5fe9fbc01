# SPDX-License-Identifier: Apache-2.0
"""Where the programs come from: Debian's packages, and Kubernetes prebuilt or built.

One binary is API server, scheduler, controller manager and kubelet, by the name it is called
(tb_main.go). It is taken from $HARP_KUBE_BIN (the binary, or it as .xz), else from ../shared/kube
beside the checkout, else built by build-kube.sh from Debian's source package; what was unpacked or
built is kept in ~/.cache/harp, named by what it was made of.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import subprocess
from pathlib import Path

from rig.machine import sh

__all__ = ["COMPONENTS", "SCHEDULER", "install_packages", "kube_folder", "pause_program"]

HERE = Path(__file__).resolve().parent.parent
ROOT = HERE.parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "harp"
COMPONENTS = ("kube-apiserver", "kube-scheduler", "kube-controller-manager", "kubelet")
#: image of the second scheduler, which is a pod
SCHEDULER = "localhost/kube-scheduler:1.20.2"

#: {program or file that must be there: package of Debian's}
_PACKAGES = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "runc": "runc",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "buildah": "buildah",
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "iptables": "iptables",
    "kubectl": "kubernetes-client",
    "gcc": "gcc",
    "/usr/include/stdio.h": "libc6-dev",
}
_PAUSE = r"""
#include <signal.h>
#include <unistd.h>
static void end(int signal) { (void)signal; _exit(0); }
int main(void) {
    signal(SIGTERM, end);
    signal(SIGINT, end);
    signal(SIGCHLD, SIG_IGN);
    for (;;) pause();
}
"""


def install_packages() -> None:
    """Debian's packages that are missing.

    Raises:
        RuntimeError: they cannot be had.
    """
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [
        package
        for need, package in _PACKAGES.items()
        if not (Path(need).exists() if need.startswith("/") else shutil.which(need, path=path))
    ]
    if not missing:
        return
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    sh("apt-get", "update", "-q", env=env)
    sh("apt-get", "install", "-y", "-q", "--no-install-recommends", *missing, env=env)


def kube_folder() -> Path:
    """Folder with Kubernetes' four programs.

    Raises:
        RuntimeError: none is at hand, and it cannot be built.
    """
    given = Path(os.environ.get("HARP_KUBE_BIN") or ROOT.parent / "shared/kube/kube-tb.xz")
    if os.environ.get("HARP_KUBE_BIN") and not given.is_file():
        raise RuntimeError(f"HARP_KUBE_BIN={given} is no file")
    if given.is_file():
        folder = CACHE / f"kube-{_digest(given)}"
        if not (folder / "kubelet").exists():
            _place(folder, _unpacked(given))
        return folder
    script, source = HERE / "build-kube.sh", HERE / "tb_main.go"
    folder = CACHE / f"kube-{_digest(script, source)}"
    if not (folder / "kubelet").exists():
        work = CACHE / "kube-build"
        done = subprocess.run(
            [script, work], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if done.returncode:
            raise RuntimeError(
                f"Kubernetes cannot be built from Debian's source: {done.stdout[-3000:]}\n"
                "remedy: set HARP_KUBE_BIN to a prebuilt kube-tb"
            )
        _place(folder, (work / "kube-tb").read_bytes())
        shutil.rmtree(work)
    return folder


def _digest(*files: Path) -> str:
    """Short name of what is in them."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    beside = path.with_name(f"{path.name}.sha256")
    if beside.exists() and beside.read_text().split()[0] != hashlib.sha256(data).hexdigest():
        raise RuntimeError(f"{path} is not what {beside} says")
    return lzma.decompress(data) if path.suffix == ".xz" else data


def _place(folder: Path, binary: bytes) -> None:
    """The binary under its four names; whoever finds `kubelet` there finds all."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{os.getpid()}"
    temporary.write_bytes(binary)
    temporary.chmod(0o755)
    temporary.rename(folder / "kube-tb")
    for name in COMPONENTS:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("kube-tb")


def pause_program(folder: Path) -> Path:
    """The program of every pod's first container."""
    source, program = folder / "pause.c", folder / "pause"
    source.write_text(_PAUSE)
    sh("gcc", "-static", "-O2", "-o", program, source)
    return program
