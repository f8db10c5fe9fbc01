# SPDX-License-Identifier: Apache-2.0
"""Programs in a root folder without a compiler: the service compiles, and nothing else does."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from ptx_service_world import (
    HEAD,
    MAGIC,
    REPLY,
    VERSION,
    Service,
    ended,
    kernel,
    send,
    service,
)
from shim_world import compile_c

from tests.integration.machine import ROOT, wait_for

KERNELS = HEAD + "".join(kernel(f"k{i}", 100 + i) for i in range(40))
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for chroot and mounts")
#: what a loader on this machine loads for a C program and the software GPU
LIBRARIES = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(__file__).with_name("ptx_client.c")
    return compile_c(source, tmp_path_factory.mktemp("client") / "client")


@pytest.fixture
def place(tmp_path: Path, native_dir: Path, client: Path) -> Path:
    """A folder of a program: its text, its GPU, the software GPU's library without a compiler."""
    tmp_path.chmod(0o755)
    shutil.copy(native_dir / "soft" / "libcuda.so.1", tmp_path)
    shutil.copy(client, tmp_path / "client")
    (tmp_path / "text.ptx").write_text(KERNELS)
    (tmp_path / "soft").mkdir()
    return tmp_path


def run(
    place: Path, kernels: str = "k0", *, inside: str = "", pause_ms: int = 0, **env: str
) -> subprocess.CompletedProcess[str]:
    """The program, in this root folder or (`inside`) with `place` as its own."""
    at = "" if inside else str(place)
    command = [f"{at}/client", f"{at}/libcuda.so.1", f"{at}/text.ptx", kernels, str(pause_ms)]
    if inside:
        mounts = f"mkdir -p {place}/proc && mount --rbind /proc {place}/proc"
        rest = f'{mounts} && exec chroot {place} "$@"'
        command = ["unshare", "-m", "sh", "-c", rest, "sh", *command]
    base = {"PATH": os.environ["PATH"], "HARP_SOFT_DIR": f"{at}/soft", "HARP_SOFT_VERBOSE": "1"}
    return subprocess.run(
        command,
        env=base | {"HARP_SOFT_DEVICES": "tiny", "HARP_PTXC_WAIT_MS": "300"} | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def make_root(place: Path) -> None:
    """All that a C program needs to begin, no more."""
    listed = subprocess.run(
        ["ldd", str(place / "client"), str(place / "libcuda.so.1")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for path in set(re.findall(r"(/\S+\.so\S*) \(0x", listed)):
        goal = place / path.removeprefix("/")
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(path), goal)


@needs_root
def test_a_program_in_a_root_folder_without_a_compiler(place: Path, native_dir: Path) -> None:
    make_root(place)
    alone = run(place, inside="root")
    assert alone.stdout == "refused 221\n", alone.stderr
    shutil.copy(native_dir / "harp-ptxc", place)
    no_compiler = run(place, inside="root")
    assert no_compiler.stdout == "refused 221\n", no_compiler.stderr
    assert "no C compiler" in no_compiler.stderr
    at = "/opt/harp/ptxc/sock"
    with service(place, native_dir) as one:
        one.end()
        elsewhere = Service(place, native_dir, socket_path=place / at.removeprefix("/"))
        # Different kernels of one process, in files that have the same number one after the other.
        done = run(place, "k0,k1,k2,k0", inside="root", HARP_PTXC_SOCKET=at)
        elsewhere.end()
    assert (done.returncode, done.stdout.split()) == (0, ["100", "101", "102", "100"]), done.stderr
    assert one.text().count("kernel_served") == 4


BROKEN = {
    "invalid": "mov.u32 %r1, %r2, %r3;",
    "unsupported": "tcgen05.wait::ld.sync.aligned;",
}


@pytest.mark.parametrize("what", BROKEN)
def test_errors_are_those_of_the_compiler_word_for_word(
    what: str, place: Path, native_dir: Path
) -> None:
    body = f".visible .entry k0(.param .u64 at)\n{{\n.reg .b32 %r<4>;\n{BROKEN[what]}\nret;\n}}\n"
    (place / "text.ptx").write_text(HEAD.replace("sm_70", "sm_90") + body)
    with service(place, native_dir) as one:
        served = run(place, HARP_PTXC_SOCKET=str(one.socket))
    own = run(place, HARP_PTXC=str(native_dir / "harp-ptxc"))
    assert re.fullmatch(r"refused (218|801|500)\n", own.stdout), own.stderr
    assert served.stdout == own.stdout
    plain = [re.sub(r"harp-soft\[\d+\]", "", text.stderr) for text in (served, own)]
    assert plain[0] == plain[1]


def test_a_service_that_is_not_there_is_an_error_though_a_compiler_is(
    place: Path, native_dir: Path
) -> None:
    shutil.copy(native_dir / "harp-ptxc", place)
    assert run(place).stdout == "100\n"
    (place / "served").mkdir(mode=0o755)
    for path in (place / "served/sock", place / "nowhere/sock"):
        done = run(place, HARP_PTXC_SOCKET=str(path))
        assert done.stdout == "refused 221\n"
        assert f"no compiler answers at HARP_PTXC_SOCKET={path}" in done.stderr
    assert "absolute path" in run(place, HARP_PTXC_SOCKET="sock").stderr


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_a_socket_where_others_may_put_theirs_is_not_asked(
    mode: int, place: Path, native_dir: Path
) -> None:
    with service(place, native_dir) as one:
        one.socket.parent.chmod(mode)
        done = run(place, HARP_PTXC_SOCKET=str(one.socket))
        assert done.stdout == "refused 221\n"
        assert "others may write" in done.stderr
        assert "kernel" not in one.text()


@pytest.mark.slow
def test_programs_go_on_while_the_service_is_replaced(place: Path, native_dir: Path) -> None:
    names = ",".join(f"k{i}" for i in range(8))
    one = Service(place, native_dir)
    command = [str(place / "client"), str(place / "libcuda.so.1"), str(place / "text.ptx"), names]
    env = {"HARP_SOFT_DIR": str(place / "soft"), "HARP_PTXC_SOCKET": str(one.socket)}
    with subprocess.Popen([*command, "20"], env=env, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "100\n"
        one.end(signal.SIGKILL)
        two = Service(place, native_dir)
        assert program.stdout.readline() == "101\n"
        two.end()
        three = Service(place, native_dir)
        rest = program.stdout.read().split()
    three.end()
    assert (program.returncode, rest) == (0, [str(100 + i) for i in range(2, 8)])


def test_a_service_that_ends_late_in_a_kernel_is_waited_for(place: Path) -> None:
    """The program's patience begins when the service is lost, not when it was asked."""
    (place / "served").mkdir(mode=0o755)
    path = place / "served/sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(30)

        def serve() -> None:
            one, _ = listener.accept()
            time.sleep(1)
            one.close()
            two, _ = listener.accept()
            with two:
                two.recv(1 << 16)
                two.send(REPLY.pack(MAGIC, VERSION, 6, 5, 0) + b"again")

        thread = threading.Thread(target=serve)
        thread.start()
        done = run(place, HARP_PTXC_SOCKET=str(path), HARP_PTXC_WAIT_MS="500")
        if thread.is_alive():  # it has not come again
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as last:
                last.connect(str(path))
                thread.join()
    assert "again" in done.stderr
    assert "no compiler answers" not in done.stderr


@needs_root
@pytest.mark.parametrize("owner", [0, 61234])
def test_a_folder_of_ours_that_is_anothers_decides_nothing(
    owner: int, place: Path, native_dir: Path
) -> None:
    """Only root, or who started the container, can have put root's there."""
    shutil.copy(native_dir / "harp-ptxc", place)
    script = (
        "mount -t tmpfs none /opt && mkdir -p /opt/harp/ptxc /opt/harp/soft &&"
        f' touch /opt/harp/ptxc/sock && chown {owner} /opt/harp && "$@"'
    )
    program = [f"{place}/client", f"{place}/libcuda.so.1", f"{place}/text.ptx", "k0", "0"]
    done = subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *program],
        env={"PATH": os.environ["PATH"], "HARP_SOFT_DIR": f"{place}/soft",
             "HARP_SOFT_DEVICES": "tiny", "HARP_SOFT_VERBOSE": "1", "HARP_PTXC_WAIT_MS": "300"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    mine = any((place / "soft").iterdir())
    if owner == 0:
        assert done.stdout.startswith("refused 221\n"), done.stderr
        assert "HARP_PTXC_SOCKET=/opt/harp/ptxc/sock" in done.stderr
        assert not mine
    else:
        assert done.stdout == "100\n", done.stderr
        assert mine


def test_two_do_not_serve_one_socket(place: Path, native_dir: Path) -> None:
    (place / "other").mkdir()
    with service(place, native_dir) as one:
        other = Service(place, native_dir)
        assert other.process.wait(20) == 2
        assert "another compiler serves" in one.text()
        cached_elsewhere = Service(place / "other", native_dir, socket_path=one.socket)
        assert cached_elsewhere.process.wait(20) == 2
        assert "another compiler serves" in cached_elsewhere.text()
        assert one.ask(KERNELS, "k1").status == 0
    assert not one.socket.exists()


def test_nothing_beside_the_socket_locks_the_service_out(place: Path, native_dir: Path) -> None:
    """Its folder is mounted into containers: who may read a file may hold its lock."""
    with service(place, native_dir) as one:
        seen = sorted(one.socket.parent.iterdir())
        held = [path.open("rb") for path in seen if not path.is_socket()]
        one.end(signal.SIGKILL)
        for file in held:
            fcntl.flock(file, fcntl.LOCK_EX)
        again = Service(place, native_dir)
        assert again.ask(KERNELS, "k1").status == 0, again.text()
        assert again.end() == 0
        assert seen == [one.socket]


def test_without_a_compiler_there_is_no_service(tmp_path: Path, native_dir: Path) -> None:
    (tmp_path / "empty").mkdir()
    one = Service(tmp_path, native_dir, env={"PATH": str(tmp_path / "empty")})
    assert one.process.wait(20) == 1
    assert "apt-get install gcc" in one.text()


@pytest.mark.parametrize("wrong", [["--jobs", "0"], ["--timeout-s", "99999"], []])
def test_wrong_usage_of_the_program(wrong: list[str], native_dir: Path) -> None:
    command = [str(native_dir / "harp-ptxc"), "serve", "--socket", "/x/sock", *wrong]
    command += ["--cache", "/x"] if wrong else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "serve --socket PATH" in done.stderr


@pytest.mark.parametrize("umask", [0o027, 0o077])
def test_any_user_gets_to_the_socket_whatever_the_umask(
    umask: int, place: Path, native_dir: Path
) -> None:
    old = os.umask(umask)
    try:
        with service(place, native_dir) as one:
            assert one.socket.parent.stat().st_mode & 0o777 == 0o755
            assert one.socket.stat().st_mode & 0o777 == 0o666
    finally:
        os.umask(old)


@needs_root
def test_another_user_may_ask(place: Path, native_dir: Path) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="harp-test-") as folder,
        service(place, native_dir, folder=Path(folder)) as one,
    ):
        os.seteuid(61234)
        try:
            assert one.ask(KERNELS, "k1").status == 0
        finally:
            os.seteuid(0)
        assert one.cache.stat().st_mode & 0o777 == 0o700


def test_the_command_is_in_the_usage() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "harp.softgpu", "--help"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "compiler --socket PATH" in done.stdout


def test_what_waits_is_ended_with_the_service(place: Path, native_dir: Path) -> None:
    slow = place / "cc"
    slow.write_text("#!/bin/sh\nsleep 60 & echo $! >>" + str(place / "pids") + "\nwait\n")
    slow.chmod(0o755)
    with service(place, native_dir, env={"HARP_PTXC_CC": str(slow)}) as one, one.connect() as sock:
        send(sock, KERNELS.encode(), "k1")
        pid = wait_for(
            lambda: (place / "pids").exists() and (place / "pids").read_text().strip(), "it began"
        )
        assert one.end() == 0
        wait_for(lambda: ended(pid), "its processes end")
        assert list(one.cache.glob("work-*")) == []
