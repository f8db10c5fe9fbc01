# SPDX-License-Identifier: Apache-2.0
"""What harp-worker has given up before it makes the first call: its user, and system calls."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from ring_client import Client, Worker
from shim_world import MIB, World, compile_c, soft_world
from worker_world import PTX

from harp.lease_wire import Op

HERE = Path(__file__).resolve().parent
USER, GROUP = 48231, 48232
#: words of worker_witness.c that the filter refuses, by what comes of them
EPERM = """
    inet inet6 packet netlink vsock high_bits tipc_pair unshare new_user new_net sti uring_setup
    uring_enter uring_register userfaultfd perf add_key request_key keyctl pidfd_getfd early
"""
KILLED = """
    ptrace vm_read vm_write mount umount fsopen move_mount open_tree pivot_root chroot
    setns bpf kexec init_module finit_module delete_module reboot swapon by_handle
"""

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")


@pytest.fixture(scope="module")
def world(native_dir: Path) -> Iterator[World]:
    with soft_world(native_dir) as made:
        yield made


@pytest.fixture(scope="module")
def witness(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The software GPU, and behind it one who tries what he may."""
    folder = world.cuda.parent
    return compile_c(
        HERE / "worker_witness.c",
        tmp_path_factory.mktemp("witness") / "libwitness.so",
        "-shared",
        "-fPIC",
        "-Wl,--no-as-needed",
        str(world.cuda),
        f"-Wl,-rpath,{folder}",
    )


def outcomes(world: World, witness: Path, *options: str) -> dict[str, tuple[str, int]]:
    """What came of each of the witness's system calls."""
    with Worker(world.native, witness, world.bare_env(), options=options) as worker:
        worker.dial().must("harpSession", devices=1, driver_version=1, loading_mode=1)
        worker.sock.close()
        assert worker.ended() == 0
        rows = [line.split() for line in worker.words().splitlines() if "harp-worker" not in line]
    return {name: (kind, int(value)) for name, kind, value in rows}


def test_system_calls_that_no_driver_needs_are_refused(world: World, witness: Path) -> None:
    told = outcomes(world, witness)
    killed = KILLED.split() + (["x32"] if os.uname().machine == "x86_64" else [])
    assert {n: told.pop(n) for n in EPERM.split()} == dict.fromkeys(
        EPERM.split(), ("errno", errno.EPERM)
    )
    assert {n: told.pop(n) for n in killed} == dict.fromkeys(killed, ("signal", signal.SIGSYS))
    assert told == {
        "unix": ("errno", 0),
        "clone3": ("errno", errno.ENOSYS),
        "dumpable": ("value", 0),
    }


def test_without_the_filter_they_are_the_kernels_to_answer(world: World, witness: Path) -> None:
    """So it is the filter that refuses them; and that there is none is said."""
    told = outcomes(world, witness, "--no-seccomp")
    assert not [n for n, (kind, _) in told.items() if kind == "signal" and n != "x32"]
    assert told["inet"] == told["early"] == told["unshare"] == ("errno", 0)


