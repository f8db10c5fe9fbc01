# SPDX-License-Identifier: Apache-2.0
"""Upgrades and deaths of harpd and the arbiter while programs run: nobody loses anything.

Old peers are ours without version 2 of the lease protocol (old_peers.py).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harp.lease_wire import GRANULE_BYTES, MSG_BYTES, VERSION, Msg, Op
from tests.integration.machine import PROGRAM, ROOT, Machine, machine, wait_for
from tests.integration.old_peers import OLD_HARP, build, native_with

MIB = 1 << 20
NOBODY = 65534


@pytest.fixture(scope="session")
def old_parts() -> dict[str, Path]:
    return build()


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir) as found:
        yield found


class Churn:
    """A tenant that calls without a pause and counts what fails."""

    def __init__(self, box: Machine, name: str, **env: str) -> None:
        program = str(box.native_dir / "harp-bench-churn")
        command = [program, "--pause-us", "200"]
        options = ["--name", name, "--mem", "96MiB", "--share", "20%"]
        self._box = box
        self.child = box.tenant(*options, command=command, **env)
        self.say()
        assert self.child.stdin
        self.child.stdin.write("g")
        self.child.stdin.flush()

    def say(self) -> dict[str, Any]:
        assert self.child.stdout
        assert self.child.stderr
        line = self.child.stdout.readline()
        assert line, self.child.stderr.read()
        found: dict[str, Any] = json.loads(line)
        return found

    def lost_nothing(self, least_calls: int = 100) -> None:
        """End it."""
        assert self.child.stdin
        self.child.stdin.close()
        said = self.say()
        assert self.child.wait(20) == 0
        if said["failed"]:
            words = [p.read_text() for p in (self._box.base / "user").rglob("shim.log")]
            print(*words, (self._box.run_dir / "harpd.log").read_text(), sep="\n")
        assert (said["failed"], said["first_error"]) == (0, 0), said
        assert said["calls"] > least_calls
        assert said["stall_ns"] < 10e9


def upgrade(box: Machine, **env: str) -> int:
    """The new arbiter's pid."""
    done = box.harp("daemon", "--upgrade", "--json", **env)
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout.splitlines()[-1])["arbiter_pid"])


