# SPDX-License-Identifier: Apache-2.0
"""`harp run --remote` from the outside: the GPU is elsewhere, and the command notices nothing."""

from __future__ import annotations

import ast
import contextlib
import datetime as dt
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from link_session import alive, children, until
from remote_node import FakeNode, fake_node
from run_remote_world import Here

from harp.remote import authority
from harp.remote.certificate import Kind
from tests.unit.elf_files import Made

HOLDS = str(Path(__file__).with_name("gpu_program.py"))
PROGRAM = str(Path(__file__).with_name("remote_program.py"))


#: CUDA_ERROR_DEVICE_UNAVAILABLE, or what a call gets that waited meanwhile
_LOST = (46, 999)


@pytest.fixture
def here(native_dir: Path) -> Iterator[Here]:
    with contextlib.closing(Here(native_dir)) as made:
        yield made


@pytest.fixture
def node(native_dir: Path, tmp_path: Path, soft_env: dict[str, str]) -> Iterator[FakeNode]:
    with fake_node(native_dir, tmp_path, soft_env) as made:
        yield made


def remote(node: FakeNode, *options: str) -> list[str]:
    return ["--remote", node.endpoint, "--insecure", *options, "--"]


def test_a_program_computes_elsewhere(here: Here, node: FakeNode) -> None:
    done = here.run(
        *remote(node, "--json", "--mem", "1GiB", "--share", "30%", "--name", "vec"),
        *(sys.executable, PROGRAM, "add", "1000"),
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["right"] is True
    said = json.loads(done.stderr.splitlines()[0])
    assert (said["node"], said["endpoint"], said["software"]) == ("n1", node.endpoint, True)
    (device,) = said["devices"]
    assert (device["mem_limit_bytes"], device["share_ppm"]) == (1 << 30, 300_000)
    assert node.said[0] == "lease"
    assert node.said[-1] == "release"
    assert node.leases == {}
    assert here.left() == []


def test_each_process_has_a_session_of_its_own(here: Here, node: FakeNode) -> None:
    both = f"{sys.executable} {PROGRAM} wait & {sys.executable} {PROGRAM} wait & wait"
    child = here.start(*remote(node), "sh", "-c", both)
    assert child.stdout is not None
    assert [child.stdout.readline() for _ in range(2)] == ["ready\n", "ready\n"]
    until("one more, ahead", lambda: len(node.sessions) == 3)
    assert len(children(node.far.process.pid)) == 2
    programs = [p for shell in children(child.pid) for p in children(shell)]
    os.kill(programs[0], signal.SIGKILL)
    until("the first one's end is told", lambda: len(node.sessions) == 2)
    os.kill(programs[1], signal.SIGKILL)
    child.communicate(timeout=60)
    assert node.leases == {}
    assert here.left() == []


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 7", 7),
        ("kill -TERM $$", 128 + signal.SIGTERM),
        ("kill -KILL $$", 128 + signal.SIGKILL),
    ],
)
def test_the_exit_status_is_the_commands(
    here: Here, node: FakeNode, script: str, status: int
) -> None:
    assert here.run(*remote(node), "sh", "-c", script).returncode == status


def test_what_cannot_be_run(here: Here, node: FakeNode, tmp_path: Path) -> None:
    (text := tmp_path / "text").write_bytes(b"\0\0\0no program")
    text.chmod(0o755)
    done = here.run(*remote(node), str(text))
    assert (done.returncode, "Exec format error" in done.stderr) == (126, True)
    assert here.run(*remote(node), "./nothing-of-that-name").returncode == 127


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_passed_on(here: Here, node: FakeNode, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    wait = f"trap 'echo heard; exit 5' {name}; echo ready; while :; do sleep 0.05; done"
    child = here.ready(*remote(node), "sh", "-c", wait)
    os.kill(child.pid, number)
    out, _ = child.communicate(timeout=60)
    assert (out, child.returncode) == ("heard\n", 5)


@pytest.mark.slow
@pytest.mark.parametrize(("own_group", "times"), [(False, 1), (True, 0)])
def test_a_terminals_interrupt_is_the_terminals(
    here: Here, node: FakeNode, own_group: bool, times: int
) -> None:
    """It reaches whom the terminal sends it to, and is not passed on; nothing of HARP's dies."""
    program = (
        "import os, signal, sys, time\n"
        f"if {own_group}: os.setpgid(0, 0)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\n"
        "print('ready', flush=True)\n"
        "wait_s = 3\n"
        "heard = 0\n"
        "while signal.sigtimedwait({signal.SIGINT}, wait_s): heard, wait_s = heard + 1, 0.5\n"
        "import ctypes\n"
        "print(heard, ctypes.CDLL('libcuda.so.1').cuInit(0), flush=True)\n"
    )
    # Who leads a session and opens a terminal has it as his own.
    own = "import os, sys; fd = os.open(sys.argv[1], os.O_RDWR)\n"
    own += "for i in range(3): os.dup2(fd, i)\n"
    own += "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    words = ["-m", "harp", "run", *remote(node), sys.executable, "-c", program]
    terminal, other = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", own, os.ttyname(other), *words], env=here.env, start_new_session=True
    )
    with os.fdopen(terminal, "r+b", buffering=0) as tty:
        said = b""
        while not said.endswith(b"ready\r\n"):
            said += tty.read(4096)
        os.close(other)
        tty.write(b"\x03")
        with contextlib.suppress(OSError):  # as a terminal whose last user has gone says it
            while data := tty.read(4096):
                said += data
    assert child.wait(timeout=60) == 0, said
    assert said.rstrip().endswith(b"%d 0" % times), said


