# SPDX-License-Identifier: Apache-2.0
"""Folders of injected libraries, and the environment that leads to them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from proc_files import write_stat

from harp import inject
from harp.cli.cdi import check_path
from harp.errors import BuildMissing, RunDirUnsafe
from harp.inject import Backing, shim_dir, soft_dir, tenant_env
from harp.native import NativeDir, find, scrub

MAP = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
print("mapped", flush=True)
sys.stdin.read()
"""
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


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_any_user_can_load_them_whatever_the_umask(
    umask: int, native: NativeDir, tmp_path: Path
) -> None:
    """A container's processes may be any user's."""
    state = tmp_path / "state"
    for mended in (False, True):
        old = os.umask(umask)
        try:
            if os.geteuid() == 0:
                check_path(state, make=True)
            shim, soft = shim_dir(native, state), soft_dir(native, state).cuda.parent
        finally:
            os.umask(old)
        made = (state,) if os.geteuid() == 0 else ()
        for path in (*made, shim.parent, shim, soft.parent, soft):
            assert path.stat().st_mode & 0o777 == 0o755, (mended, path)
        for folder in (shim, soft):
            for path in folder.iterdir():
                assert path.stat().st_mode & 0o444 == 0o444, path
        for path in (shim.parent, shim):  # as an earlier version left them
            path.chmod(0o700)


def aged(folder: Path) -> Path:
    """As if it had been handed out an hour ago."""
    then = time.time() - 3600
    os.utime(folder, (then, then))
    return folder


def test_an_old_folder_goes_when_nobody_uses_it(native: NativeDir, tmp_path: Path) -> None:
    old = shim_dir(native, tmp_path)
    native.libharp.write_bytes(b"newer shim")
    new = shim_dir(native, tmp_path)
    assert old.is_dir(), "it was handed out just now, and may be on its way into a process"
    aged(old)
    with subprocess.Popen(
        ["sleep", "60"], env={"LD_LIBRARY_PATH": f"/x:{old}"}, stdout=subprocess.PIPE
    ) as user:
        assert shim_dir(native, tmp_path) == new
        assert old.is_dir(), "a process's children would find it"
        user.kill()
    with subprocess.Popen(
        [sys.executable, "-c", MAP, old / "libcuda.so.1"], stdin=subprocess.PIPE, stdout=-1
    ) as user:
        assert user.stdout
        user.stdout.readline()
        assert shim_dir(native, tmp_path) == new
        assert old.is_dir(), "it is mapped"
        user.kill()
    assert shim_dir(native, tmp_path) == new
    assert list((tmp_path / "shim").iterdir()) == [new]


def a_process(root: Path, pid: int, *, maps: str, environ: str, env: tuple[int, int]) -> Path:
    folder = root / str(pid)
    folder.mkdir(parents=True)
    (folder / "maps").write_text(maps)
    (folder / "environ").write_text(environ)
    write_stat(folder, env)
    return folder


def test_a_process_that_is_starting_a_program_shows_its_environment_a_moment_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    process = a_process(tmp_path / "proc", 7, maps="7f0 [stack]", environ="", env=(0, 0))

    def sleep(_s: float) -> None:
        (process / "environ").write_text(f"X={folders[0]}")

    monkeypatch.setattr(inject, "time", SimpleNamespace(sleep=sleep))
    assert inject._used(folders, tmp_path / "proc") == {folders[0]}


def test_a_start_that_ends_between_two_looks_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its environment was empty when that was read, and is said to be there a moment later."""
    folders = [tmp_path / "one", tmp_path / "two"]
    process = a_process(tmp_path / "proc", 7, maps="7f0 [stack]", environ="", env=(0, 0))
    look = inject.may_have_environ

    def ends_before_the_look(folder: Path) -> bool:
        write_stat(process, (4000, 4096))
        (process / "environ").write_text(f"X={folders[0]}")
        return look(folder)

    monkeypatch.setattr(inject, "may_have_environ", ends_before_the_look)
    assert inject._used(folders, tmp_path / "proc") == {folders[0]}


def test_while_a_process_goes_on_starting_a_program_nothing_is_unused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inject, "_EXEC_S", 0.0)
    folders = [tmp_path / "one", tmp_path / "two"]
    a_process(tmp_path / "proc", 7, maps="7f0 [stack]", environ="", env=(0, 0))
    assert inject._used(folders, tmp_path / "proc") == set(folders)


def test_processes_without_an_environment_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inject, "time", None)
    folders = [tmp_path / "one", tmp_path / "two"]
    a_process(tmp_path / "proc", 7, maps=f"7f0 {folders[1]}/x", environ="", env=(4096, 4096))
    thread = a_process(tmp_path / "proc", 8, maps="", environ="", env=(0, 0))
    write_stat(thread, (0, 0), vsize=0)  # a kernel's thread
    (tmp_path / "proc" / "9").mkdir()  # ended meanwhile
    assert inject._used(folders, tmp_path / "proc") == {folders[1]}


def test_a_current_folder_is_never_swept_however_old(native: NativeDir, tmp_path: Path) -> None:
    current = aged(shim_dir(native, tmp_path))
    assert shim_dir(native, tmp_path) == current
    assert (current / "libcuda.so.1").read_bytes() == b"shim"


def test_what_others_have_put_there_is_never_swept(native: NativeDir, tmp_path: Path) -> None:
    """As a software GPU's own files, whose folder may have been named so."""
    folder = tmp_path / "soft" / "images"
    folder.mkdir(parents=True)
    aged(folder)
    file = tmp_path / "soft" / "slots"
    file.touch()
    os.utime(file, (0, 0))
    soft_dir(native, tmp_path)
    assert folder.is_dir()
    assert file.is_file()


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
