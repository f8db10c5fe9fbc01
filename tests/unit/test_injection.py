# SPDX-License-Identifier: Apache-2.0
"""Folders of injected libraries, and the environment that leads to them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from harp.errors import BuildMissing, RunDirUnsafe
from harp.inject import Backing, shim_dir, soft_dir, tenant_env
from harp.native import NativeDir, find, scrub

FILES = {
    "libharp.so": b"shim",
    "libharp-nvml.so": b"twin",
    "soft/libcuda.so.1": b"soft",
    "soft/libnvidia-ml.so.1": b"nvml",
    "harp-ptxc": b"ptxc",
    "harp-arbiter": b"arbiter",
}


@pytest.fixture
def native(tmp_path: Path) -> NativeDir:
    for name, content in FILES.items():
        path = tmp_path / "native" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return NativeDir(tmp_path / "native")


def test_the_shim_folder_has_all_four_names(native: NativeDir, tmp_path: Path) -> None:
    folder = shim_dir(native, tmp_path)
    for name in ("libcuda.so", "libcuda.so.1"):
        assert (folder / name).read_bytes() == b"shim"
    for name in ("libnvidia-ml.so", "libnvidia-ml.so.1"):
        assert (folder / name).read_bytes() == b"twin"
    assert not (folder / "libcuda.so.1").is_symlink()
    assert os.access(folder / "libcuda.so.1", os.X_OK)


def test_an_upgrade_makes_a_new_folder_and_touches_no_mapped_file(
    native: NativeDir, tmp_path: Path
) -> None:
    old = shim_dir(native, tmp_path)
    inode = (old / "libcuda.so.1").stat().st_ino
    assert shim_dir(native, tmp_path) == old
    native.libharp.write_bytes(b"newer shim")
    new = shim_dir(native, tmp_path)
    assert new != old
    assert (old / "libcuda.so.1").stat().st_ino == inode
    assert (old / "libcuda.so.1").read_bytes() == b"shim"
    assert (new / "libcuda.so.1").read_bytes() == b"newer shim"


def test_many_at_once_make_one_folder(native: NativeDir, tmp_path: Path) -> None:
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(soft_dir(native, tmp_path).cuda))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert found[0].read_bytes() == b"soft"
    assert (found[0].parent / "harp-ptxc").read_bytes() == b"ptxc"
    assert list((tmp_path / "soft").iterdir()) == [found[0].parent]


def test_a_tenants_environment_leads_to_the_shim_first(native: NativeDir, tmp_path: Path) -> None:
    shim, backing = shim_dir(native, tmp_path), soft_dir(native, tmp_path)
    base = {"PATH": "/bin", "LD_PRELOAD": "/x/mine.so", "LD_LIBRARY_PATH": "/x", "HARP_GRANT": "/o"}
    env = tenant_env(base, grant_dir=tmp_path / "g", shim=shim, backing=backing)
    assert env["LD_PRELOAD"] == f"{shim}/libcuda.so.1:/x/mine.so"
    assert env["LD_LIBRARY_PATH"] == f"{shim}:/x"
    assert env["HARP_GRANT"] == str(tmp_path / "g")
    assert env["HARP_CUDA_REAL"] == str(backing.cuda)
    assert env["HARP_NVML_REAL"] == str(backing.nvml)
    assert env["HARP_LOG"] == str(tmp_path / "g" / "shim.log")
    again = tenant_env(env, grant_dir=tmp_path / "h", shim=shim, backing=backing)
    assert again["LD_PRELOAD"] == env["LD_PRELOAD"]
    assert again["LD_LIBRARY_PATH"] == env["LD_LIBRARY_PATH"]


def test_scrubbing_undoes_the_injection_and_nothing_else(native: NativeDir, tmp_path: Path) -> None:
    base = {"PATH": "/bin", "LD_PRELOAD": "/x/mine.so", "LD_LIBRARY_PATH": "/x:/y", "HARP_RUN": "r"}
    shim, backing = shim_dir(native, tmp_path), soft_dir(native, tmp_path)
    env = tenant_env(base, grant_dir=tmp_path / "g", shim=shim, backing=backing)
    del env["HARP_LOG"]
    assert scrub(env) == base
    assert scrub({"PATH": "/bin"}) == {"PATH": "/bin"}
    only_ours = {"LD_PRELOAD": f"{shim}/libcuda.so.1", "LD_LIBRARY_PATH": str(shim)}
    assert scrub(only_ours) == {}


def test_a_path_that_ld_preload_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirUnsafe, match="blank or a colon"):
        tenant_env(
            {},
            grant_dir=tmp_path,
            shim=tmp_path / "a b",
            backing=Backing(tmp_path, tmp_path),
        )


def test_missing_files_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(BuildMissing) as caught:
        _ = find({"HARP_NATIVE_DIR": str(tmp_path)}).arbiter
    assert "harp-arbiter" in caught.value.message
    assert "HARP_NATIVE_DIR" in caught.value.hint


def test_without_an_override_the_package_own_folder_is_used() -> None:
    assert find({}).path.parts[-2:] == ("harp", "_lib")
