# SPDX-License-Identifier: Apache-2.0
"""The compiler's service among clients that ask wrongly, ask too much, or vanish."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ptx_service_world import (
    ABI,
    BUSY,
    HEAD,
    MAGIC,
    PIECE,
    REPLY,
    REQUEST,
    SEALS,
    VERSION,
    Service,
    ended,
    kernel,
    read,
    sealed,
    send,
    service,
)

from tests.integration.machine import seed_of_this_run, wait_for

TEXT = HEAD + "".join(kernel(f"k{i}", i) for i in range(60))
PTX = TEXT.encode()


def wrapper(place: Path, text: str) -> dict[str, str]:
    """A compiler that is a shell script."""
    path = place / "cc"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return {"HARP_PTXC_CC": str(path)}


def all_ended(pids: Path) -> bool:
    return all(map(ended, pids.read_text().split()))


WRONG: dict[str, tuple[str, Callable[[socket.socket], None]]] = {
    "no descriptor": ("sealed memory file", lambda s: send(s, PTX, "k1", fds=[])),
    "not sealed": ("sealed memory file", lambda s: send(s, PTX, "k1", fds=[sealed(PTX, 0)])),
    "may grow": ("sealed memory file", lambda s: send(s, PTX, "k1", fds=[sealed(PTX, SEALS & ~4)])),
    "a pipe": ("sealed memory file", lambda s: send(s, PTX, "k1", fds=[os.pipe()[0]])),
    "a device": ("sealed memory file", lambda s: send(s, PTX, "k1", fds=[os.open("/dev/zero", 0)])),
    "other size": ("sealed memory file", lambda s: send(s, PTX, "k1", text_bytes=len(PTX) + 1)),
    "no text": ("0 bytes of PTX", lambda s: send(s, b"", "k1")),
    "huge": ("up to 67108864", lambda s: send(s, PTX, "k1", text_bytes=1 << 40)),
    "two files": ("more than one", lambda s: send(s, PTX, "k1", fds=[sealed(PTX), sealed(PTX)])),
    "no name": ("a kernel's name of 0", lambda s: send(s, PTX, "")),
    "long name": ("too long", lambda s: send(s, PTX, "k" * 20000)),
    "a NUL": ("has a byte 0", lambda s: send(s, PTX, "k1\0")),
    "a line break": ("has a byte 10", lambda s: send(s, PTX, "k1\nserving")),
    "other version": ("version 1, the program version 9", lambda s: send(s, PTX, "k1", version=9)),
    "other ABI": ("runs ABI 77; remedy", lambda s: send(s, PTX, "k1", abi=77)),
    "no such kernel": ("k77", lambda s: send(s, PTX, "k77")),
    "no PTX": ("kernel k1: ", lambda s: send(s, b"\x7fELF\0\xff", "k1")),
}  # fmt: skip


def test_what_is_asked_wrongly_is_refused_with_the_reason(tmp_path: Path, native_dir: Path) -> None:
    with service(tmp_path, native_dir) as one:
        for name, (said, ask) in WRONG.items():
            with one.connect() as sock:
                ask(sock)
                answer = read(sock)
            assert answer.status not in (0, BUSY), name
            assert said in answer.why, name
            assert not answer.thing
        files = len(list(Path(f"/proc/{one.process.pid}/fd").iterdir()))
        assert files < 12
        assert one.ask(TEXT, "k1").status == 0


def test_any_bytes_may_come(tmp_path: Path, native_dir: Path) -> None:
    rng = random.Random(seed_of_this_run())
    good = REQUEST.pack(MAGIC, VERSION, ABI, 90, len(PTX), 2, 0) + b"k1"
    fd = sealed(PTX)
    with service(tmp_path, native_dir) as one:
        for _ in range(300):
            message = bytearray(good)
            for _ in range(rng.randrange(5)):
                message[rng.randrange(len(message))] = rng.choice([0, 1, 255, rng.randrange(256)])
            del message[rng.randrange(1, len(message) + 30) :]
            with one.connect() as sock:
                socket.send_fds(sock, [bytes(message)], [fd] * rng.randrange(4))
                if rng.randrange(3):
                    read(sock)
        assert one.ask(TEXT, "k2").status == 0
        # the same state as after one request: nothing of those that went wrong is kept
        wait_for(
            lambda: len(list(Path(f"/proc/{one.process.pid}/fd").iterdir())) < 12, "fds closed"
        )
    assert one.process.returncode == 0


def test_the_text_is_what_was_sealed_wherever_the_position_is(
    tmp_path: Path, native_dir: Path
) -> None:
    with service(tmp_path, native_dir) as one:
        fd = sealed(PTX)
        answers = []
        for at in (0, len(PTX), 17):
            os.lseek(fd, at, os.SEEK_SET)
            with one.connect() as sock:
                send(sock, PTX, "k3", fds=[fd])
                answers.append(read(sock))
        assert {answer.status for answer in answers} == {0}
        assert len({answer.thing for answer in answers}) == 1
        assert len(list(one.cache.glob("*.so"))) == 1


@pytest.mark.slow
def test_who_connects_and_is_silent_is_sent_away(tmp_path: Path, native_dir: Path) -> None:
    with service(tmp_path, native_dir) as one:
        silent = [one.connect() for _ in range(60)]
        assert one.ask(TEXT, "k1").status == 0
        for sock in silent:
            assert sock.recv(1) == b""
            sock.close()


def test_a_compiler_that_hangs_is_ended_with_its_children(tmp_path: Path, native_dir: Path) -> None:
    pids = tmp_path / "pids"
    hang = f"if [ -e {tmp_path}/hang ]; then sleep 60 & echo $! $$ >>{pids}; wait; fi"
    env = wrapper(tmp_path, f'{hang}\nexec cc "$@"')
    (tmp_path / "hang").touch()
    with service(tmp_path, native_dir, "--timeout-s", "1", env=env) as one:
        answer = one.ask(TEXT, "k1")
        assert (answer.status, answer.why) == (6, "kernel k1: the compiler took more than 1 s")
        wait_for(lambda: all_ended(pids), "its compiler has ended")
        assert list(one.cache.glob("work-*")) == []
        (tmp_path / "hang").unlink()
        assert one.ask(TEXT, "k1").status == 0
    assert "kernel_timed_out kernel=k1" in one.text()


def test_who_does_not_read_holds_up_nobody(tmp_path: Path, native_dir: Path) -> None:
    """Nor is a refusal put amid the bytes of a kernel."""
    big = 'for at; do [ "$was" = -o ] && out=$at; was=$at; done'
    env = wrapper(tmp_path, f'{big}\ncc "$@" && truncate -s +16M "$out"')
    with service(tmp_path, native_dir, "--timeout-s", "3", env=env) as one, one.connect() as lazy:
        send(lazy, PTX, "k1")
        wait_for(lambda: "kernel_timed_out" in one.text(), "its job is ended")
        began_s = time.monotonic()
        with one.connect() as other:
            send(other, PTX, "k77")
            assert read(other).status not in (0, BUSY)
        assert time.monotonic() - began_s < 5  # it was 10 for each such reader
        pieces = []
        while piece := lazy.recv(1 << 20):
            pieces.append(piece)
        assert REPLY.unpack(pieces[0])[2] == 0
        assert len(pieces) > 1
        assert {len(piece) for piece in pieces[1:]} == {PIECE}


def test_who_vanishes_is_not_compiled_for(tmp_path: Path, native_dir: Path) -> None:
    pids = tmp_path / "pids"
    env = wrapper(tmp_path, f"sleep 60 & echo $! $$ >>{pids}\nwait")
    with service(tmp_path, native_dir, "--jobs", "1", env=env) as one:
        socks = [one.connect() for _ in range(2)]
        for i, sock in enumerate(socks):
            send(sock, PTX, f"k{i}")
        wait_for(pids.exists, "the first is compiled")
        socks[1].close()  # waits
        socks[0].close()  # is compiled
        wait_for(lambda: "kernel_dropped" in one.text(), "it is dropped")
        wait_for(lambda: all_ended(pids), "its compiler has ended")
        assert one.text().count("kernel_") == 1
        assert list(one.cache.glob("work-*")) == []


def test_a_compiler_that_crashes_is_told(tmp_path: Path, native_dir: Path) -> None:
    pids = tmp_path / "pids"
    env = wrapper(tmp_path, f"echo $$ >>{pids}\nkill -9 $PPID\nsleep 60")
    with service(tmp_path, native_dir, env=env) as one:
        answer = one.ask(TEXT, "k1")
        assert (answer.status, answer.why) == (6, "kernel k1: the compiler was ended by signal 9")
        wait_for(lambda: all_ended(pids), "what it had started has ended")


def test_a_connection_of_a_process_that_has_ended_is_refused(
    tmp_path: Path, native_dir: Path
) -> None:
    """Its control group cannot be read any more: it would be counted as another."""
    with (
        service(tmp_path, native_dir) as one,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as left,
    ):
        left.settimeout(60)
        one.process.send_signal(signal.SIGSTOP)
        connect = (
            f"import socket; socket.socket(fileno={left.fileno()}).connect({str(one.socket)!r})"
        )
        subprocess.run([sys.executable, "-c", connect], pass_fds=[left.fileno()], check=True)
        send(left, PTX, "k1")
        one.process.send_signal(signal.SIGCONT)
        with pytest.raises((AssertionError, ConnectionResetError), match=r"hung up|reset"):
            read(left)
        assert one.ask(TEXT, "k1").status == 0


def test_without_descriptors_it_waits_and_does_not_spin(tmp_path: Path, native_dir: Path) -> None:
    with service(tmp_path, native_dir) as one:
        pid = one.process.pid
        used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (used, before[1]))
        with one.connect() as sock:
            send(sock, PTX, "k1")
            at = cpu_s(pid)
            time.sleep(2)
            assert cpu_s(pid) - at < 0.5
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            assert read(sock).status == 0


def test_who_reads_its_log_may_end(tmp_path: Path, native_dir: Path) -> None:
    out, into = os.pipe()
    socket_path = tmp_path / "served" / "sock"
    socket_path.parent.mkdir(mode=0o755)
    command = [str(native_dir / "harp-ptxc"), "serve", "--socket", str(socket_path)]
    command += ["--cache", str(tmp_path / "cache")]
    with subprocess.Popen(command, stderr=into) as process:
        os.close(into)
        assert b"serving" in os.read(out, 4096)
        os.close(out)
        for name in ("k1", "k2"):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.settimeout(60)
                sock.connect(str(socket_path))
                send(sock, PTX, name)
                assert read(sock).status == 0
        process.terminate()
        assert process.wait(20) == 0


def cpu_s(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def as_user(uid: int, one: Service) -> socket.socket:
    os.seteuid(uid)
    try:
        return one.connect()
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be two users")
@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_who_asks_for_much_does_not_hold_up_the_others(
    jobs: int, tmp_path: Path, native_dir: Path
) -> None:
    env = wrapper(tmp_path, f'while [ -e {tmp_path}/hold ]; do sleep 0.02; done\nexec cc "$@"')
    (tmp_path / "hold").touch()
    with (
        tempfile.TemporaryDirectory(prefix="harp-test-") as folder,
        service(tmp_path, native_dir, "--jobs", str(jobs), env=env, folder=Path(folder)) as one,
    ):
        greedy = [as_user(61234, one) for _ in range(7)]
        for i, sock in enumerate(greedy):
            send(sock, PTX, f"k{i}")
        time.sleep(0.3)  # all have arrived: what follows could stand behind them
        other = as_user(61235, one)
        send(other, PTX, "k50")
        if jobs == 2:  # a place is kept for whoever comes
            wait_for(lambda: len(list(one.cache.glob("work-*"))) == 2, "both are compiled")
        (tmp_path / "hold").unlink()
        assert read(other).status == 0
        assert [read(sock).status for sock in greedy] == [0] * 7
        order = [line.split("kernel=")[1].split()[0] for line in one.text().splitlines()[1:]]
        # one for each place had begun before it came
        assert order.index("k50") <= jobs + 1
        for sock in [*greedy, other]:
            sock.close()


@pytest.mark.slow
def test_who_asks_for_too_much_is_told_to_come_again(tmp_path: Path, native_dir: Path) -> None:
    env = wrapper(tmp_path, f'while [ -e {tmp_path}/hold ]; do sleep 0.02; done\nexec cc "$@"')
    (tmp_path / "hold").touch()
    with service(tmp_path, native_dir, env=env) as one:
        socks = [one.connect() for _ in range(64)]
        for i, sock in enumerate(socks):
            send(sock, PTX, f"k{i % 4}")
        said = [read(sock) for sock in socks[48:]]
        assert {answer.status for answer in said} == {BUSY}
        (tmp_path / "hold").unlink()
        assert {read(sock).status for sock in socks[:48]} == {0}
        for sock in socks:
            sock.close()


def test_the_cache_keeps_what_was_used_last(tmp_path: Path, native_dir: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir(mode=0o700)
    for age in range(1, 5):
        path = cache / f"{age:064x}.so"
        path.write_bytes(b"x" * (300 << 10))
        os.utime(path, (time.time() - age * 100,) * 2)
    (cache / "work-7-abcdef").mkdir()
    (cache / "work-7-abcdef" / "kernel.c").touch()
    os.utime(cache / "work-7-abcdef", (1, 1))
    (cache / f"{9:064x}.lock").touch()
    with service(tmp_path, native_dir, "--cache-mib", "1") as one:
        left = sorted(path.name for path in cache.iterdir())
        assert left.pop().startswith("serving-")  # the service's own lock
        assert left == [f"{age:064x}.so" for age in (1, 2, 3)]
        assert one.ask(TEXT, "k1").status == 0


def test_memory_of_a_compile_has_an_end(tmp_path: Path, native_dir: Path) -> None:
    with service(tmp_path, native_dir, "--memory-mib", "24") as one:
        answer = one.ask(TEXT, "k1")
        assert answer.status == 6
        assert "cc failed: " in answer.why
    assert one.process.returncode == 0


@pytest.mark.slow
def test_a_reader_that_stops_costs_one_compile(tmp_path: Path, native_dir: Path) -> None:
    with service(tmp_path, native_dir, "--jobs", "2") as one, one.connect() as sock:
        send(sock, PTX, "k1")
        wait_for(lambda: list(one.cache.glob("*.so")), "it is compiled")
        for i in range(2, 6):
            assert one.ask(TEXT, f"k{i}").status == 0
        assert read(sock).status == 0


def test_sigterm_ends_it_and_its_socket(tmp_path: Path, native_dir: Path) -> None:
    with service(tmp_path, native_dir) as one:
        assert one.end(signal.SIGTERM) == 0
        assert not one.socket.exists()
