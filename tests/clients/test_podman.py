# SPDX-License-Identifier: Apache-2.0
"""Plain containers: `harp cdi` and podman, beside a stand-in of NVIDIA's container toolkit."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.machine import ROOT, Machine, machine, wait_for
from tests.integration.ptx_service_world import Service

CDI = Path("/etc/cdi")
TOOLKIT = CDI / "harp-test-stand-in.json"
#: what the toolkit's hooks do once it has mounted the driver: links and the loader's cache
HOOK = """#!/bin/sh
bundle=$(sed 's/.*"bundle":"\\([^"]*\\)".*/\\1/')
root=$(sed 's/.*"root":{"path":"\\([^"]*\\)".*/\\1/' "$bundle/config.json")
/sbin/ldconfig -r "$root" && ln -sf libcuda.so.1 "$root{folder}/libcuda.so"
"""


def obstacle() -> str:
    """Why podman cannot be tried here."""
    if os.geteuid() != 0:
        return "needs root"
    lacking = [name for name in ("podman", "runc") if shutil.which(name) is None]
    return f"not installed: {', '.join(lacking)} (apt-get install podman runc)" if lacking else ""


pytestmark = pytest.mark.skipif(bool(obstacle()), reason=obstacle() or "can be tried")


@dataclass(frozen=True)
class Host:
    """A machine with harpd, a compiler's service and the stand-in, as others set them up."""

    machine: Machine
    image: Path
    folder: str  #: in the image: where its loader looks


