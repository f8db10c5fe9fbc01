# SPDX-License-Identifier: Apache-2.0
"""What containers are given of a node: read from the driver's files, not guessed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from plugin_cases import gpus

from device_plugin.answer import answer
from device_plugin.hardware import survey
from device_plugin.tenants import NodeView
from harp.errors import ConfigError, NoDevice
from harp.model import DeviceKind
from harp.native import NativeDir


@pytest.fixture
def native(tmp_path: Path) -> NativeDir:
    folder = tmp_path / "native"
    (folder / "soft").mkdir(parents=True)
    for name in ("libharp.so", "libharp-nvml.so", "harp-ptxc"):
        (folder / name).write_text(name)
    for name in ("libcuda.so.1", "libnvidia-ml.so.1"):
        (folder / "soft" / name).write_text(f"soft {name}")
    return NativeDir(folder)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with two GPUs that the driver numbers the other way round than NVML."""
    root = tmp_path / "root"
    for index, (minor, bus) in enumerate([(1, "0000:3B:00.0"), (0, "0000:86:00.0")]):
        card = root / "proc/driver/nvidia/gpus" / bus
        card.mkdir(parents=True)
        (card / "information").write_text(
            f"Model: \t\t H100\nGPU UUID: \t {gpus(2)[index].uuid}\nDevice Minor: \t {minor}\n"
        )
        device = root / "sys/bus/pci/devices" / bus.lower()
        device.mkdir(parents=True)
        (device / "numa_node").write_text(f"{index}\n")
    (root / "proc/driver/nvidia/gpus/0000:99:00.0").mkdir()  # one without a text yet
    (root / "dev").mkdir()
    for name in ("nvidiactl", "nvidia-uvm", "nvidia0", "nvidia1"):
        (root / "dev" / name).touch()
    lib = root / "lib"
    lib.mkdir()
    for name in ("libcuda.so", "libnvidia-ml.so", "libnvidia-ptxjitcompiler.so", "libnvidia-gl.so"):
        (lib / f"{name}.550.1").touch()
        (lib / f"{name}.1").symlink_to(f"{name}.550.1")
    return root


def nvidia(root: Path, count: int = 2) -> NodeView:
    lib = root / "lib"
    cuda, nvml = lib / "libcuda.so.1", lib / "libnvidia-ml.so.1"
    return NodeView(DeviceKind.NVIDIA, cuda, nvml, tuple(gpus(count)))


def test_a_real_gpus_nodes_and_libraries(native: NativeDir, root: Path, tmp_path: Path) -> None:
    hardware, node = survey(nvidia(root), native, tmp_path / "s", {}, root)
    assert [gpu.numa for gpu in node.gpus] == [0, 1]
    first = node.gpus[0].uuid
    given = answer(hardware, [first], tmp_path / "g", ["/usr/lib/x"])
    # by the driver's minor; and nvidia-uvm-tools is not there
    assert given.nodes == ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia1")
    mounts = {m.inside: m.host for m in given.mounts}
    assert mounts["/opt/harp/driver/libcuda.so.1"] == str(root / "lib/libcuda.so.550.1")
    assert mounts["/opt/harp/driver/libnvidia-ml.so.1"] == str(root / "lib/libnvidia-ml.so.550.1")
    assert mounts["/usr/lib/x/libcuda.so.1"] == str(hardware.shim / "libcuda.so.1")
    jit = "libnvidia-ptxjitcompiler.so.1"
    assert mounts[f"/usr/lib/x/{jit}"] == str(root / "lib" / jit)
    # nothing of graphics, and nothing by its version's name
    assert not any("libnvidia-gl" in inside or "550.1" in inside for inside in mounts)
    assert given.env["NVIDIA_VISIBLE_DEVICES"] == first
    assert all(m.read_only for m in given.mounts)


