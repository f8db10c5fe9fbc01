# SPDX-License-Identifier: Apache-2.0
"""Folders and users of leases: which uids are free, which folders serve; whose a tenant is then."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harp.daemon.owners import Wish, check_owner, check_user
from harp.errors import ConfigError, DaemonError, NotOwner, QuotaExceeded
from harp.model import Limits, Policy, Tenant
from harp.native import find
from harp.remote import clearing
from harp.remote import homes as module
from harp.remote.homes import Home, Homes, passable, serving_folder
from harp.remote.uids import DEFAULT, Range, Uids, parse

TENANT = Tenant(
    tenant_id=1, name="t", uid=70_000, root_pid=7, root_start=1, grant_dir="/g",
    device_uuids=("GPU-0",), limits=Limits(), policy=Policy.WARN, created_s=0.0, for_root=True,
)  # fmt: skip
#: Python gives up before
DEPTH = 1100
WISH = Wish("w", "", 0, "", Limits(), Policy.WARN, 7, "/h")


def test_a_range_is_two_uids() -> None:
    assert parse("1000-4294967294") == Range(1000, 4294967294)
    assert parse("none") is None
    assert DEFAULT.last - DEFAULT.first + 1 == 65536


@pytest.mark.parametrize(
    "text",
    ["", "70000", "-70000", "999-2000", "2000-1999", "1000-4294967295", "0-0", "a-b", "1-2-3"],
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"no range of uids|do not lie in 1000-4294967294"):
        parse(text)


def host(base: Path, mapped: str = "0 0 4294967295", **running: str) -> Path:
    """Its /proc: processes by their uids."""
    proc = base / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "uid_map").write_text(mapped + "\n")
    for pid, uids in running.items():
        (proc / pid[1:]).mkdir()
        state, threads, *ids = uids.split()
        text = "Name:\tUid:\nState:\t{} (x)\nUid:\t{}\nThreads:\t{}\nGid:\t1\n"
        (proc / pid[1:] / "status").write_text(text.format(state, "\t".join(ids), threads))
    return proc


def test_the_next_uid_that_nobody_has_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def account(uid: int) -> None:
        if uid != 70_003:
            raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", account)
    proc = host(
        tmp_path,
        p5="S 1 70000 1 1 1",
        p6="Z 2 1 1 70001 1",  # its first thread has ended, and another goes on
        p7="S 9 69999 70009 0 0",
        p8="Z 1 70002 70002 70002 70002",
    )
    uids = Uids(Range(70_000, 70_005), tmp_path, proc)
    assert [uids.take(), uids.take()] == [70_002, 70_004]  # 70003 is somebody's account
    (proc / "5" / "status").unlink()
    uids.give_back(70_002)  # comes last again
    assert [uids.take() for _ in range(3)] == [70_005, 70_000, 70_002]
    with pytest.raises(DaemonError, match="all uids of 70000-70005 are in use"):
        uids.take()
    uids.close()


@pytest.mark.parametrize(
    ("mapped", "there"),
    [
        ("0 0 65536", False),
        ("0 100000 70010", True),
        ("0 0 70005\n70005 900000 5", True),
        ("70005 900000 5\n0 0 70005", True),
        ("0 0 70004\n70005 900000 5", False),
        ("0 0 70009", False),
    ],
)
def test_uids_of_another_user_namespace_are_none(tmp_path: Path, mapped: str, there: bool) -> None:
    proc = host(tmp_path, mapped)
    if there:
        Uids(Range(70_000, 70_009), tmp_path, proc).close()
    else:
        with pytest.raises(ConfigError, match="not all there in this user namespace"):
            Uids(Range(70_000, 70_009), tmp_path, proc)


def test_locks_that_are_a_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "harp-worker-uids.lock").symlink_to("elsewhere")
    with pytest.raises(ConfigError, match="cannot open"):
        Uids(Range(70_000, 70_009), tmp_path, host(tmp_path))


def test_a_folder_on_the_way_is_named() -> None:
    """Of what is there: the rest is made with the right modes."""
    with tempfile.TemporaryDirectory() as text:  # pytest's own folders are closed to others
        base = Path(text)
        base.chmod(0o711)
        inner = base / "a" / "b"
        inner.mkdir(parents=True)
        passable(inner / "c" / "d")
        inner.parent.chmod(0o710)
        with pytest.raises(ConfigError, match=f"cannot enter {inner.parent}: {inner}/c/d is below"):
            passable(inner / "c" / "d")
        inner.parent.chmod(0o777)
        passable(inner / "c")
        with pytest.raises(ConfigError, match="not root's alone"):
            passable(inner / "c", 0)
        inner.parent.chmod(0o755)
        if os.geteuid() == 0:
            passable(inner / "c", 0)
            os.chown(inner.parent, 70_000, 70_000)
        with pytest.raises(ConfigError, match="not root's alone"):
            passable(inner / "c", 0)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder for sockets, whose paths may have 107 bytes: pytest's own are long."""
    with tempfile.TemporaryDirectory(prefix="hl-") as folder:
        yield Path(folder)


