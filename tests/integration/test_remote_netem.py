# SPDX-License-Identifier: Apache-2.0
"""Two hosts as network namespaces: a GPU behind delay, loss, little bandwidth, and a pulled cable.

The cable is netem's where the kernel has it, else harp-bench-cable's (`harp.bench.hosts`).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from link_session import alive, until

from harp.bench.hosts import DEVICE, FAR, Cable, TwoHosts, sweep, two_hosts, why_not
from harp.bench.machine import machine
from harp.bench.remote_figures import Counted, mismatches
from harp.bench.remote_path import Far, Host, counts_of, far, host, near
from harp.native import NativeDir

MIB = 1 << 20
#: README of native/src/link: a peer that is gone is found in 10 s; ten times that is no busy host
DEAD_S = 10
HANG_S = 10 * DEAD_S


@dataclass
class Net:
    """A program's way to a worker on the other host."""

    at: Host
    hosts: TwoHosts
    link: Far
    socket: Path

    def start(self, *mode: object) -> subprocess.Popen[str]:
        """harp-bench-remote on the near host."""
        command = [self.at.native.file("harp-bench-remote"), *map(str, mode)]
        return subprocess.Popen(
            [*self.hosts.on_near(), *command],
            env=self.at.client_env(self.socket),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *mode: object) -> dict[str, Any]:
        """What it says; the driver must have been asked for just that."""
        self.at.settle()
        before = counts_of(self.at.counts)
        program = self.start(*mode)
        out, err = program.communicate(timeout=HANG_S)
        assert program.returncode == 0, err
        said: dict[str, Any] = json.loads(out)
        after = counts_of(self.at.counts)
        asked = Counted(said["syncs"], said["launches"], said["copied_bytes"], said["sum"])
        applied = Counted(
            after.syncs - before.syncs,
            after.launches - before.launches,
            after.copied_bytes - before.copied_bytes,
            (after.sum - before.sum) % (1 << 64),
        )
        assert mismatches(asked, applied) == []
        return said


@pytest.fixture
def base(native_dir: Path) -> dict[str, str]:
    """The environment; or the test is skipped where there can be no two hosts."""
    if (why := why_not()) is not None:
        pytest.skip(why)
    if not (native_dir / "harp-link").exists():
        pytest.skip("harp-link is not built: libnghttp2-dev or libssl-dev is missing")
    return {**os.environ, "HARP_NATIVE_DIR": str(native_dir)}


@contextlib.contextmanager
def net(base: dict[str, str], cable: Cable, soft: dict[str, str] | None = None) -> Iterator[Net]:
    """TLS over that cable, to the driver that counts, or to the software GPU of `soft`."""
    native = NativeDir(Path(base["HARP_NATIVE_DIR"]))
    driver = native.soft_cuda if soft else None
    with (
        host(base, driver=driver, more=soft) as at,
        two_hosts(native, cable) as hosts,
        far(at, tls=True, listen=FAR, prefix=hosts.on_far()) as link,
        near(at, f"{FAR}:{link.port}", tls=True, prefix=hosts.on_near()) as path,
    ):
        yield Net(at, hosts, link, path)


@pytest.mark.slow
@pytest.mark.parametrize("delay_ms", [0.2, 1.0, 10.0])
def test_a_call_that_waits_takes_one_round_trip_and_launches_take_none(
    base: dict[str, str], delay_ms: float
) -> None:
    calls = 20
    with net(base, Cable(delay_ms=delay_ms)) as way:
        waits = way.run("rtt", calls)
        assert waits["trips"] == calls
        # Not one came back before it can have: the delay is there.
        assert min(waits["ns"]) >= 2e6 * delay_ms
        launches = way.run("async", 1)
        assert launches["trips"] == 1
        assert launches["ns"][0] < 1000 * 2e6 * delay_ms  # they do not wait for one another


@pytest.mark.slow
def test_lost_packets_cost_time_and_nothing_else(base: dict[str, str]) -> None:
    with net(base, Cable(delay_ms=0.2, loss_ratio=0.01)) as way:
        way.run("rtt", 200)
        way.run("async", 20)
        way.run("bulk", 8, 3)
        assert sent_again(way.hosts) > 0


def sent_bytes(hosts: TwoHosts) -> int:
    """Bytes that the near host has put on the cable."""
    words = [*hosts.on_near(), "cat", "/proc/net/dev"]
    told = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    return int(told.split(f"{DEVICE}:")[1].split()[8])


def sent_again(hosts: TwoHosts) -> int:
    """TCP segments that the near host has sent twice."""
    words = [*hosts.on_near(), "cat", "/proc/net/snmp"]
    told = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    names, values = (line.split() for line in told.splitlines() if line.startswith("Tcp:"))
    return int(values[names.index("RetransSegs")])