def test_a_gpu_that_the_driver_does_not_list_is_refused(
    native: NativeDir, root: Path, tmp_path: Path
) -> None:
    with pytest.raises(NoDevice, match="00000002") as said:
        survey(nvidia(root, 3), native, tmp_path / "s", {}, root)
    assert "/proc/driver" in said.value.hint


def test_an_unknown_numa_node_is_none(native: NativeDir, root: Path, tmp_path: Path) -> None:
    (root / "sys/bus/pci/devices/0000:3b:00.0/numa_node").write_text("-1\n")
    (root / "sys/bus/pci/devices/0000:86:00.0/numa_node").unlink()
    _, node = survey(nvidia(root), native, tmp_path / "s", {}, root)
    assert [gpu.numa for gpu in node.gpus] == [-1, -1]


def software() -> NodeView:
    return NodeView(DeviceKind.SOFTWARE, Path("/x/cuda"), Path("/x/nvml"), tuple(gpus(1)))


def test_the_software_gpu_has_its_folder_shared_and_its_compiler_beside_it(
    native: NativeDir, tmp_path: Path
) -> None:
    env = {"HARP_SOFT_DIR": "/dev/shm/s", "HARP_SOFT_DEVICES": "tiny", "HOME": "/root"}
    run = tmp_path / "run"
    hardware, node = survey(software(), native, tmp_path / "s", env, tmp_path, run=run)
    assert node == software()
    given = answer(hardware, [node.gpus[0].uuid], tmp_path / "g", [])
    writable = [m for m in given.mounts if not m.read_only]
    assert [(m.inside, m.host) for m in writable] == [("/opt/harp/soft", "/dev/shm/s")]
    assert given.env["HARP_SOFT_DIR"] == "/opt/harp/soft"
    assert "HARP_PTXC_SOCKET" not in given.env
    (driver,) = (Path(m.host) for m in given.mounts if m.inside == "/opt/harp/driver")
    assert {p.name for p in driver.iterdir()} >= {"libcuda.so.1", "harp-ptxc"}
    assert given.env["HARP_SOFT_DEVICES"] == "tiny"
    assert "HOME" not in given.env
    assert given.nodes == ()


def test_a_nodes_compiler_is_there_for_images_without_one(
    native: NativeDir, tmp_path: Path
) -> None:
    """Its folder, for the socket in it is made anew with each compiler."""
    (tmp_path / "run" / "ptxc").mkdir(parents=True)
    env = {"HARP_SOFT_DIR": "/dev/shm/s"}
    run = tmp_path / "run"
    hardware, node = survey(software(), native, tmp_path / "s", env, tmp_path, run=run)
    given = answer(hardware, [node.gpus[0].uuid], tmp_path / "g", [])
    assert given.env["HARP_PTXC_SOCKET"] == "/opt/harp/ptxc/sock"
    (mount,) = (m for m in given.mounts if m.inside == "/opt/harp/ptxc")
    assert (mount.host, mount.read_only) == (str(run / "ptxc"), True)


def test_a_software_gpu_that_cannot_be_shared_is_refused(native: NativeDir, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere") as said:
        survey(software(), native, tmp_path / "s", {}, tmp_path)
    assert "HARP_SOFT_DIR" in said.value.hint


def test_libraries_of_before_an_upgrade_stay(native: NativeDir, tmp_path: Path) -> None:
    """Kubelet starts a pod's container again with the paths of its admission."""
    env = {"HARP_SOFT_DIR": "/dev/shm/s"}
    before, _ = survey(software(), native, tmp_path / "s", env, tmp_path)
    for folder in (before.shim, before.cuda.parent):
        os.utime(folder, (time.time() - 86400,) * 2)
    native.libharp.write_text("newer")
    native.soft_cuda.write_text("newer")
    for _ in range(2):
        after, _ = survey(software(), native, tmp_path / "s", env, tmp_path)
    assert after.shim != before.shim
    assert (before.shim / "libcuda.so.1").read_text() == "libharp.so"
    assert before.cuda.read_text() == "soft libcuda.so.1"