def test_each_lease_of_a_plain_user_has_a_folder_that_is_swept(short_path: Path) -> None:
    with serving_folder(short_path / "remote", 0o700) as folder:
        homes = Homes(folder, short_path, find({}), None)
        made = []
        for _ in range(2):
            with homes.make() as (home, sock):
                assert sock.getsockname() == str(home.folder / "arbiter.sock")
            made.append(home)
        one, other = made
        assert [p.stat().st_mode & 0o777 for p in (one.folder, one.folder / "images")] == [
            0o700
        ] * 2
        assert one.environment() == {"HARP_WORKER_IMAGES": f"{one.folder}/images"}
        asyncio.run(homes.remove(one))
        assert list(folder.iterdir()) == [other.folder]
        (folder.parent / "serve-1").mkdir()
        script = (
            "import pathlib, sys\nfrom harp.remote.homes import serving_folder\n"
            "with serving_folder(pathlib.Path(sys.argv[1]), 0o700): pass"
        )
        subprocess.run([sys.executable, "-c", script, folder.parent], check=True, timeout=60)
        assert list(folder.parent.iterdir()) == [folder]  # its service is there
        assert other.folder.exists()
    assert list((short_path / "remote").iterdir()) == []


def test_a_home_that_cannot_be_furnished_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_args: object) -> None:
        raise OSError(28, "no space")

    monkeypatch.setattr(module.os, "chown", fails)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    uids = Uids(Range(70_000, 70_000), tmp_path, host(tmp_path))
    homes = Homes(tmp_path / "homes", tmp_path, find({}), uids)
    (tmp_path / "homes").mkdir()
    for _ in range(2):  # its user is free again
        with pytest.raises(DaemonError, match="no space"), homes.make():
            pass
    assert list((tmp_path / "homes").iterdir()) == []
    uids.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[Homes, Home]]:
    """A lease's, with a uid of its own where that is possible."""
    base = Path(tempfile.mkdtemp())  # pytest's own folders are closed to others
    base.chmod(0o711)
    first = 2_100_000_000 + os.getpid() % 1_000_000 * 10
    uids = Uids(Range(first, first + 9), tmp_path) if os.geteuid() == 0 else None
    homes = Homes(base, tmp_path, find({}), uids)
    with homes.make() as (home, _):
        yield homes, home
    module._sweep(base, uids)
    assert not base.exists()
    if uids:
        uids.close()


def nested(folder: Path, count: int, uid: int = 0) -> None:
    """So many folders in each other, which no path reaches any more."""
    fd = os.open(folder, os.O_RDONLY)
    for _ in range(count):
        os.mkdir("folder", dir_fd=fd)
        inner = os.open("folder", os.O_RDONLY, dir_fd=fd)
        if uid:
            os.chown(inner, uid, uid)
        os.close(fd)
        fd = inner
    os.close(os.open("file", os.O_CREAT, dir_fd=fd))
    os.close(fd)


