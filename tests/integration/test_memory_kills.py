# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at each system call of a short tenant: both ledgers are back at what lives, peers go on.

A real harpd and arbiter; the killed one shares its tenant with a peer, and another tenant has one
too. Nothing may be left on disk or in /dev/shm.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from harp.client import Client
from tests.integration.machine import Machine, machine, seed_of_this_run, wait_for
from tests.integration.shim_world import GRANULE, compile_c

HERE = Path(__file__).resolve().parent
PEER_MS = 100  #: a peer's wait, promised
TOLERANCE = 10  #: of all times here: hosts are busy
FAST_KILLS = 25
SLOW_S = 100.0  #: for all indexes; what is left out then is said


def ask(program: subprocess.Popen[str], line: object) -> str:
    """One line there, one back."""
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(f"{line}\n")
    program.stdin.flush()
    answer = program.stdout.readline().strip()
    assert answer, (program.args, program.poll())
    return answer


def files(box: Machine) -> set[str]:
    """All there is on disk that could be HARP's, but the software GPU's own state."""
    own = [path for path in box.base.rglob("*") if box.base / "soft" not in path.parents]
    return {str(path) for path in (*own, *Path("/dev/shm").glob("harp-soft-*"))}


def alive(box: Machine) -> set[int]:
    """Processes that the engine still has something of."""
    return {row["pid"] for row in box.truth()["processes"] if row["state"] != "gone"}


def sessions(box: Machine) -> dict[int, int]:
    """Bytes leased by process; the dead whose memory is not back yet included."""
    with Client.connect(box.env) as control:
        every = [client for tenant in control.state().tenants for client in tenant.clients]
    return {client.pid: client.leased_bytes for client in every}


class Scene:
    """A machine, a killer in a tenant, a peer beside it in the tenant, and one in another."""

    def __init__(self, box: Machine, folder: Path) -> None:
        self.box = box
        self.short = compile_c(HERE / "memory_short.c", folder / "memory_short")
        killer = compile_c(HERE / "syscall_killer.c", folder / "syscall_killer")
        box.start_harpd()
        limits = ("--mem", "512MiB")
        command = [str(killer), str(self.short)]
        self.killer = box.tenant("--name", "near", *limits, command=command)
        assert ask(self.killer, 0).split()[4] == "0", "it does not even end well when not killed"
        far = box.tenant("--name", "far", *limits, command=[str(self.short), "peer"])
        # Whoever has the folder of a tenant's socket is of the tenant.
        environ = Path(f"/proc/{self.killer.pid}/environ").read_text().split("\0")
        near = subprocess.Popen(
            [self.short, "peer"],
            env=dict(word.split("=", 1) for word in environ if word),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        box.children.append(near)
        self.peers = {peer.pid: peer for peer in (far, near)}
        for peer in self.peers.values():
            assert peer.stdout is not None
            assert peer.stdout.readline() == "ready\n"

    def is_as_before(self) -> bool:
        """Only the peers are in either ledger, with what they hold."""
        ledger = sessions(self.box)
        if ledger.keys() != self.peers.keys() or alive(self.box) != self.peers.keys():
            return False
        return all(8 * GRANULE <= held <= 12 * GRANULE for held in ledger.values())

    def longest_wait_ms(self) -> float:
        """Of both peers since the last time."""
        return max(float(ask(peer, "?")) for peer in self.peers.values())


def sweep(scene: Scene, dice: random.Random, most: int | None, seconds: float) -> None:
    """Kill at each index, in random order, as far as `most` and `seconds` go."""
    _, _, calls, _, _ = map(int, ask(scene.killer, 0).split())
    wait_for(scene.is_as_before, "only the peers are left")
    scene.longest_wait_ms()
    before = files(scene.box)
    order = dice.sample(range(1, calls + 1), calls)[:most]
    begin, done, ended = time.monotonic(), 0, 0
    killed_in: Counter[int] = Counter()
    worst_wait_ms = worst_back_ms = 0.0
    for index in order:
        if time.monotonic() - begin > seconds:
            break
        pid, killed, _, number, status = map(int, ask(scene.killer, index).split())
        done += 1
        if killed:
            killed_in[number] += 1
        else:  # threads take turns as they like: this time it made fewer calls
            assert status == 0, f"call {index} of {pid}: it ended with {status}"
            ended += 1
        dead = time.monotonic()
        wait_for(scene.is_as_before, f"only the peers are left of call {index} of {pid}")
        worst_back_ms = max(worst_back_ms, (time.monotonic() - dead) * 1e3)
        wait_ms = scene.longest_wait_ms()
        worst_wait_ms = max(worst_wait_ms, wait_ms)
        assert wait_ms <= PEER_MS * TOLERANCE, f"a peer waited when {pid} died at call {index}"
    wait_for(lambda: files(scene.box) <= before, "nothing is left on disk")
    print(
        f"killed at {done - ended} of {calls} call indexes ({ended} times it had ended before), in"
        f" {len(killed_in)} different calls; longest wait of a peer {worst_wait_ms:.0f} ms, both"
        f" ledgers back within {worst_back_ms:.0f} ms"
    )
    assert done - ended >= min(len(order), FAST_KILLS) // 2


@pytest.mark.parametrize(
    ("most", "seconds"),
    [pytest.param(FAST_KILLS, 20.0, id="some"), pytest.param(None, SLOW_S, marks=pytest.mark.slow)],
)
def test_sigkill_every_syscall_leaves_nothing_and_holds_up_nobody(
    native_dir: Path, tmp_path: Path, most: int | None, seconds: float
) -> None:
    dice = random.Random(seed_of_this_run())
    with machine(native_dir, HARP_SOFT_DEVICES="h100-80g") as box:
        sweep(Scene(box, tmp_path), dice, most, seconds)