def admin_version(box: Machine) -> int:
    """What the arbiter agrees to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(str(box.run_dir / "admin.sock"))
        sock.send(Msg(op=Op.SUBSCRIBE, seq=1, c=VERSION).pack(1))
        return int.from_bytes(sock.recv(MSG_BYTES)[:2], sys.byteorder)


def leased_mib(box: Machine, name: str) -> int:
    tenant = box.ps(name)
    return int(tenant["mem_leased_bytes"]) // MIB if tenant else -1


def test_an_upgrade_replaces_both_and_nobody_notices(box: Machine) -> None:
    before = box.start_harpd()
    churns = [Churn(box, f"churn-{n}") for n in range(2)]
    holder = box.gpu_tenant("--name", "holder", "--mem", "256MiB", mib=100)
    pids = {before["arbiter_pid"]}
    for _ in range(3):
        pids.add(upgrade(box))
        assert leased_mib(box, "holder") == 100
    assert len(pids) == 4
    assert box.json("daemon", "--status")["pid"] != before["pid"]
    assert not box.json("ps")["uncovered"]
    assert holder.poll() is None
    for churn in churns:
        churn.lost_nothing()
    log = (box.run_dir / "arbiter.log").read_text()
    assert log.count("arbiter_hands_over") == 3
    for wrong in ("adoption_beyond", "adoption_overfills", "adoption_refused", "protocol_error"):
        assert wrong not in log, wrong


@pytest.mark.slow
def test_an_upgrade_without_a_daemon_starts_one(box: Machine) -> None:
    assert upgrade(box) > 0
    assert box.harp("daemon", "--upgrade", "--stop").returncode == 2


@pytest.mark.slow
def test_a_program_that_cannot_follow_leaves_the_arbiter_alone(
    box: Machine, native_dir: Path, tmp_path: Path
) -> None:
    status = box.start_harpd()
    holder = box.gpu_tenant("--name", "holder", mib=10)
    broken = tmp_path / "harp-arbiter"
    broken.write_text("#!/bin/sh\nexit 9\n")
    broken.chmod(0o755)
    folder = native_with(native_dir, tmp_path / "native", {"harp-arbiter": broken})
    done = box.harp("daemon", "--upgrade", HARP_NATIVE_DIR=str(folder))
    assert done.returncode == 1
    assert "--help ended with 9" in done.stderr
    assert box.start_harpd()["arbiter_pid"] == status["arbiter_pid"]
    assert holder.poll() is None
    assert leased_mib(box, "holder") == 10


@pytest.mark.slow
def test_versions_go_up_and_down_under_load(
    native_dir: Path, tmp_path: Path, old_parts: dict[str, Path]
) -> None:
    """Arbiter and libharp of version 1 and ours in every pair, under a harpd that speaks both."""
    old = native_with(native_dir, tmp_path / "old", old_parts)
    ours, theirs = {"HARP_NATIVE_DIR": str(native_dir)}, {"HARP_NATIVE_DIR": str(old)}
    with machine(native_dir) as box:
        box.env["HARP_NATIVE_DIR"] = str(old)
        box.start_harpd()
        assert admin_version(box) == 1
        churns = [Churn(box, "old-under-old", **theirs), Churn(box, "new-under-old", **ours)]
        upgrade(box, **ours)
        assert admin_version(box) == VERSION
        churns += [Churn(box, "old-under-new", **theirs), Churn(box, "new-under-new", **ours)]
        upgrade(box, **theirs)
        assert admin_version(box) == 1
        upgrade(box, **ours)
        time.sleep(0.5)
        assert len(box.json("ps")["tenants"]) == 4
        for churn in churns:
            churn.lost_nothing()
        assert "protocol_error" not in (box.run_dir / "arbiter.log").read_text()


@pytest.mark.slow
def test_a_harpd_of_version_1_serves_beside_an_arbiter_of_version_2(box: Machine) -> None:
    status = box.start_harpd()
    churn = Churn(box, "churn")
    assert box.harp("daemon", "--stop").returncode == 0
    with subprocess.Popen(
        [sys.executable, "-c", OLD_HARP, "daemon", "--foreground"], env=box.env, cwd=ROOT
    ) as harpd:
        wait_for(lambda: box.harp("ps").returncode == 0, "the old harpd answers")
        assert box.json("daemon", "--status")["arbiter_pid"] == status["arbiter_pid"]
        assert leased_mib(box, "churn") >= 0
        assert box.harp("set", "churn", "--share", "40%").returncode == 0
        victim = box.gpu_tenant("--name", "victim", mib=10)
        victim.kill()
        wait_for(lambda: box.ps("victim") is None, "what the dead held is back")
        harpd.terminate()
    upgrade(box)
    churn.lost_nothing()


@pytest.mark.slow
def test_a_killed_arbiter_comes_back_under_load(box: Machine) -> None:
    status = box.start_harpd()
    churns = [Churn(box, f"churn-{n}") for n in range(2)]
    pid = status["arbiter_pid"]
    for _ in range(3):
        os.kill(pid, signal.SIGKILL)
        pid = wait_for(lambda pid=pid: other_arbiter(box, pid), "another arbiter")
        time.sleep(0.3)
    for churn in churns:
        churn.lost_nothing()


def other_arbiter(box: Machine, than: int) -> int:
    """Its pid, once it serves."""
    done = box.harp("ps")
    found = box.json("daemon", "--status")["arbiter_pid"] if done.returncode == 0 else than
    return 0 if found == than else int(found)


@pytest.mark.slow
def test_what_a_stopped_tenant_holds_is_kept_for_it_by_the_next_arbiter(box: Machine) -> None:
    """It cannot say what it holds: the device can. A neighbour waits and is denied by HARP."""
    status = box.start_harpd("--set", "admission.overcommit_ratio=3")
    (device,) = box.json("devices")["devices"]
    mib = (device["memory_bytes"] - 3 * device["context_bytes"]) // MIB * 2 // 3
    first = box.gpu_tenant("--name", "first", "--mem", f"{mib}MiB", mib=mib)
    first.send_signal(signal.SIGSTOP)
    os.kill(status["arbiter_pid"], signal.SIGKILL)
    wait_for(lambda: other_arbiter(box, status["arbiter_pid"]), "another arbiter")
    second = box.tenant("--mem", f"{mib + 64}MiB", command=[sys.executable, str(PROGRAM), str(mib)])
    assert second.stdout
    assert second.stdout.readline() == "cuMemAlloc 2\n"
    wait_for(lambda: box.events("memory_denied"), "HARP denied it, not the device")
    # One that fits is not held up by him.
    small = box.gpu_tenant("--name", "small", "--mem", "32MiB", mib=16)
    assert small.poll() is None
    first.send_signal(signal.SIGCONT)
    wait_for(lambda: leased_mib(box, "first") == mib, "it is back with all it holds")
    assert not (box.run_dir / "arbiter.log").read_text().count("adoption_overfills_device")


LIAR = """
import os, socket, sys, time
from harp.lease_wire import GRANULE_BYTES, MSG_BYTES, Kind, Msg, Op
path = os.environ["HARP_GRANT"] + "/arbiter.sock"
held, again = 4, False
while True:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        try:
            sock.connect(path)
            sock.send(Msg(op=Op.HELLO, a=Kind.NULL, b=int(again), pid=os.getpid()).pack())
            known = False
            while datagram := sock.recv(MSG_BYTES):
                said = Msg.unpack(datagram)
                if said.op == Op.DEVICE and not known:
                    known = True
                    op = Op.ADOPT_MEM if again else Op.LEASE_MEM
                    sock.send(Msg(op=op, seq=1, amount_bytes=held * GRANULE_BYTES).pack())
                    sock.send(Msg(op=Op.MEM_INFO, seq=2).pack())
                if said.op == Op.MEM_STATE:
                    print(said.leased_bytes, flush=True)
        except OSError:
            time.sleep(0.02)
    held, again = 200, True