def theirs(home: Home, code: str) -> None:
    """What a worker of the lease can do."""
    user = {"user": home.uid, "group": home.uid, "extra_groups": []} if home.uid else {}
    subprocess.run(["sh", "-c", code], cwd=home.folder, check=True, timeout=60, **user)  # type: ignore[call-overload]


def test_a_folder_is_deleted_however_deep_and_closed(own: tuple[Homes, Home]) -> None:
    homes, home = own
    nested(home.folder / "images", DEPTH, home.uid)
    theirs(home, "ln -s .. out; mkdir -p closed/inner; touch closed/inner/file; chmod 0 closed .")
    asyncio.run(homes.remove(home))
    assert not home.folder.exists()


def test_a_killed_services_leases_are_deleted_however_deep(tmp_path: Path) -> None:
    left = tmp_path / "remote" / "serve-1" / "lease"
    left.mkdir(parents=True)
    nested(left, DEPTH)
    (left.parent / "file").touch()
    with serving_folder(tmp_path / "remote", 0o700) as folder:
        assert list(folder.parent.iterdir()) == [folder]
        (folder / "lease").mkdir()
    assert list((tmp_path / "remote").iterdir()) == []


@contextlib.contextmanager
def running(code: str, *argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that does something, and then goes on until it may end."""
    script = f"import fcntl, os, sys; {code}; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-I", "-S", "-c", script, *argv]
    with subprocess.Popen(command, stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become other users")
def test_a_leases_processes_end_with_it_and_nobody_elses(own: tuple[Homes, Home]) -> None:
    homes, home = own
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(running(f"os.setsid(); os.setresuid(*3 * ({uid},))"))
            for uid in (home.uid, home.uid + 1, 0)
        ]
        asyncio.run(homes.end(home))
        assert children[0].wait(timeout=60) == -signal.SIGKILL
        for child in children[1:]:
            assert child.poll() is None
            child.communicate()
            assert child.returncode == 0
    asyncio.run(homes.end(home))  # there is none


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become other users")
@pytest.mark.parametrize("used", [False, True])
def test_a_killed_services_processes_end_unless_their_uid_is_anothers(
    tmp_path: Path, *, used: bool
) -> None:
    uid = 2_100_000_000 + os.getpid() % 1_000_000 * 10
    left = tmp_path / "remote" / "serve-1" / "lease"
    left.mkdir(parents=True)
    os.chown(left, uid, uid)
    uids = Uids(Range(uid, uid), tmp_path)
    with contextlib.ExitStack() as stack:
        child = stack.enter_context(running(f"os.setresuid(*3 * ({uid},))"))
        if used:
            lock = f"fcntl.lockf(file := open(sys.argv[1], 'a'), fcntl.LOCK_EX, 1, {uid})"
            stack.enter_context(running(lock, str(tmp_path / "harp-worker-uids.lock")))
        with serving_folder(tmp_path / "remote", 0o711, uids):
            assert used or child.wait(timeout=60) == -signal.SIGKILL
            assert not used or child.poll() is None
    uids.close()


@pytest.mark.parametrize("uid", [0, 1, 999, os.geteuid()])
def test_nothing_is_ended_as_a_user_of_the_system(uid: int) -> None:
    with pytest.raises(PermissionError, match=f"uid {uid} is no lease's"):
        clearing._become(uid)


def test_what_root_makes_for_another_uid_is_roots() -> None:
    check_owner(TENANT, 0)
    with pytest.raises(NotOwner, match="belongs to uid 0, not 70000"):
        check_owner(TENANT, 70_000)
    check_owner(replace(TENANT, for_root=False), 70_000)
    with pytest.raises(NotOwner, match="uid 70000 is that of tenant t's processes"):
        check_user(replace(WISH, uid=70_000), [TENANT], 256)
    check_user(replace(WISH, uid=70_001), [TENANT], 256)


def test_what_root_makes_for_others_counts_as_roots() -> None:
    with pytest.raises(QuotaExceeded, match="uid 0 has 2 tenants"):
        check_user(
            replace(WISH, uid=70_002, for_root=True),
            [TENANT, replace(TENANT, uid=70_001), replace(TENANT, uid=5, for_root=False)],
            2,
        )
