# SPDX-License-Identifier: Apache-2.0
"""Leases of a node that root serves: a user, a grant folder and an images folder for each."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from link_session import alive
from machine import ROOT, machine, wait_for
from ring_client import Worker
from run_remote_world import Here
from serve_world import MIB, Client, Remote, exe, serving

from harp.api.v1 import remote_pb2 as pb
from harp.client import Client as Harpd
from harp.procs import read

FOLDER = Path(__file__).parent
#: of this run alone: a uid that a process of another run has is not free
FIRST = 2_000_000_000 + os.getpid() % 1_000_000 * 100
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become other users")


def options(first: int = FIRST) -> list[str]:
    """Of `harp remote serve`."""
    uids = ["--worker-uids", f"{first}-{first + 49}"] if os.geteuid() == 0 else []
    return ["--insecure", "--listen", "127.0.0.1:0", *uids]


@pytest.fixture(scope="module")
def shared(native_dir: Path) -> Iterator[Remote]:
    with serving(native_dir, *options()) as found:
        yield found


@pytest.fixture
def node(shared: Remote) -> Iterator[Remote]:
    """The shared one, without anybody before and after; and then nothing of a lease is left."""
    yield shared
    for client in shared.clients:
        client.close()
    shared.clients.clear()
    with grpc.insecure_channel(shared.endpoint) as channel:
        last = Client(shared, channel, {})
        for lease in shared.leases():
            last.stub.Release(pb.ReleaseRequest(lease_id=lease["lease"]), timeout=30)
    assert homes(shared) == []


def homes(node: Remote) -> list[Path]:
    """Folders of leases."""
    return list((node.at.run_dir / "remote").glob("serve-*/*"))


def home(node: Remote, lease: pb.LeaseReply) -> Path:
    (found,) = (Path(t.grant_dir) for t in tenants(node) if t.name.endswith(lease.lease_id[:8]))
    return found


def tenants(node: Remote) -> list[Any]:
    with Harpd.connect(node.at.env) as client:
        return list(client.state().tenants)


def status(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.split(":")[0]: line.split(":")[1].split() for line in lines}


def uid_of(node: Remote, lease: pb.LeaseReply) -> int:
    return home(node, lease).stat().st_uid


def worker_of(node: Remote, uid: int) -> int:
    (pid,) = (p for p in node.workers() if status(p)["Uid"][0] == str(uid))
    return pid


@contextlib.contextmanager
def process_of(uid: int) -> Iterator[None]:
    """Somebody's, who has that uid at the side only."""
    script = f"import os, sys; os.setresuid(0, 0, {uid}); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            yield
        finally:
            child.communicate()


@contextlib.contextmanager
def daemon_of(uid: int) -> Iterator[subprocess.Popen[bytes]]:
    """One of its own session, which ends of nothing else."""
    script = f"import os, sys; os.setresuid(*3 * [{uid}]); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=-1, stdout=-1, start_new_session=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            yield child
        finally:
            child.communicate()


@pytest.mark.slow
@root_only
def test_each_lease_has_a_user_of_its_own(node: Remote) -> None:
    client = node.client()
    uids = []
    for _ in range(2):
        lease = client.lease(mem_limit_bytes=256 * MIB)
        client.holder(lease, 10)
        uids.append(uid := uid_of(node, lease))
        told = status(worker_of(node, uid))
        assert (told["Uid"], told["Gid"]) == ([str(uid)] * 4, [str(uid)] * 4)
        assert (told["Groups"], told["NoNewPrivs"], told["Seccomp"]) == ([], ["1"], ["2"])
        assert int(told["CapPrm"][0], 16) == 0
    assert FIRST <= uids[0] < uids[1]
    assert sorted(t.uid for t in tenants(node)) == uids


