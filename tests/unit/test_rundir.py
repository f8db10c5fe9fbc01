# SPDX-License-Identifier: Apache-2.0
"""Where HARP's processes meet, and what is refused there."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest

from harp.errors import ConfigError, RunDirUnsafe
from harp.rundir import (
    RENDEZVOUS,
    SYSTEM,
    RunDir,
    find,
    make_user_dir,
    state_dir,
    sweep,
    user_dir,
)


def test_harp_run_wins() -> None:
    assert find({"HARP_RUN": "/some/where"}).path == Path("/some/where")


def test_everybody_else_meets_in_one_of_two_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert find({}).path == SYSTEM
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(RunDir, "alive", lambda _self: True)
    assert find({}).path == SYSTEM
    monkeypatch.setattr(RunDir, "alive", lambda _self: False)
    assert find({}).path == RENDEZVOUS


def test_a_link_or_an_open_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o755)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(RunDirUnsafe, match="links are refused"):
        RunDir(tmp_path / "link").check()
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(RunDirUnsafe, match="writable by everybody"):
        RunDir(tmp_path / "open").check()
    (tmp_path / "file").touch()
    with pytest.raises(RunDirUnsafe, match="no folder"):
        RunDir(tmp_path / "file").check()
    with pytest.raises(RunDirUnsafe, match="too long"):
        RunDir(tmp_path / ("x" * 100)).check()
    RunDir(tmp_path / "real").check()


def test_other_users_can_enter_whatever_the_umask_was(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        RunDir(tmp_path / "run").make()
    finally:
        os.umask(before)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755


def test_somebody_elses_folder_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = RunDir(tmp_path / "theirs")
    theirs.make()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(RunDirUnsafe, match="belongs to uid") as caught:
        theirs.make()
    assert "HARP_RUN" in caught.value.hint


def test_nobody_lives_in_a_folder_without_a_daemon(tmp_path: Path) -> None:
    assert not RunDir(tmp_path).alive()
    (tmp_path / "auth.sock").touch()
    assert not RunDir(tmp_path).alive()


def test_the_users_folder_is_private(tmp_path: Path) -> None:
    env = {"XDG_RUNTIME_DIR": str(tmp_path)}
    path = make_user_dir(env)
    assert path == tmp_path / "harp"
    assert path.stat().st_mode & 0o777 == 0o700
    assert make_user_dir(env) == path
    path.chmod(0o750)
    with pytest.raises(RunDirUnsafe, match="open to others"):
        make_user_dir(env)


def test_another_users_xdg_folder_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`su` leaves XDG_RUNTIME_DIR as it was."""
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    path = user_dir({"XDG_RUNTIME_DIR": str(tmp_path)})
    assert path == Path(f"/tmp/harp-{os.getuid() + 1}")


@pytest.mark.parametrize(
    ("env", "uid", "folder"),
    [
        ({"HARP_STATE": "/s", "HARP_RUN": "/r"}, 0, "/s"),
        ({"HARP_RUN": "/r"}, 0, "/r/state"),
        ({"HARP_RUN": "/r", "HOME": "/h"}, 1000, "/r/state"),
        ({}, 0, "/var/lib/harp"),
        ({"HOME": "/h"}, 1000, "/h/.local/state/harp"),
        ({"HOME": "/h", "XDG_STATE_HOME": "/x"}, 1000, "/x/harp"),
    ],
)
def test_what_lasts_is_kept_beside_a_run_folder_of_ones_own_or_where_the_user_keeps_it(
    env: dict[str, str], uid: int, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert state_dir(env) == Path(folder)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_folders_of_runs_that_ended_go_and_no_others(
    tmp_path: Path, kind: socket.SocketKind
) -> None:
    with (
        socket.socket(socket.AF_UNIX, kind) as ended,
        socket.socket(socket.AF_UNIX, kind) as lives,
    ):
        for name in ("none", "young", "ended", "lives"):
            (tmp_path / name).mkdir()
        ended.bind(str(tmp_path / "ended" / "s"))
        lives.bind(str(tmp_path / "lives" / "s"))
        lives.listen(1)
        ended.close()
        for path in tmp_path.iterdir():
            at_s = time.time() - (0 if path.name == "young" else 3600)
            os.utime(path, (at_s, at_s))
        sweep(tmp_path, "s", kind)
        assert {path.name for path in tmp_path.iterdir()} == {"young", "lives"}


def test_flags_are_kept_as_they_were_given(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    assert run_dir.kept_flags() == ()
    for flags in (("a.b=c d", "e.f=\n=ü"), ()):
        run_dir.keep_flags(flags)
        assert run_dir.kept_flags() == flags
    run_dir.flags.write_text('["a.b=')
    with pytest.raises(ConfigError, match=r"cannot read .*flags\.json") as caught:
        run_dir.kept_flags()
    assert "harp daemon --stop" in caught.value.hint
