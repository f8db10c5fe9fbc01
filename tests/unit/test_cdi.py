# SPDX-License-Identifier: Apache-2.0
"""What the file of a CDI device says, and whom it trusts."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest

from harp.api.v1 import control_pb2 as pb
from harp.cdi import Things, device_name, file_name, spec, tenant_of
from harp.cli.cdi import Places, _describe, cdi, check_path
from harp.discovery.nodes import beside_driver, device_nodes
from harp.errors import ConfigError, NoDevice, RunDirUnsafe
from harp.inject import Backing
from harp.native import find

SOFT = Things(
    hook=Path("/var/lib/harp/cdi/hook-1"),
    shim=Path("/var/lib/harp/shim/1"),
    grant=Path("/run/harp/cdi/t1"),
    backing=Backing(Path("/var/lib/harp/soft/1/libcuda.so.1"), Path("/x/libnvidia-ml.so.1")),
    uuids=["GPU-1", "GPU-2"],
    soft=Path("/dev/shm/soft"),
    ptxc=Path("/run/harp/ptxc"),
)


def edits(things: Things) -> dict[str, list[dict[str, object]]]:
    (device,) = spec("t1", things)["devices"]  # type: ignore[misc]
    found: dict[str, list[dict[str, object]]] = device["containerEdits"]
    return found


def mounts(things: Things) -> dict[str, tuple[str, bool]]:
    """{inside: (host, writable)}."""
    return {
        str(m["containerPath"]): (str(m["hostPath"]), "rw" in m["options"])  # type: ignore[operator]
        for m in edits(things)["mounts"]
    }


def test_a_software_gpus_tenant() -> None:
    said = spec("t1", SOFT)
    assert (said["cdiVersion"], said["kind"]) == ("0.3.0", "harp.dev/tenant")
    assert spec("1t", SOFT)["cdiVersion"] == "0.5.0"
    assert mounts(SOFT) == {
        "/opt/harp/shim": ("/var/lib/harp/shim/1", False),
        "/opt/harp/grant": ("/run/harp/cdi/t1", False),
        "/opt/harp/driver": ("/var/lib/harp/soft/1", False),
        "/opt/harp/soft": ("/dev/shm/soft", True),
        "/opt/harp/ptxc": ("/run/harp/ptxc", False),
    }
    assert edits(SOFT)["env"] == [
        "CUDA_VISIBLE_DEVICES=GPU-1,GPU-2",
        "HARP_CUDA_REAL=/opt/harp/driver/libcuda.so.1",
        "HARP_GRANT=/opt/harp/grant",
        "HARP_NVML_REAL=/opt/harp/driver/libnvidia-ml.so.1",
        "HARP_PTXC_SOCKET=/opt/harp/ptxc/sock",
        "HARP_SOFT_DIR=/opt/harp/soft",
        "LD_PRELOAD=/opt/harp/shim/libcuda.so.1",
        "NVIDIA_VISIBLE_DEVICES=void",
    ]
    assert edits(SOFT)["hooks"] == [
        {"hookName": "createContainer", "path": "/var/lib/harp/cdi/hook-1"}
    ]
    assert "deviceNodes" not in edits(SOFT)


def test_a_real_gpus_tenant_has_its_driver_at_a_private_path(tmp_path: Path) -> None:
    for name in ("libcuda.so.580.1", "libnvidia-ml.so.580.1", "libnvidia-ptxjitcompiler.so.580.1"):
        (tmp_path / name).touch()
        (tmp_path / name.replace(".580.1", ".1")).symlink_to(name)
    cuda, nvml = tmp_path / "libcuda.so.1", tmp_path / "libnvidia-ml.so.1"
    things = Things(
        hook=Path("/h"),
        shim=Path("/s"),
        grant=Path("/g"),
        backing=Backing(cuda, nvml),
        uuids=["GPU-1"],
        beside=beside_driver(cuda),
        nodes=("/dev/nvidiactl", "/dev/nvidia3"),
    )
    found = mounts(things)
    # Links are followed: the file that is mounted stays, whatever is installed over it.
    assert found["/opt/harp/driver/libcuda.so.1"] == (f"{tmp_path}/libcuda.so.580.1", False)
    assert found["/opt/harp/driver/libnvidia-ml.so.1"] == (
        f"{tmp_path}/libnvidia-ml.so.580.1",
        False,
    )
    assert found["/opt/harp/driver/libnvidia-ptxjitcompiler.so.1"] == (
        f"{tmp_path}/libnvidia-ptxjitcompiler.so.580.1",
        False,
    )
    assert len(found) == 5
    assert edits(things)["deviceNodes"] == [{"path": "/dev/nvidiactl"}, {"path": "/dev/nvidia3"}]
    assert not [line for line in edits(things)["env"] if "SOFT" in str(line)]


def test_nodes_are_the_drivers_minors(tmp_path: Path) -> None:
    for bus, uuid, minor in (("0000:01:00.0", "GPU-a", 5), ("0000:02:00.0", "GPU-b", 0)):
        folder = tmp_path / "proc/driver/nvidia/gpus" / bus
        folder.mkdir(parents=True)
        (folder / "information").write_text(
            f"Model: X\nGPU UUID:\t {uuid}\nDevice Minor: {minor}\n"
        )
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert device_nodes(["GPU-b", "GPU-a"], tmp_path) == (
        "/dev/nvidiactl",
        "/dev/nvidia0",
        "/dev/nvidia5",
    )
    with pytest.raises(NoDevice, match="GPU-c"):
        device_nodes(["GPU-a", "GPU-c"], tmp_path)


@pytest.mark.parametrize("name", ["", "-a", "a-", "a/b", "a b", "ä", "a" * 65, "a\n", "../a"])
def test_no_names_of_devices(name: str) -> None:
    with pytest.raises(ConfigError):
        device_name(name)
    assert tenant_of(f"harp.dev-tenant-{name}.json") is None


@pytest.mark.parametrize("name", ["a", "t1", "train.A_1:b-2", "a" * 64])
def test_names_of_devices_and_of_their_files(name: str) -> None:
    assert tenant_of(file_name(name)) == name
    assert tenant_of(f"nvidia-{name}.json") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root's files, and to give them away")
def test_what_others_may_change_is_not_run_by_root(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    path = folder / "hook"
    folder.mkdir()
    path.touch(mode=0o755)
    check_path(path)  # /tmp itself is everybody's, and sticky: nobody takes away what is root's
    for mode in (0o775, 0o757, 0o1777):
        folder.chmod(mode)
        if mode != 0o1777:
            with pytest.raises(RunDirUnsafe, match=str(folder)):
                check_path(path)
        with pytest.raises(RunDirUnsafe, match=str(folder)):
            check_path(folder)
    folder.chmod(0o755)
    path.chmod(0o777)
    with pytest.raises(RunDirUnsafe):
        check_path(path)
    path.chmod(0o755)
    os.chown(path, 61234, -1)
    with pytest.raises(RunDirUnsafe):
        check_path(path)
    os.chown(path, 0, -1)
    os.chown(folder, 61234, -1)
    with pytest.raises(RunDirUnsafe):
        check_path(path)
    # Nor through a link from where nobody else may write: what it leads to is taken away there.
    (tmp_path / "to-another's").symlink_to(path)
    with pytest.raises(RunDirUnsafe, match=str(folder)):
        check_path(tmp_path / "to-another's")
    # A link to what is safe is as safe as where it lies.
    os.chown(folder, 0, -1)
    (tmp_path / "link").symlink_to(path)
    check_path(tmp_path / "link")
    (tmp_path / "everybodys").symlink_to("/tmp")
    with pytest.raises(RunDirUnsafe):
        check_path(tmp_path / "everybodys")


class Harpd:
    """All that describing a tenant asks of it."""

    def __init__(self, run_dir: Path = Path("/none")) -> None:
        self.run_dir = SimpleNamespace(path=run_dir)
        self.tenants: dict[str, pb.Tenant] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def state(self) -> SimpleNamespace:
        found = list(self.tenants.values())
        time.sleep(0.3)  # long enough for another to ask the same
        return SimpleNamespace(tenants=found)

    def deposit(self, _sock: object) -> bytes:
        return b"ticket"

    def create(self, asked: pb.CreateTenantRequest) -> SimpleNamespace:
        if asked.name in self.tenants:
            raise ConfigError("there already")
        self.tenants[asked.name] = pb.Tenant(name=asked.name, grant_dir=asked.grant_dir)
        return SimpleNamespace(tenant=self.tenants[asked.name])

    def info(self) -> pb.GetInfoReply:
        return pb.GetInfoReply(kind=pb.DEVICE_KIND_NVIDIA, cuda_path="/c", nvml_path="/n")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root's files, and to give them away")
def test_only_roots_tenants_are_described(
    tmp_path: Path, native_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who can change the folder of a grant could put another's in its place, or take it away."""
    monkeypatch.setattr("harp.cli.cdi.device_nodes", lambda _uuids: ())
    roots, users = tmp_path / "root", tmp_path / "user"
    for folder in (roots, roots / "grant", users, users / "grant"):
        folder.mkdir(mode=0o755)
    (users / "link").symlink_to(roots / "grant")
    os.chown(users, 61234, -1)
    os.chown(users / "grant", 61234, -1)
    places = Places(tmp_path / "out", tmp_path / "state", tmp_path / "grants")
    native = find({"HARP_NATIVE_DIR": str(native_dir)})

    def describe(folder: Path) -> dict[str, object]:
        tenant = pb.Tenant(name="t1", grant_dir=str(folder))
        return _describe(Harpd(), places, tenant, native, None)  # type: ignore[arg-type]

    with pytest.raises(RunDirUnsafe, match="user"):
        describe(users / "grant")
    with pytest.raises(ConfigError, match="is not there"):
        describe(roots / "gone")
    assert not places.output.exists()
    # A link may be led elsewhere later: what is mounted is the folder that was looked at.
    said = json.loads(Path(str(describe(users / "link")["spec"])).read_text())
    (device,) = said["devices"]
    sources = {m["containerPath"]: m["hostPath"] for m in device["containerEdits"]["mounts"]}
    assert sources["/opt/harp/grant"] == str(roots / "grant")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root describes devices")
def test_two_commands_for_one_tenant_make_it_once(
    tmp_path: Path, native_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second would take the first's folder, with the socket that is served, for a left one."""
    harpd = Harpd(tmp_path)
    monkeypatch.setattr("harp.cli.cdi.device_nodes", lambda _uuids: ())
    monkeypatch.setattr("harp.cli.cdi.connect_or_start", lambda _env: (harpd, False))
    monkeypatch.setenv("HARP_NATIVE_DIR", str(native_dir))
    words = ["t1", "--mem", "1GiB", "--json", "--output", f"{tmp_path}/out"]
    words += ["--state", f"{tmp_path}/state"]
    said: list[str] = []

    def command() -> None:
        try:
            cdi.main(words, standalone_mode=False)
            said.append("made")
        except ConfigError as error:
            said.append(str(error))

    both = [threading.Thread(target=command) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert sorted(said, key=len) == ["made", "tenant t1 is there already"]
    assert (tmp_path / "cdi/t1/arbiter.sock").is_socket()