@root_only
def test_one_lease_reaches_nothing_of_another(node: Remote) -> None:
    client = node.client()
    leases = [client.lease(mem_limit_bytes=256 * MIB) for _ in range(2)]
    for lease in leases:
        client.holder(lease, 10)
    uids = [uid_of(node, lease) for lease in leases]
    names = [next(t.name for t in tenants(node) if t.uid == uid) for uid in uids]
    other = worker_of(node, uids[1])
    told = {
        "uid": uids[0],
        "own": str(home(node, leases[0])),
        "mine": names[0],
        "pid": other,
        "grant": str(home(node, leases[1])),
        "tenant": names[1],
        "shim": str(next((node.at.run_dir / "shim").iterdir())),
        "secrets": [str(node.at.base / "user/harp"), str(node.at.base / "user/harp/remote")],
    }
    done = subprocess.run(
        [sys.executable, str(FOLDER / "as_lease.py"), json.dumps(told)],
        env=node.at.env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # Its own: so it is not that nothing is reached at all.
    assert (found.pop("own"), found.pop("own_socket")) == ("done", "done")
    refused = ["PermissionError"] * 2
    assert found.pop("tokens") == refused
    for name in ("lift_own", "suspend_other", "more", "for_other"):
        assert found.pop(name) == "NotOwner"
    assert found == dict.fromkeys(found, "PermissionError")
    assert alive(other)


@pytest.mark.slow
@root_only
def test_a_program_computes_and_its_kernels_are_compiled_by_its_user(node: Remote) -> None:
    client = node.client()
    lease = client.lease(mem_limit_bytes=256 * MIB)
    assert json.loads(client.run(lease, "remote_program.py", "add", "1000"))["right"]
    made = list((home(node, lease) / "cache").rglob("*.so"))
    assert [path.stat().st_uid for path in made] == [uid_of(node, lease)]
    with contextlib.closing(Here(node.at.native_dir)) as here:
        command = (sys.executable, str(FOLDER / "remote_program.py"), "add", "1000")
        done = here.run("--remote", node.endpoint, "--insecure", "--", *command)
        assert json.loads(done.stdout)["right"] is True, done.stderr


@pytest.mark.slow
def test_the_second_process_of_a_lease_uploads_no_image(node: Remote) -> None:
    client = node.client()
    lease, other = client.lease(), client.lease()
    assert client.run(lease, "remote_program.py", "add", "1000")
    images = list(home(node, lease).glob("images/*"))
    assert images
    inodes = [path.stat().st_ino for path in images]
    for asking, found in ((lease, 1), (other, 0)):
        c = client.near(client.attach(asking)).dial()
        c.must("harpSession", devices=1, driver_version=1, loading_mode=1)
        for path in images:
            image = {"sha256": bytes.fromhex(path.name), "bytes": path.stat().st_size}
            assert c.must("harpImageFind", image=image, found=1)["found"] == found
        c.close()
    # A program that finds it does not put it: a file that is put again is another one.
    used = [path.stat().st_mtime_ns for path in images]
    assert json.loads(client.run(lease, "remote_program.py", "add", "1000"))["right"]
    assert [path.stat().st_ino for path in images] == inodes
    assert all(path.stat().st_mtime_ns > at for path, at in zip(images, used, strict=True))


@pytest.mark.slow
@root_only
def test_a_user_is_free_once_its_lease_and_its_last_process_have_ended(node: Remote) -> None:
    client = node.client()
    first, second = client.lease(), client.lease()
    client.holder(first, 10)
    folder, uids = home(node, first), [uid_of(node, lease) for lease in (first, second)]
    assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (uids[0], 0o700)
    client.release(first)
    assert not folder.exists()
    with process_of(uids[1] + 1):
        uids.append(uid_of(node, client.lease()))
    assert uids[2] == uids[1] + 2


@pytest.mark.slow
@root_only
def test_a_leases_processes_end_with_it(node: Remote) -> None:
    """Also one that a broken worker has put aside: it could make a tenant of its own."""
    client = node.client()
    lease, other = client.lease(), client.lease()
    with daemon_of(uid_of(node, lease)) as one, daemon_of(uid_of(node, other)) as another:
        client.release(lease)
        assert one.wait(timeout=30) == -signal.SIGKILL
        assert another.poll() is None
        client.release(other)
        assert another.wait(timeout=30) == -signal.SIGKILL


@pytest.mark.slow
@root_only
def test_two_services_of_a_host_share_no_user(node: Remote) -> None:
    client = node.client()
    taken = uid_of(node, client.lease())
    beside = Remote(node.at, *options(taken))
    try:
        assert uid_of(node, beside.client().lease()) == taken + 1
    finally:
        beside.stop()


@root_only
def test_a_stopped_worker_ends_with_its_session(node: Remote) -> None:
    """The signal of a parent's death goes with a change of ids, and is asked for again."""
    client = node.client()
    client.holder(client.lease(), 10)
    (worker,) = node.workers()
    session = read(worker)
    assert session is not None
    os.kill(worker, signal.SIGSTOP)
    assert exe(session.ppid) == "harp-link"
    os.kill(session.ppid, signal.SIGKILL)
    wait_for(lambda: not alive(worker), "the worker's end")


@pytest.mark.slow
@root_only
def test_a_leases_tenant_is_suspended_and_resumed(node: Remote) -> None:
    client = node.client()
    lease = client.lease(mem_limit_bytes=256 * MIB)
    child = client.start(lease, "suspend_program.py", "20")
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    (found,) = tenants(node)
    assert node.at.json("suspend", found.name)
    after = node.at.ps(found.name)
    assert after is not None
    assert after["suspended"] is True
    assert node.at.json("resume", found.name)
    assert child.communicate("same\n", timeout=60)[0].startswith("True ")


@pytest.mark.slow
@root_only
def test_nothing_is_left_of_a_killed_service_after_the_next_start(native_dir: Path) -> None:
    first = FIRST + 50
    with serving(native_dir, *options(first)) as node:
        client = node.client()
        client.holder(client.lease(), 10)
        (worker,) = node.workers()
        with daemon_of(first) as aside:
            os.kill(node.process.pid, signal.SIGKILL)
            node.process.wait()
            wait_for(lambda: not alive(worker), "the worker's end")
            wait_for(lambda: not tenants(node), "the tenant's end")
            again = Remote(node.at, *options(first))
            assert aside.wait(timeout=30) == -signal.SIGKILL
        try:
            client = again.client()
            lease = client.lease()
            assert [path.name for path in homes(node)] == [home(node, lease).name]
            assert home(node, lease).stat().st_uid == first
        finally:
            again.stop()
        assert list((node.at.run_dir / "remote").iterdir()) == []


@pytest.mark.slow
@root_only
def test_a_folder_that_users_cannot_enter_is_refused(native_dir: Path) -> None:
    serve = ("remote", "serve", "--insecure", "--listen", "127.0.0.1:0")
    with machine(native_dir) as at:
        at.base.chmod(0o700)
        done = at.harp(*serve)
        assert done.returncode != 0
        assert f"cannot enter {at.base}" in done.stderr
        assert f"chmod o+x {at.base}, or serve with --worker-uids none" in done.stderr
        at.base.chmod(0o757)
        done = at.harp(*serve)
        assert f"{at.base} is not root's alone (uid 0, mode 757)" in done.stderr
        at.base.chmod(0o755)
        (at.base / "inner").mkdir(mode=0o700)
        done = at.harp(*serve, HARP_SOFT_DIR=str(at.base / "inner"))
        assert f"cannot enter {at.base}/inner" in done.stderr


@pytest.mark.slow
@root_only
def test_workers_are_roots_if_it_says_so(native_dir: Path) -> None:
    with serving(native_dir, *options()[:3], "--worker-uids", "none") as node:
        node.at.base.chmod(0o700)
        client = node.client()
        for _ in range(2):
            client.holder(client.lease(), 10)
        assert [status(pid)["Uid"][0] for pid in node.workers()] == ["0", "0"]
        assert len(node.events("workers_run_as_root")) == 1
        node.at.base.chmod(0o755)


@pytest.mark.skipif(os.geteuid() == 0, reason="is about plain users")
def test_a_plain_users_workers_are_his(native_dir: Path) -> None:
    with serving(native_dir) as node:
        client = node.client()
        client.holder(client.lease(), 10)
        (worker,) = node.workers()
        assert status(worker)["Uid"] == [str(os.geteuid())] * 4
        assert not node.events("workers_run_as_root")
        done = node.at.harp("remote", "serve", *options(), "--worker-uids", "70000-70009")
        assert "only root can run workers as 70000-70009" in done.stderr


@pytest.mark.parametrize("user", ["", "root", "4294967295"])
def test_a_worker_that_cannot_read_whose_it_is_serves_nobody(native_dir: Path, user: str) -> None:
    env = {"HARP_WORKER_USER": user}
    with Worker(native_dir, native_dir / "soft" / "libcuda.so.1", env) as worker:
        assert worker.process.wait(timeout=30) == 1
        assert worker.words().startswith("usage: harp-worker")
