# SPDX-License-Identifier: Apache-2.0
"""The cache: found again, never trusted when others could have written it, one compile at a time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ptx_harness import HEAD, compile_ptx, entry, program, ptxc

TEXT = HEAD + entry("k", 0, "")


def test_same_text_is_compiled_once_and_anything_else_again(tmp_path: Path) -> None:
    first = compile_ptx(TEXT, "k", tmp_path)
    stamp = first.stat().st_mtime_ns
    assert compile_ptx(TEXT, "k", tmp_path) == first
    assert first.stat().st_mtime_ns == stamp
    assert compile_ptx(TEXT + "\n", "k", tmp_path) != first
    assert compile_ptx(TEXT + entry("j", 0, ""), "j", tmp_path) != first
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".so"] * 3
    assert first.stat().st_mode & 0o777 == 0o500
    assert len(first.stem) == 64


def test_other_compiler_or_flags_is_another_key(tmp_path: Path) -> None:
    wrapper = tmp_path / "cc"
    wrapper.write_text('#!/bin/sh\nexec cc "$@"\n')
    wrapper.chmod(0o755)
    cache = tmp_path / "cache"
    first = compile_ptx(TEXT, "k", cache)
    env = {"PATH": os.environ["PATH"], "HARP_PTXC_CC": str(wrapper)}
    out = ptxc("compile", "--kernel", "k", "--cache", str(cache), text=TEXT, env=env)
    assert out.returncode == 0
    assert Path(out.stdout.strip()) != first


def test_another_build_of_the_program_is_another_key(tmp_path: Path) -> None:
    """Told by the sum that its linker left in it; by all its bytes where there is none."""
    data = program().read_bytes()
    note = data.index(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0")
    changed = {name: bytearray(data) for name in ("same", "sum", "none", "longer")}
    changed["sum"][note + 16] ^= 1
    changed["none"][note + 8] = 9  # a note of another kind
    changed["longer"] = changed["none"] + b"\0"
    paths = {}
    for name, content in changed.items():
        copy = tmp_path / name
        copy.write_bytes(content)
        copy.chmod(0o755)
        out = subprocess.run(
            [copy, "compile", "--kernel", "k", "--cache", tmp_path / "cache"],
            input=TEXT,
            capture_output=True,
            text=True,
            check=True,
        )
        paths[name] = out.stdout
    assert len(set(paths.values())) == 4
    assert paths["same"].strip() == str(compile_ptx(TEXT, "k", tmp_path / "cache"))


def test_default_folders(tmp_path: Path) -> None:
    base = {"PATH": os.environ["PATH"]}
    for env, folder in (
        (
            {"XDG_CACHE_HOME": str(tmp_path / "xdg"), "HOME": str(tmp_path)},
            tmp_path / "xdg/harp/ptx",
        ),
        ({"HOME": str(tmp_path)}, tmp_path / ".cache/harp/ptx"),
    ):
        out = ptxc("compile", "--kernel", "k", text=TEXT, env=base | env)
        assert Path(out.stdout.strip()).parent == folder
        assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o722])
def test_folder_that_others_may_write_to_is_refused(mode: int, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(mode)
    out = ptxc("compile", "--kernel", "k", "--cache", str(folder), text=TEXT)
    assert out.returncode == 6
    assert "others may write" in out.stderr
    assert not list(folder.iterdir())


def test_folder_behind_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "cache").symlink_to(tmp_path / "real")
    out = ptxc("compile", "--kernel", "k", "--cache", str(tmp_path / "cache"), text=TEXT)
    assert out.returncode == 6
    assert "not a folder" in out.stderr


@pytest.mark.parametrize("damage", ["writable", "link", "folder"])
def test_cached_file_that_is_not_ours_is_refused(damage: str, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    path = compile_ptx(TEXT, "k", folder)
    if damage == "writable":
        path.chmod(0o520)
    else:
        path.rename(tmp_path / "moved")
        if damage == "link":
            path.symlink_to(tmp_path / "moved")
        else:
            path.mkdir()
    out = ptxc("compile", "--kernel", "k", "--cache", str(folder), text=TEXT)
    assert out.returncode == 6
    assert str(path) in out.stderr
    assert "remedy" in out.stderr
    assert out.stdout == ""


def _spoil(path: Path, how: str, other: Path) -> None:
    data = bytearray(path.read_bytes())
    path.chmod(0o700)
    match how:
        case "cut short":
            path.write_bytes(data[:-4096])
        case "empty":
            path.write_bytes(b"")
        case "a bit":
            data[len(data) // 2] ^= 4
            path.write_bytes(data)
        case "longer":
            path.write_bytes(data + b"0")
        case "another's":
            path.write_bytes(other.read_bytes())
    path.chmod(0o500)


@pytest.mark.parametrize("how", ["cut short", "empty", "a bit", "longer", "another's"])
def test_damaged_file_is_compiled_again(how: str, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    path = compile_ptx(TEXT, "k", folder)
    other = compile_ptx(TEXT + "\n", "k", folder)
    right = path.read_bytes()
    _spoil(path, how, other)
    assert path.read_bytes() != right
    before = path.stat().st_ino
    assert compile_ptx(TEXT, "k", folder) == path
    assert path.stat().st_ino != before  # whoever has the old one mapped keeps it
    assert path.read_bytes() == right
    assert path.stat().st_mode & 0o777 == 0o500


@pytest.mark.parametrize("mode", [0o777, 0o775])
def test_folder_that_others_may_move_is_refused(mode: int, tmp_path: Path) -> None:
    """Between a look at it and its use it could be another's."""
    above = tmp_path / "above"
    folder = above / "mine" / "cache"
    folder.mkdir(parents=True, mode=0o700)
    above.chmod(mode)
    out = ptxc("compile", "--kernel", "k", "--cache", str(folder), text=TEXT)
    assert out.returncode == 6
    assert "a folder above" in out.stderr
    assert not list(folder.iterdir())
    # By default another place is taken.
    env = {"PATH": os.environ["PATH"], "XDG_CACHE_HOME": str(above / "mine")}
    out = ptxc("compile", "--kernel", "k", text=TEXT, env=env)
    assert out.stdout.startswith(f"/tmp/harp-ptx-{os.geteuid()}/")
    Path(out.stdout.strip()).unlink()
    above.chmod(mode | 0o1000)
    compile_ptx(TEXT, "k", folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files to another user")
@pytest.mark.parametrize("mode", [0o755, 0o1777])
def test_folder_in_another_users_is_refused(mode: int, tmp_path: Path) -> None:
    """A folder's owner may rename what lies in it, sticky or not."""
    above = tmp_path / "above"
    folder = above / "cache"
    folder.mkdir(parents=True, mode=0o700)
    above.chmod(mode)
    compile_ptx(TEXT, "k", folder)
    os.chown(above, 65534, 65534)
    out = ptxc("compile", "--kernel", "k", "--cache", str(folder), text=TEXT)
    assert out.returncode == 6
    assert "a folder above is another user's" in out.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files to another user")
def test_file_or_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    path = compile_ptx(TEXT, "k", folder)
    os.chown(path, 65534, 65534)
    out = ptxc("compile", "--kernel", "k", "--cache", str(folder), text=TEXT)
    assert out.returncode == 6
    path.unlink()
    os.chown(folder, 65534, 65534)
    out = ptxc("compile", "--kernel", "k", "--cache", str(folder), text=TEXT)
    assert out.returncode == 6
    assert "another user" in out.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_squatted_folder_in_tmp_is_not_used() -> None:
    # A user without a home, whose /tmp folder somebody else (root) has made first.
    uid = 61234
    squat = Path(f"/tmp/harp-ptx-{uid}")
    squat.mkdir(mode=0o700)
    try:
        code = f"import os; os.setgid({uid}); os.setuid({uid}); os.execv('{program()}', ['p', 'compile', '--kernel', 'k'])"
        out = subprocess.run(
            [sys.executable, "-c", code],
            input=TEXT,
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": os.environ["PATH"]},
        )
        if "Permission denied" in out.stderr and "another user" not in out.stderr:
            pytest.skip("another user cannot reach the program in this checkout")
        assert out.returncode == 6
        assert "another user" in out.stderr
        assert not list(squat.iterdir())
    finally:
        squat.rmdir()


@pytest.mark.parametrize("spoilt", [False, True])
def test_many_processes_at_once_compile_once(spoilt: bool, tmp_path: Path) -> None:
    counter = tmp_path / "count"
    wrapper = tmp_path / "cc"
    wrapper.write_text(f'#!/bin/sh\necho x >>{counter}\nexec cc "$@"\n')
    wrapper.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "HARP_PTXC_CC": str(wrapper)}
    args = [str(program()), "compile", "--kernel", "k", "--cache", str(tmp_path / "cache")]
    source = tmp_path / "k.ptx"
    source.write_text(TEXT)
    if spoilt:
        made = subprocess.run(
            [*args, str(source)], stdout=subprocess.PIPE, text=True, env=env, check=True
        )
        _spoil(Path(made.stdout.strip()), "cut short", source)
        counter.unlink()
    procs = [
        subprocess.Popen([*args, str(source)], stdout=subprocess.PIPE, text=True, env=env)
        for _ in range(8)
    ]
    outs = [(p.communicate()[0], p.returncode) for p in procs]
    assert {code for _, code in outs} == {0}
    assert len({text for text, _ in outs}) == 1
    assert counter.read_text().count("x") == 1
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [".so"]