def test_a_program_with_the_cuda_runtime_is_refused_before_it_starts(
    here: Here, node: FakeNode, tmp_path: Path
) -> None:
    program = tmp_path / "trains"
    program.write_bytes(Made(needed=["libcudart.so.12"]).data())
    program.chmod(0o755)
    done = here.run(*remote(node), str(program))
    assert done.returncode == 125
    assert "trains needs libcudart.so.12, the CUDA runtime" in done.stderr
    assert "hint: run it on the machine that has the GPU" in done.stderr
    assert node.said == []


@pytest.mark.slow
def test_no_node_is_a_sentence(here: Here) -> None:
    done = here.run("--remote", "127.0.0.1:1", "--insecure", "--", "true")
    assert done.returncode == 125
    assert "127.0.0.1:1 cannot be used: nobody listens there" in done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    done = here.run("--remote", "192.0.2.1:1", "--insecure", "--", "true")
    assert (done.returncode, "is not loopback" in done.stderr) == (125, True)
    done = here.run("--remote", "nowhere", "--insecure", "--", "true")
    assert (done.returncode, "nowhere.pool" in done.stderr) == (125, True)
    done = here.run("--remote", "127.0.0.1:1", "--dir", "/nowhere", "--", "true")
    assert (done.returncode, "/nowhere is no folder" in done.stderr) == (125, True)
    assert here.left() == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--remote", "a:1", "--oversubscribe"], "--oversubscribe is for GPUs of this host"),
        (["--remote", "a:1", "--host-mem", "1GiB"], "--host-mem is for GPUs of this host"),
        (["--insecure"], "go with --remote"),
        (["--detached"], "go with --remote"),
        (["--tls-name", "x"], "go with --remote"),
        (["--remote", "a:1", "--insecure", "--tls-name", "x"], "--tls-name is one's"),
    ],
)
def test_options_of_the_other_kind_are_wrong_usage(here: Here, words: list[str], why: str) -> None:
    done = here.run(*words, "--", "true")
    assert (done.returncode, why in done.stderr) == (2, True), done.stderr


@pytest.mark.slow
def test_another_table_is_said_before_the_start(here: Here, node: FakeNode) -> None:
    node.table.hash = bytes(32)
    node.table.version = "9.9"
    done = here.run(*remote(node), "echo", "started")
    assert (done.returncode, done.stdout) == (125, "")
    assert "another version of HARP" in done.stderr


@pytest.mark.parametrize("how", ["unknown", "silent"])
def test_a_lost_lease_is_an_error_of_cuda(here: Here, node: FakeNode, how: str) -> None:
    """Silent: the node keeps the session, and it is ended here all the same."""
    node.ttl_s = 4.0
    child = here.ready(*remote(node), sys.executable, PROGRAM, "wait")
    node.full = True
    if how == "unknown":
        node.leases.clear()
    else:
        node.silent = True
    out, err = child.communicate(timeout=60)
    node.silent = False
    assert child.returncode == 0
    assert int(out) in _LOST
    (lost,) = [line for line in err.splitlines() if "is lost" in line]
    assert "the programs that used it get errors from CUDA" in lost
    assert here.left() == []


@pytest.mark.slow
def test_where_the_best_is_full_the_next_is_taken(
    here: Here, node: FakeNode, native_dir: Path, tmp_path: Path, soft_env: dict[str, str]
) -> None:
    pool = tmp_path / "pool"
    with fake_node(native_dir, tmp_path, soft_env, name="n2") as other:
        pool.write_text(f"# ours\n{node.endpoint}\n\n{other.endpoint}  # the second\n")
        node.full = True
        for where in (str(pool), f"{node.endpoint},{other.endpoint}"):
            for _ in range(2):
                done = here.run("--remote", where, "--insecure", "--json", "--", "true")
                assert json.loads(done.stderr)["node"] == "n2"
        other.full = True
        done = here.run("--remote", str(pool), "--insecure", "--", "true")
        assert done.returncode == 125
        assert "n1: n1 has nothing left; n2: n2 has nothing left" in done.stderr