@pytest.mark.slow
@pytest.mark.parametrize(("rate_mbit", "mib"), [(100, 4), (10_000, 64)])
def test_copies_keep_to_the_rate_and_arrive_whole(
    base: dict[str, str], rate_mbit: int, mib: int
) -> None:
    with net(base, Cable(delay_ms=0.2, rate_mbit=rate_mbit)) as way:
        copied = way.run("bulk", mib, 2)
    # The second copy, too: what the queue on the way holds is at most another's bytes.
    assert sum(copied["ns"]) >= 0.8e3 * mib * MIB * 8 * 2 / rate_mbit


def held(at: Host) -> int:
    """Bytes that processes have of the software GPU, by its own ledger."""
    told = subprocess.run(
        [at.native.file("harp-soft-truth"), "--json"],
        env=at.whole_env(),
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    return sum(int(row["mem_bytes"]) for row in json.loads(told)["processes"])


@pytest.mark.slow
@pytest.mark.parametrize("busy", [True, False], ids=["mid-copy", "idle"])
def test_a_pulled_cable_is_an_error_and_gives_the_memory_back(
    base: dict[str, str], busy: bool
) -> None:
    with (
        machine(base, harp=False) as box,
        net(base, Cable(rate_mbit=100), {"HARP_SOFT_DIR": box.env["HARP_SOFT_DIR"]}) as way,
    ):
        # 256 MiB take 20 s; whoever holds as much says nothing more.
        program = way.start("bulk", 256, 1) if busy else way.start("hold", 256)
        try:
            until("the allocation", lambda: held(way.at) >= 256 * MIB)
            worker = way.link.worker()
            if busy:
                until("some of the copy", lambda: sent_bytes(way.hosts) > MIB)
            way.hosts.pull()
            pulled_s = time.monotonic()
            if busy:
                _, err = program.communicate(timeout=HANG_S)
                assert program.returncode == 1, err
                assert "cuMemcpyHtoD_v2: 46" in err  # CUDA_ERROR_DEVICE_UNAVAILABLE
                print(f"told after {time.monotonic() - pulled_s:.1f} s")
            until("the worker's end", lambda: not alive(worker), HANG_S)
            until("the memory's being back", lambda: held(way.at) == 0, HANG_S)
            print(f"back after {time.monotonic() - pulled_s:.1f} s")
            assert time.monotonic() - pulled_s < HANG_S
        finally:
            program.kill()
            program.communicate()


#: two hosts, a program on each; and then nobody to take them away
LEAVER = """
import subprocess, sys
from harp.bench.hosts import Cable, two_hosts
from harp.native import native_dir, NativeDir
with two_hosts(NativeDir(native_dir()), Cable(delay_ms=1)) as hosts:
    stays = ["sh", "-c", "echo; exec sleep 1000"]
    ways = hosts.on_near(), hosts.on_far()
    left = [subprocess.Popen([*way, *stays], stdout=-1) for way in ways]
    for one in left:
        one.stdout.readline()  # ip has entered its host by now
    print(hosts.near, hosts.far, *(one.pid for one in left), flush=True)
    sys.stdin.read()
"""


def namespaces() -> set[str]:
    done = subprocess.run(["ip", "netns", "list"], capture_output=True, check=True, text=True)
    return {line.split()[0] for line in done.stdout.splitlines()}


def test_what_a_killed_test_has_left_is_removed_by_the_next(base: dict[str, str]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", LEAVER],
        env=base,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as leaver:
        assert leaver.stdout is not None
        near_name, far_name, *pids = leaver.stdout.readline().split()
        assert sweep() == []  # not while it lives
        assert namespaces() >= {near_name, far_name}
        leaver.kill()
    assert set(sweep()) == {near_name, far_name}
    assert namespaces().isdisjoint({near_name, far_name})
    for pid in map(int, pids):
        until("its programs' end", lambda pid=pid: not alive(pid))


def test_hosts_are_gone_afterwards(base: dict[str, str]) -> None:
    before = namespaces()
    with net(base, Cable()) as way:
        assert namespaces() - before == {way.hosts.near, way.hosts.far}
        assert way.hosts.kind == "veth"
    assert namespaces() == before


def test_a_cable_says_the_same_to_netem_and_to_the_relay() -> None:
    cable = Cable(delay_ms=0.2, loss_ratio=0.01, rate_mbit=100)
    words = ["delay", "0.2ms", "loss", "1%", "rate", "100mbit", "limit", "4096"]
    assert cable.netem() == words
    assert cable.relay() == ["200", "10000", "100000"]
    assert Cable().netem() == []
