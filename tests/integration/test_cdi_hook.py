# SPDX-License-Identifier: Apache-2.0
"""harp-cdi-hook by itself, in a mount namespace: what it lays our libraries over, and what not."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
LIBRARIES = f"/usr/lib/{os.uname().machine}-linux-gnu"
#: mounts ours as the container's runtime does, then runs the hook; prints all mounts
SCRIPT = """
ours="$1/root/opt/harp/shim"
mount --bind "$1/shim" "$ours" && mount -o "remount,bind,$4" "$ours" &&
mount --bind "$1/grant" "$1/root/opt/harp/grant" && mount --bind "$1/toolkit" "$1/root$3" &&
$5 "$2" < "$1/state.json" || exit 1
cat /proc/self/mountinfo
"""


@dataclass
class Bundle:
    """A container that is about to start."""

    base: Path
    hook: Path
    toolkit: str = "/mnt/libcuda.so.580.1"  #: where another hook has put a driver
    root: Path = field(init=False)

    def __post_init__(self) -> None:
        self.root = self.base / "root"
        for name in ("shim", "grant", "root/opt/harp/shim", "root/opt/harp/grant", "root/etc"):
            (self.base / name).mkdir(parents=True)
        for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
            (self.base / "shim" / name).write_text(f"ours {name}")
        (self.base / "toolkit").write_text("the toolkit's")
        (self.base / "config.json").write_text('{"ociVersion": "1.0.2", "root": {"path": "root"}}')
        state = {"ociVersion": "1.0.2", "id": "x", "pid": 7, "bundle": str(self.base)}
        (self.base / "state.json").write_text(json.dumps(state))
        self.file(self.toolkit, "mounted over")
        self.file(f"{LIBRARIES}/libc.so.6", "")

    def file(self, path: str, text: str = "the image's") -> Path:
        """A file of the image."""
        goal = self.root / path.removeprefix("/")
        goal.parent.mkdir(parents=True, exist_ok=True)
        goal.write_text(text)
        return goal

    def link(self, path: str, to: str) -> None:
        goal = self.root / path.removeprefix("/")
        goal.parent.mkdir(parents=True, exist_ok=True)
        goal.symlink_to(to)

    def run(self, mode: str = "ro", by: str = "") -> subprocess.CompletedProcess[str]:
        """Start it; `by`: a command that runs the hook."""
        arguments = [str(self.base), str(self.hook), self.toolkit, mode, by]
        return subprocess.run(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", SCRIPT, "sh", *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def covered(self) -> dict[str, str]:
        """{path: name of the library that lies there}, wherever on this machine."""
        done = self.run()
        assert done.returncode == 0, done.stderr
        found = {}
        for line in done.stdout.splitlines():
            words = line.split()
            if words[3].startswith(f"{self.base}/shim/"):
                assert "ro" in words[5].split(","), line
                found[words[4].removeprefix(str(self.root))] = Path(words[3]).name
        return found


@pytest.fixture
def bundle(tmp_path: Path, native_dir: Path) -> Iterator[Bundle]:
    hook = tmp_path / "hook"
    shutil.copy(native_dir / "harp-cdi-hook", hook)
    found = Bundle(tmp_path, hook)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        here = os.open(tmp_path / "grant", os.O_PATH)  # the path itself may be too long
        listening.bind(f"/proc/self/fd/{here}/arbiter.sock")
        os.close(here)
        listening.listen()
        yield found


def test_every_name_of_a_driver_is_covered(bundle: Bundle) -> None:
    for path in (f"{LIBRARIES}/libcuda.so.535.1", "/usr/lib64/libnvidia-ml.so.535.1",
                 "/usr/local/cuda/compat/libcuda.so.560", "/opt/odd/libcuda.so.1"):  # fmt: skip
        bundle.file(path)
    bundle.link(f"{LIBRARIES}/libcuda.so.1", "libcuda.so.535.1")
    bundle.link(f"{LIBRARIES}/libcuda.so", "/usr/lib64/../x/libcuda.so.1")
    bundle.file("/usr/x/libcuda.so.1")
    bundle.file(f"{LIBRARIES}/libcudart.so.12")
    bundle.file("/etc/ld.so.cache", "head\0libcuda.so.1\0/opt/odd/libcuda.so.1\0/none/libcuda.so\0")
    bundle.link("/usr/lib/libcuda.so.3", "libcuda.so.4")  # leads nowhere
    cuda, nvml = "libcuda.so.1", "libnvidia-ml.so.1"
    assert bundle.covered() == {
        f"{LIBRARIES}/libcuda.so.535.1": cuda,
        "/usr/lib64/libnvidia-ml.so.535.1": nvml,
        "/usr/local/cuda/compat/libcuda.so.560": cuda,
        "/opt/odd/libcuda.so.1": cuda,
        "/usr/x/libcuda.so.1": cuda,
        "/mnt/libcuda.so.580.1": cuda,
    }


def test_an_image_without_a_driver_gets_ours_where_its_loader_looks(bundle: Bundle) -> None:
    bundle.toolkit = "/mnt/other"
    bundle.file(bundle.toolkit)
    names = ("libcuda.so.1", "libnvidia-ml.so.1")
    assert bundle.covered() == {f"{LIBRARIES}/{name}": name for name in names}
    for name in names:
        link = bundle.root / LIBRARIES.removeprefix("/") / name.removesuffix(".1")
        assert str(link.readlink()) == name


def test_what_lies_beside_the_driver_is_there_again_when_it_is_started_again(
    bundle: Bundle,
) -> None:
    """The files that were mounted over are empty and still there then; the mounts are not."""
    for name in ("libnvidia-ptxjitcompiler.so.1", "libnvidia-nvvm.so.4"):
        bundle.file(f"/opt/harp/driver/{name}", "the driver's")
    bundle.file("/usr/lib/libnvidia-nvvm.so.4")
    for _ in range(3):
        done = bundle.run()
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        inside = [line.split() for line in done.stdout.splitlines() if "/libnvidia-" in line]
        assert [
            words[4].removeprefix(str(bundle.root))
            for words in inside
            if "/opt/harp/driver/" in words[3]
        ] == [f"{LIBRARIES}/libnvidia-ptxjitcompiler.so.1"]


def test_links_of_an_image_lead_nowhere_else(bundle: Bundle, tmp_path: Path) -> None:
    outside = tmp_path / "libcuda.so.9"
    outside.write_text("the host's")
    up = "../" * 30
    bundle.link(f"{LIBRARIES}/libcuda.so.7", f"{up}{outside.relative_to('/')}")
    bundle.link(f"{LIBRARIES}/libcuda.so.6", str(outside))
    bundle.link("/usr/lib64", f"{up}{tmp_path.relative_to('/')}")
    bundle.file("/victim")
    bundle.link(f"{LIBRARIES}/libcuda.so.5", "/victim")  # inside, but no file of a driver
    bundle.file("/etc/ld.so.cache", f"{tmp_path}/libcuda.so.9\0/libcuda.so\0/\0//\0" + "/" * 9000)
    assert bundle.covered().keys() == {
        "/mnt/libcuda.so.580.1",
        f"{LIBRARIES}/libnvidia-ml.so.1",
    }
    assert outside.read_text() == "the host's"


def test_without_its_tenant_a_container_does_not_start(bundle: Bundle) -> None:
    (bundle.base / "grant/arbiter.sock").unlink()
    done = bundle.run()
    assert done.returncode == 1
    assert "the tenant of this container is no more" in done.stderr


def test_ours_must_not_be_writable_in_the_container(bundle: Bundle) -> None:
    done = bundle.run("rw")
    assert done.returncode == 1
    assert "not mounted read-only" in done.stderr


def test_a_driver_that_stays_uncovered_ends_it(bundle: Bundle) -> None:
    done = bundle.run(by="setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin")
    assert done.returncode == 1
    assert f"{bundle.toolkit} cannot be covered: Operation not permitted" in done.stderr
    assert bundle.run().returncode == 0  # who may mount covers it


def test_ours_that_is_missing_or_anybodys_to_write_to_ends_it(bundle: Bundle) -> None:
    bundle.file(f"{LIBRARIES}/libcuda.so.1")
    (bundle.base / "shim/libnvidia-ml.so.1").chmod(0o666)
    assert bundle.run().returncode == 1
    (bundle.base / "shim/libnvidia-ml.so.1").unlink()
    assert bundle.run().returncode == 1


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("", "no container's state"),
        ("[1, 2", "no container's state"),
        ('{"bundle": "relative"}', "no container's state"),
        ('{"bundle": "/nowhere"}', "names no root folder"),
        ('{"id": "\\ud800", "bundle": "/nowhere"}', "no container's state"),
    ],
)
def test_what_is_no_state_is_refused(state: str, said: str, native_dir: Path) -> None:
    hook = [str(native_dir / "harp-cdi-hook")]
    done = subprocess.run(hook, input=state, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