@pytest.mark.slow
def test_a_node_that_drains_is_left_before_there_is_state(
    here: Here, node: FakeNode, native_dir: Path, tmp_path: Path, soft_env: dict[str, str]
) -> None:
    with fake_node(native_dir, tmp_path, soft_env, name="n2") as other:
        other.full = True
        node.ttl_s = 4.0  # a renewal tells that it drains
        where = f"{node.endpoint},{other.endpoint}"
        script = f"read go; exec {sys.executable} {PROGRAM} add 100"
        child = here.start("--remote", where, "--insecure", "--", "sh", "-c", script)
        until("a session that waits", lambda: len(node.sessions) == 1)
        other.full, node.draining = False, True
        until("the lease is given back", lambda: node.leases == {})
        until("a session that waits", lambda: len(other.sessions) == 1)
        out, err = child.communicate("go\n", timeout=60)
        assert json.loads(out)["right"] is True
        assert "the lease is now one of n2" in err
        assert other.leases == {}


def test_no_more_sessions_is_an_error_with_a_reason(
    here: Here, node: FakeNode, tmp_path: Path
) -> None:
    """And the program may ask again, and get one when another has ended."""
    node.most = 1
    script = (
        "import ctypes, subprocess, sys\n"
        f"one = subprocess.Popen([sys.executable, {PROGRAM!r}, 'wait'], stdout=-1)\n"
        "one.stdout.readline()\n"
        "cu = ctypes.CDLL('libcuda.so.1')\n"
        "print(cu.cuInit(0), flush=True)\n"
        "one.kill()\n"
        "one.wait()\n"
        "while cu.cuInit(0): pass\n"
        "print(cu.cuInit(0), flush=True)\n"
    )
    log = tmp_path / "log"
    done = here.run(*remote(node), sys.executable, "-c", script, HARP_LOG=str(log))
    assert done.stdout == "100\n0\n", done
    assert 'the lease has 1 sessions; remedy: detach one first"' in log.read_text()
    assert "harp-link: the lease has 1 sessions; remedy: detach one first" in done.stderr


@pytest.mark.slow
def test_attach_and_detach_while_it_runs(
    here: Here, node: FakeNode, native_dir: Path, tmp_path: Path, soft_env: dict[str, str]
) -> None:
    program = (
        "import ctypes, os, sys\n"
        "cu = ctypes.CDLL('libcuda.so.1')\n"
        "for line in sys.stdin:\n"
        "    if line == 'fork\\n' and os.fork() == 0:\n"
        "        os.execv(sys.executable, [sys.executable, '-c',\n"
        "            'import ctypes; print(ctypes.CDLL(\"libcuda.so.1\").cuInit(0))'])\n"
        "    elif line != 'fork\\n':\n"
        "        context = ctypes.c_void_p()\n"
        "        print(cu.cuInit(0) or cu.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0),\n"
        "            flush=True)\n"
    )
    words = (sys.executable, "-c", program)
    child = here.start(*remote(node, "--detached", "--name", "late", "--json"), *words)
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None

    def asked(line: str = "init") -> int:
        child.stdin.write(f"{line}\n")  # type: ignore[union-attr]
        child.stdin.flush()  # type: ignore[union-attr]
        return int(child.stdout.readline())  # type: ignore[union-attr]

    said = json.loads(child.stderr.readline())
    assert (said["name"], said["lease"]) == ("late", None)
    assert asked() == 100
    assert "remedy: harp remote attach late-" in child.stderr.readline()
    assert node.said == []
    assert here.remote("attach", "late")["node"] == "n1"
    assert asked() == 0
    assert "has a lease on n1 already" in here.remote("attach", "late")["error"]["text"]
    assert here.remote("detach", said["run"]) == {"detached": True}
    assert node.leases == {}
    assert asked("fork") == 100
    assert here.remote("detach", "late") == {"detached": False}
    with fake_node(native_dir, tmp_path, soft_env, name="n2") as other:
        taken = here.remote("attach", "late", "--to", other.endpoint)
        assert taken["endpoint"] == other.endpoint
        assert asked("fork") == 0
        assert asked() in _LOST, "it has a context of the session that has ended"
        child.communicate(timeout=60)
        assert child.returncode == 0
        assert other.leases == {}
    assert "no command called" in here.remote("attach", "late")["error"]["text"]
    assert here.left() == []