def test_killed_compile_leaves_nothing_that_stops_the_next(tmp_path: Path) -> None:
    flag = tmp_path / "started"
    wrapper = tmp_path / "cc"
    wrapper.write_text(f"#!/bin/sh\necho >{flag}\nexec sleep 60\n")
    wrapper.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "HARP_PTXC_CC": str(wrapper)}
    cache = tmp_path / "cache"
    args = [str(program()), "compile", "--kernel", "k", "--cache", str(cache)]
    # Its compiler is its child: a group of its own, so that both can be ended.
    with subprocess.Popen(args, stdin=subprocess.PIPE, env=env, text=True, process_group=0) as p:
        assert p.stdin
        p.stdin.write(TEXT)
        p.stdin.close()
        while not flag.exists():
            pass
        os.killpg(p.pid, 9)
    wrapper.write_text('#!/bin/sh\nexec cc "$@"\n')
    out = subprocess.run(args, input=TEXT, env=env, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr


def test_failing_compiler_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    wrapper = tmp_path / "cc"
    wrapper.write_text("#!/bin/sh\necho 'kernel.c:1: error: no room' >&2\nexit 1\n")
    wrapper.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "HARP_PTXC_CC": str(wrapper)}
    cache = tmp_path / "cache"
    out = ptxc("compile", "--kernel", "k", "--cache", str(cache), text=TEXT, env=env)
    assert out.returncode == 6
    assert "no room" in out.stderr
    assert not list(cache.iterdir())


def test_compiler_does_not_see_the_clients_preload(tmp_path: Path) -> None:
    wrapper = tmp_path / "cc"
    seen = tmp_path / "seen"
    wrapper.write_text(f'#!/bin/sh\nenv >{seen}\nexec cc "$@"\n')
    wrapper.chmod(0o755)
    env = {"PATH": os.environ["PATH"], "HARP_PTXC_CC": str(wrapper), "LD_LIBRARY_PATH": "/x"}
    env |= {"CPATH": "/y", "HARP_GRANT": "/z", "GCC_EXEC_PREFIX": "/w"}
    out = ptxc("compile", "--kernel", "k", "--cache", str(tmp_path / "c"), text=TEXT, env=env)
    assert out.returncode == 0
    names = {line.split("=")[0] for line in seen.read_text().splitlines()}
    assert names <= {"PATH", "LC_ALL", "TMPDIR", "PWD", "OLDPWD", "SHLVL", "_"}