"""


@pytest.mark.slow
def test_a_liar_is_logged_and_gets_what_the_device_says(box: Machine) -> None:
    """It held four granules and claims two hundred; the device has nothing of it."""
    status = box.start_harpd()
    liar = box.tenant("--name", "liar", command=[sys.executable, "-c", LIAR])
    assert liar.stdout
    assert int(liar.stdout.readline()) == 4 * GRANULE_BYTES
    wait_for(lambda: leased_mib(box, "liar") == 8, "harpd has seen it")
    os.kill(status["arbiter_pid"], signal.SIGKILL)
    slack = 32 * GRANULE_BYTES
    assert int(liar.stdout.readline()) == slack
    assert "adoption_beyond_device" in (box.run_dir / "arbiter.log").read_text()
    # After a hand-over it gets what it had, to the granule.
    upgrade(box)
    assert int(liar.stdout.readline()) == slack


@pytest.mark.slow
def test_epochs_of_the_next_arbiter_are_later(box: Machine) -> None:
    """What is said late about a turn of the arbiter before fits none of this one's."""
    box.start_harpd()
    opened = []
    for _ in range(2):
        child = box.tenant("--name", "t", command=[sys.executable, "-c", WANT])
        assert child.stdout
        opened.append(int(child.stdout.readline()))
        assert child.wait(20) == 0
        upgrade(box)
    assert 0 < opened[0] < opened[1]


WANT = """
import os, socket
from harp.lease_wire import MSG_BYTES, Kind, Msg, Op
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(os.environ["HARP_GRANT"] + "/arbiter.sock")
sock.send(Msg(op=Op.HELLO, a=Kind.NULL, pid=os.getpid()).pack())
sock.send(Msg(op=Op.WANT_TIME).pack())
while (said := Msg.unpack(sock.recv(MSG_BYTES))).op != Op.OPEN_GATE:
    pass
print(said.epoch)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be two users")
@pytest.mark.parametrize("harpd_first", [False, True])
def test_another_users_tenant_comes_back_when_all_of_harp_died(
    box: Machine, *, harpd_first: bool
) -> None:
    """harpd restarted before the arbiter died, or both at once: then root binds its socket."""
    status = box.start_harpd()
    theirs = box.base / "theirs"
    theirs.mkdir()
    os.chown(theirs, NOBODY, NOBODY)
    script = Path(__file__).with_name("as_survivor.py")
    with subprocess.Popen(
        [sys.executable, script, str(NOBODY), "survivor"],
        env={**box.env, "XDG_RUNTIME_DIR": str(theirs)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout
            assert child.stdout.readline() == "ready\n"
            os.kill(status["pid"], signal.SIGKILL)
            if harpd_first:
                wait_for(lambda: box.harp("ps").returncode == 1, "harpd is gone")
                box.start_harpd()
            os.kill(status["arbiter_pid"], signal.SIGKILL)
            if not harpd_first:
                wait_for(lambda: box.harp("ps").returncode == 1, "harpd is gone")
                box.start_harpd()
            assert child.stdout.readline() == "back\n"
            socket_file = theirs / "survivor" / "arbiter.sock"
            assert socket_file.is_socket()
        finally:
            child.kill()


@pytest.mark.slow
def test_shim_overwrite_while_mapped(native_dir: Path, tmp_path: Path) -> None:
    """An installation over the running one, in place even: who runs goes on, who comes is new."""
    native = tmp_path / "native"
    shutil.copytree(native_dir, native)
    with machine(native) as box:
        box.start_harpd()
        churn = Churn(box, "old")
        shims = box.base / "user" / "harp" / "shim"
        (first,) = shims.iterdir()
        inode = (first / "libcuda.so.1").stat().st_ino
        library = native / "libharp.so"
        with library.open("r+b") as file:  # the worst that an installer can do
            file.truncate(0)
            file.write((native_dir / "libharp.so").read_bytes() + b"newer")
        newcomer = Churn(box, "new")
        assert sorted(p.name for p in shims.iterdir() if p != first) != []
        assert (first / "libcuda.so.1").stat().st_ino == inode
        maps = Path(f"/proc/{newcomer.child.pid}/maps").read_text()
        assert str(first) not in maps
        upgrade(box)
        hour_ago = time.time() - 3600
        os.utime(first, (hour_ago, hour_ago))
        assert box.harp("run", "--", "true").returncode == 0
        assert first.is_dir(), "a program has it mapped"
        churn.lost_nothing()
        assert box.harp("run", "--", "true").returncode == 0
        assert not first.exists(), "nobody has it any more"
        newcomer.lost_nothing()