#: from here on seccomp(2) is not there, as in a kernel without it
NO_SECCOMP = """
import ctypes, errno, os, struct, sys
load, equal, answer = 0x20, 0x15, 0x06
number = 317 if os.uname().machine == "x86_64" else 277
steps = [(load, 0, 0, 0), (equal, 0, 1, number), (answer, 0, 0, 0x50000 | errno.ENOSYS)]
steps.append((answer, 0, 0, 0x7FFF0000))
code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *s) for s in steps))
program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", 4, ctypes.addressof(code)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP, a filter
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("options", [(), ("--no-seccomp",)])
def test_a_kernel_without_seccomp_is_served_by_nobody_who_has_not_said_so(
    world: World, options: tuple[str, ...]
) -> None:
    through = (sys.executable, "-c", NO_SECCOMP)
    with Worker(
        world.native, world.cuda, world.bare_env(), options=options, through=through
    ) as worker:
        if options:
            worker.dial().must("harpSession", devices=1, driver_version=1, loading_mode=1)
            worker.sock.close()
            assert worker.ended() == 0
            assert worker.words() == "harp-worker: no seccomp filter, as --no-seccomp says\n"
        else:
            with pytest.raises(ConnectionRefusedError, match="CONFIG_SECCOMP_FILTER"):
                worker.dial()
            assert worker.ended() == 1
            assert "--no-seccomp" in worker.words()


# --- its user -------------------------------------------------------------------------------------


def tenant_of(world: World, name: str, uid: int) -> Path:
    """A tenant of another user's: its socket is that user's to connect to."""
    grant = world.base / "grants" / name
    grant.mkdir(parents=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(str(grant / "arbiter.sock"))
    listening.listen(16)
    world.sockets[name] = listening
    grant.chmod(0o700)
    for path in (grant, grant / "arbiter.sock"):
        os.chown(path, uid, uid)
    made = world.ask(op=Op.ADD_TENANT, uid=uid, text=name, fds=[listening.fileno()])
    world.tenants[name] = made[-1].tenant
    world.limits[name] = {"limit_bytes": 256 * MIB}
    world.set_tenant(name)
    return grant


def status(worker: Worker) -> dict[str, list[str]]:
    text = Path(f"/proc/{worker.process.pid}/status").read_text()
    return {line.split(":")[0]: line.split(":")[1].split() for line in text.splitlines()}


def runs_a_kernel(c: Client) -> None:
    c.context()
    at = int(c.must("cuMemAlloc_v2", dptr=1, bytesize=4096)["dptr"])
    twice = c.function(PTX, "twice")
    c.send("cuMemsetD32_v2", dstDevice=at, ui=21, N=1)
    c.launch(twice, struct.pack("<Q", at), blocks=1, threads=1)
    told = c.must("cuMemcpyDtoH_v2", dstHost=b"", srcDevice=at, ByteCount=4)
    assert bytes(told["dstHost"]) == struct.pack("<I", 42)


@root_only
def test_a_session_runs_as_another_user_for_good(world: World) -> None:
    """With the arbiter and the compiler of kernels, and nothing of root's left."""
    tenant_of(world, "other", USER)
    with tempfile.TemporaryDirectory(prefix="harp-cache-") as cache:
        os.chown(cache, USER, GROUP)
        env = world.env("other", XDG_CACHE_HOME=cache)
        del env["LD_PRELOAD"]
        options = ("--user", f"{USER}:{GROUP}")
        with Worker(
            world.native,
            world.shim / "libcuda.so.1",
            env,
            options=options,
            through=("setpriv", "--groups", "7,8"),
        ) as worker:
            runs_a_kernel(worker.dial())
            told = status(worker)
            usage = world.usage("other").leased_bytes
            core = Path(f"/proc/{worker.process.pid}/limits").read_text()
        made = {path.stat().st_uid for path in Path(cache).rglob("*.so")}
    assert (told["Uid"], told["Gid"]) == ([str(USER)] * 4, [str(GROUP)] * 4)
    assert told["Groups"] == []
    assert {int(told[which][0], 16) for which in ("CapPrm", "CapEff", "CapAmb")} == {0}
    assert (told["NoNewPrivs"], told["Seccomp"]) == (["1"], ["2"])
    line = next(line for line in core.splitlines() if line.startswith("Max core file size"))
    assert line.split()[4:6] == ["0", "0"]
    assert usage > 0
    assert made == {USER}


@pytest.mark.slow
@root_only
def test_a_tenant_of_somebody_elses_is_none_for_it(world: World) -> None:
    """What the arbiter does not know gets no context: it does not run beside the ledger."""
    tenant_of(world, "third", USER + 100)
    env = world.env("third")
    del env["LD_PRELOAD"]
    with Worker(
        world.native, world.shim / "libcuda.so.1", env, options=("--user", str(USER))
    ) as worker:
        c = worker.dial()
        c.must("harpSession", devices=1, driver_version=1, loading_mode=1)
        assert c.ask("cuDevicePrimaryCtxRetain", pctx=c.new(), dev=0)[0] != 0


#: as a user who has nothing but the right to enter folders (the program may lie in root's)
NOBODY = ("setpriv", "--inh-caps", "-all,+dac_read_search", "--ambient-caps", "+dac_read_search")


@root_only
def test_who_is_not_root_becomes_nobody_else(world: World) -> None:
    through = (*NOBODY, "--reuid", str(USER), "--clear-groups")
    with Worker(
        world.native, world.cuda, world.bare_env(), options=("--user", "48299"), through=through
    ) as worker:
        with pytest.raises(ConnectionRefusedError, match="cannot become uid 48299"):
            worker.dial()
        assert worker.ended() == 1
        assert "remedy: start it as root" in worker.words()


@root_only
def test_a_user_who_could_become_root_again_is_not_served(world: World) -> None:
    """With the securebit that keeps capabilities when ids change."""
    through = ("setpriv", "--securebits", "+no_setuid_fixup")
    with Worker(
        world.native, world.cuda, world.bare_env(), options=("--user", "48299"), through=through
    ) as worker:
        with pytest.raises(ConnectionRefusedError, match="could become root again"):
            worker.dial()
        assert worker.ended() == 1


@pytest.mark.parametrize("user", ["", "root", "-1", "1:", ":1", "4294967295", "1:2:3", " 1", "1 "])
def test_a_user_is_said_in_numbers(world: World, user: str) -> None:
    options = ("--user", user)
    with Worker(world.native, world.cuda, world.bare_env(), options=options) as worker:
        assert worker.ended() == 1
        assert worker.words().startswith("usage: harp-worker")