@dataclass(frozen=True)
class Place:
    """A host, and a root folder for one test's containers."""

    host: Machine
    root: Path
    folder: str

    def cdi(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.host.harp("cdi", "--state", str(self.host.base / "state"), *arguments)

    def tenants(self) -> set[str]:
        return {tenant["name"] for tenant in self.host.json("ps")["tenants"]}

    def podman(self, *command: str, devices: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        """Run a command in a container with devices."""
        own = ["--root", f"{self.host.base}/storage", "--runroot", f"{self.host.base}/runroot"]
        own += ["--storage-driver", "vfs"]  # overlay's leaves a mount behind
        limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"]
        given = [word for name in devices for word in ("--device", name)]
        return subprocess.run(
            ["podman", *own, "--runtime", "runc", "--cgroup-manager=cgroupfs", "run", "--rm",
             "--network", "none", *limits, *given, "--rootfs", str(self.root), *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )  # fmt: skip


def build_root(root: Path, native: Path) -> str:
    """A root folder with a C program, its loader and nothing of a GPU; where libraries lie."""
    program = root / "contained"
    root.mkdir()
    subprocess.run(
        ["gcc", "-O1", "-D_GNU_SOURCE", f"-I{ROOT}/native", f"-I{ROOT}/tests/integration",
         "-o", program, ROOT / "tests/clients/programs/contained.c", "-ldl"],
        check=True,
    )  # fmt: skip
    files = [program, native / "soft/libcuda.so.1", native / "libharp.so"]
    listed = subprocess.run(["ldd", *files], capture_output=True, text=True, check=True).stdout
    paths = set(re.findall(r"(/\S+\.so\S*) \(0x", listed))
    for path in paths:
        goal = root / path.removeprefix("/")
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(path), goal)
    (libc,) = (path for path in paths if path.endswith("/libc.so.6"))
    return str(Path(libc).parent)


def stand_in(folder: Path, machine_of: Machine, libraries: str) -> dict[str, object]:
    """The toolkit's device: its driver is a software GPU that knows no tenant."""
    driver = folder / "libcuda.so.580.1"
    shutil.copy(machine_of.native_dir / "soft/libcuda.so.1", driver)
    hook = folder / "toolkit-hook"
    hook.write_text(HOOK.replace("{folder}", libraries))
    hook.chmod(0o755)
    soft, ptxc = str(machine_of.base / "soft"), str(machine_of.run_dir / "ptxc")
    mounts = [
        (str(driver), f"{libraries}/{driver.name}", "ro"),
        (soft, soft, "rw"),
        (ptxc, "/served", "ro"),
    ]
    edits = {
        "mounts": [
            {"hostPath": host, "containerPath": inside, "options": [how, "rbind"]}
            for host, inside, how in mounts
        ],
        "env": [f"HARP_SOFT_DIR={soft}", "HARP_PTXC_SOCKET=/served/sock"],
        "hooks": [{"hookName": "createContainer", "path": str(hook)}],
    }
    device = {"name": "all", "containerEdits": edits}
    return {"cdiVersion": "0.3.0", "kind": "stand.in/gpu", "devices": [device]}


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, native_dir: Path) -> Iterator[Host]:
    base = tmp_path_factory.mktemp("podman")
    with machine(native_dir) as found:
        libraries = build_root(base / "image", native_dir)
        found.start_harpd()
        (found.run_dir / "ptxc").mkdir(mode=0o755)
        compiler = Service(base, native_dir, socket_path=found.run_dir / "ptxc" / "sock")
        CDI.mkdir(exist_ok=True)
        TOOLKIT.write_text(json.dumps(stand_in(base, found, libraries)))
        try:
            yield Host(found, base / "image", libraries)
        finally:
            TOOLKIT.unlink()
            compiler.end()
            assert str(found.base) not in Path("/proc/self/mountinfo").read_text()
            for path in CDI.glob("harp.dev-tenant-harp-test-*"):
                path.unlink()


@pytest.fixture
def place(host: Host, tmp_path: Path) -> Place:
    root = tmp_path / "root"
    shutil.copytree(host.image, root, symlinks=True)
    return Place(host.machine, root, host.folder)


def test_a_container_is_the_tenant(place: Place) -> None:
    made = place.host.json(
        "cdi", "harp-test-1", "--mem", "128MiB", "--share", "30%", "--state",
        str(place.host.base / "state"),
    )  # fmt: skip
    assert (made["device"], made["made"], made["software"]) == (
        "harp.dev/tenant=harp-test-1", True, True,
    )  # fmt: skip
    device = (made["device"],)
    for name in ("libcuda.so.1", "libcuda.so", f"{place.folder}/libcuda.so.1"):
        for bare in ([], ["bare"]):
            done = place.podman("/contained", name, *bare, devices=device)
            assert "total_mib 128\nvalue 4711\n" in done.stdout, (name, bare, done.stderr)
    # Nobody runs in it, and it is there still; its limits change like any other's.
    assert "harp-test-1" in place.tenants()
    assert place.host.harp("set", "harp-test-1", "--mem", "64MiB").returncode == 0
    assert "total_mib 64\n" in place.podman("/contained", devices=device).stdout
    # A second container of the same tenant; and the file is the same when it is written again.
    before = Path(made["spec"]).read_text()
    assert place.cdi("harp-test-1").returncode == 0
    assert Path(made["spec"]).read_text() == before


def test_a_tenant_that_is_there_already(place: Place) -> None:
    program = place.host.tenant("--mem", "96MiB", "--name", "harp-test-9")
    wait_for(lambda: "harp-test-9" in place.tenants(), "it has begun")
    refused = place.cdi("harp-test-9", "--mem", "1GiB")
    assert refused.returncode == 1
    assert "harp set harp-test-9" in refused.stderr
    assert place.cdi("harp-test-9").returncode == 0
    done = place.podman("/contained", devices=("harp.dev/tenant=harp-test-9",))
    assert "total_mib 96\nvalue 4711\n" in done.stdout, done.stderr
    # The file goes, the program's tenant stays: it was not made for this.
    assert place.host.json("cdi", "harp-test-9", "--remove")["ended"] is False
    assert "harp-test-9" in place.tenants()
    program.kill()
    program.communicate()


@pytest.mark.parametrize("order", [("stand.in/gpu=all", "ours"), ("ours", "stand.in/gpu=all")])
def test_ours_lies_over_what_the_toolkit_has_mounted(order: tuple[str, ...], place: Place) -> None:
    plain = place.podman("/contained", "libcuda.so.1", devices=("stand.in/gpu=all",))
    assert "total_mib 1024\n" in plain.stdout, plain.stderr  # the stand-in works: all of the GPU
    assert "libcuda.so.580.1" in plain.stdout
    made = place.cdi("harp-test-2", "--mem", "128MiB")
    assert made.returncode == 0, made.stderr
    devices = tuple("harp.dev/tenant=harp-test-2" if one == "ours" else one for one in order)
    for name in ("libcuda.so.1", f"{place.folder}/libcuda.so.580.1", f"{place.folder}/libcuda.so"):
        for bare in ([], ["bare"]):
            done = place.podman("/contained", name, *bare, devices=devices)
            assert "total_mib 128\nvalue 4711\n" in done.stdout, (name, bare, done.stderr)
    assert place.cdi("harp-test-2", "--remove").returncode == 0


def test_an_ended_tenants_container_does_not_start(place: Place) -> None:
    assert place.cdi("harp-test-3", "--share", "10%").returncode == 0
    spec = CDI / "harp.dev-tenant-harp-test-3.json"
    old = spec.read_text()
    gone = place.cdi("harp-test-3", "--remove")
    assert gone.returncode == 0, gone.stderr
    assert not spec.exists()
    assert "harp-test-3" not in place.tenants()
    assert not (place.host.run_dir / "cdi" / "harp-test-3").exists()
    assert place.cdi("harp-test-3", "--remove").returncode == 1
    # Somebody has put the file back, or the machine was started anew: the folder is not there.
    spec.write_text(old)
    assert place.podman("/contained", devices=("harp.dev/tenant=harp-test-3",)).returncode != 0
    # The folder is, and nobody listens.
    (place.host.run_dir / "cdi" / "harp-test-3").mkdir()
    done = place.podman("/contained", devices=("harp.dev/tenant=harp-test-3",))
    assert done.returncode != 0
    assert "value" not in done.stdout
    assert "the tenant of this container is no more" in done.stderr
    # The next command takes the file away.
    assert place.cdi("harp-test-4", "--share", "10%").returncode == 0
    assert not spec.exists()


def test_nothing_of_ours_can_be_written_from_inside(place: Place) -> None:
    assert place.cdi("harp-test-6", "--mem", "128MiB").returncode == 0
    busybox = Path("/bin/busybox")
    if busybox.exists():
        shutil.copy(busybox, place.root / "busybox")
    spec = json.loads((CDI / "harp.dev-tenant-harp-test-6.json").read_text())
    edits = spec["devices"][0]["containerEdits"]
    writable = [m["containerPath"] for m in edits["mounts"] if "rw" in m["options"]]
    assert writable == ["/opt/harp/soft"]
    (hook,) = edits["hooks"]
    path = Path(hook["path"])
    assert path.stat().st_uid == 0
    assert path.stat().st_mode & 0o777 == 0o755
    if not busybox.exists():
        pytest.skip("no busybox to write with; the mounts are read-only")
    for target in ("/opt/harp/shim/libcuda.so.1", f"{place.folder}/libcuda.so.1"):
        done = place.podman(
            "/busybox", "sh", "-c", f"echo x >> {target}", devices=("harp.dev/tenant=harp-test-6",)
        )
        assert done.returncode != 0
        assert "Read-only" in done.stderr, done.stderr


@pytest.mark.parametrize("spoiled", ["state", "output"])
def test_a_folder_that_others_may_write_to_is_refused(spoiled: str, place: Place) -> None:
    folder = place.host.base / f"spoiled-{spoiled}"
    folder.mkdir()
    folder.chmod(0o777)
    done = place.cdi("harp-test-7", "--share", "5%", f"--{spoiled}", str(folder))
    assert done.returncode == 1
    assert "not root's alone" in done.stderr
    assert "harp-test-7" not in place.tenants()


def test_refusals(place: Place) -> None:
    for arguments, status, said in (
        (["a/b", "--share", "5%"], 1, "no name of a CDI device"),
        (["harp-test-8"], 1, "no tenant is called"),
        (["harp-test-8", "--remove", "--mem", "1GiB"], 2, "without limits"),
        (["harp-test-8", "--mem", "9TiB"], 1, "left of"),
        (["harp-test-8", "--share", "5%", "--compiler", "/nowhere/sock"], 1, "no socket is at"),
    ):
        done = place.cdi(*arguments)
        assert (done.returncode, done.stdout) == (status, "")
        assert said in done.stderr
    assert "harp-test-8" not in place.tenants()
    assert not (CDI / "harp.dev-tenant-harp-test-8.json").exists()