@pytest.mark.slow
def test_a_program_without_contexts_is_attached_again(
    here: Here, node: FakeNode, native_dir: Path, tmp_path: Path, soft_env: dict[str, str]
) -> None:
    """It computes, gives its context back, and goes on as another: here, and on another node."""
    words = (sys.executable, PROGRAM, "again")
    child = here.start(*remote(node, "--detached", "--name", "twice"), *words)
    assert child.stdin is not None
    assert child.stdout is not None

    def asked() -> str:
        child.stdin.write("\n")  # type: ignore[union-attr]
        child.stdin.flush()  # type: ignore[union-attr]
        return child.stdout.readline().strip()  # type: ignore[union-attr]

    def sessions() -> list[int]:
        """Processes of harp-link's."""
        return [pid for one in children(child.pid) for pid in children(one)]

    assert asked() == "100"
    with fake_node(native_dir, tmp_path, soft_env, name="n2") as other:
        # the second time it has not looked meanwhile
        for where, looks in [(node, True), (other, False), (node, True)]:
            assert here.remote("attach", "twice", "--to", where.endpoint)["lease"]
            assert [asked(), asked()] == ["True", "True"]
            assert len(where.leases) == 1
            assert here.remote("detach", "twice") == {"detached": True}
            until("the session ends", lambda: sessions() == [])
            assert not looks or asked() == "100"
        out, err = child.communicate(timeout=60)
        assert (child.returncode, out) == (0, ""), err
        assert (node.leases, other.leases) == ({}, {})
    assert here.left() == []


@pytest.mark.slow
def test_a_node_that_is_away_for_a_moment(here: Here, node: FakeNode) -> None:
    node.ttl_s = 10.0  # renewed after 4 s, tried again each second: half of it is left by then
    child = here.ready(*remote(node), sys.executable, PROGRAM, "wait")
    node.away = True
    before = len(node.said)
    until("renewals that failed", lambda: len(node.said) >= before + 2)
    node.away = False
    before = len(node.said)
    until("one that did not, and was believed", lambda: len(node.said) >= before + 2)
    child.terminate()
    _, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (128 + signal.SIGTERM, "")
    assert node.said.count("lease") == 1


def test_a_killed_run_leaves_nothing(here: Here, node: FakeNode) -> None:
    child = here.ready(*remote(node), sys.executable, HOLDS, "1")
    mine = children(child.pid)
    mine += [pid for one in mine for pid in children(one)]
    assert len(mine) == 3  # the command, harp-link, and its one session
    child.kill()
    for pid in mine:
        until(f"{pid} ends", lambda pid=pid: not alive(pid))
    until("the worker's session ends", lambda: children(node.far.process.pid) == [])


def test_our_environment_is_not_the_commands(here: Here, node: FakeNode) -> None:
    own = {"GRPC_TRACE": "none", "A": "1 = \udcff"}
    show = "import os; print(ascii(dict(os.environ)))"
    done = here.run(*remote(node), sys.executable, "-c", show, **own)
    found = ast.literal_eval(done.stdout)
    assert {k: v for k, v in found.items() if k.startswith("GRPC_")} == {"GRPC_TRACE": "none"}
    assert found["A"] == own["A"]
    assert found["HARP_REMOTE"].endswith("/near.sock")
    assert "HARP_GRANT" not in found


def test_with_certificates(
    here: Here, native_dir: Path, tmp_path: Path, soft_env: dict[str, str]
) -> None:
    now = dt.datetime.now(dt.UTC)
    base = tmp_path / "remote"
    authority.init(base, now)
    authority.issue(base, Kind.NODE, "n1", hosts=["localhost", "127.0.0.1"], now=now)
    authority.issue(base, Kind.CLIENT, "ann", hosts=[], now=now)
    own = base / "node-n1"
    options = ("--cert", str(own / "tls.crt"), "--key", str(own / "tls.key"))
    credentials = grpc.ssl_server_credentials(
        [((own / "tls.key").read_bytes(), (own / "tls.crt").read_bytes())],
        (own / "ca.crt").read_bytes(),
        require_client_auth=True,
    )
    with fake_node(
        native_dir, tmp_path, soft_env, *options, "--ca", str(own / "ca.crt"),
        credentials=credentials,
    ) as node:  # fmt: skip
        folder = ["--dir", str(base / "client-ann")]
        done = here.run(
            *("--remote", node.endpoint, *folder, "--"), sys.executable, PROGRAM, "add", "100"
        )
        assert json.loads(done.stdout)["right"] is True, done.stderr
        other = tmp_path / "other"
        authority.init(other, now)
        authority.issue(other, Kind.CLIENT, "eve", hosts=[], now=now)
        folder = ["--dir", str(other / "client-eve"), "--"]
        done = here.run("--remote", node.endpoint, *folder, "echo", "started")
        assert (done.returncode, done.stdout) == (125, "")
        assert "its certificate is of another authority" in done.stderr
