# SPDX-License-Identifier: Apache-2.0
"""The ledger against the device: what nobody leased is charged, to whom it belongs, in a second."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from harp.api.v1 import control_pb2 as pb
from harp.client import Client
from harp.procs import read
from tests.integration.machine import Machine, machine, wait_for
from tests.integration.told import PROGRAM, Told

MIB = 1 << 20
GRANULE = 2 * MIB
CONTEXT = 24 * MIB  # of the "tiny" model
SMALL = ("alloc", "pitch", "managed", "vmm", "ordered", "pinned")
#: of these each piece is leased in whole granules, and the device may put small ones together
LARGE = ("array", "module", "heap")


@pytest.fixture
def box(native_dir: Path) -> Iterator[Machine]:
    with machine(native_dir, HARP_CONFIG_WATCHDOG_PERIOD_S="0.2") as found:
        found.start_harpd()
        yield found


def told(box: Machine, *options: str) -> Told:
    return Told(box.tenant(*options, command=[sys.executable, str(PROGRAM)]))


def truth(box: Machine) -> int:
    """Bytes on device 0, by the engine's own ledger."""
    tool = box.native_dir / "soft" / "harp-soft-truth"
    if not tool.exists():
        tool = box.native_dir / "harp-soft-truth"
    done = subprocess.run(
        [str(tool), "--json"], env=box.env, capture_output=True, text=True, check=True
    )
    rows = json.loads(done.stdout)["processes"]
    return sum(r["mem_bytes"] + r["context_bytes"] for r in rows if r["device"] == 0)


def state(box: Machine) -> pb.GetStateReply:
    with Client.connect(box.env) as client:
        return client.state()


def shown(box: Machine, name: str) -> pb.Tenant:
    return next(t for t in state(box).tenants if t.name == name)


def ledger(found: pb.GetStateReply) -> int:
    device = found.devices[0]
    return int(device.leased_bytes + device.overhead_bytes)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_ledger_vs_nvml(box: Machine, seed: int) -> None:
    """Random programs of all kinds of memory: after a second truth and ledger are one."""
    dice = random.Random(seed)
    programs = [told(box, "--name", f"t{n}", "--mem", "400MiB") for n in range(2)]
    kinds, heaps = set(), set()
    for _ in range(6):
        for _ in range(8):
            program = dice.choice(programs)
            held = program.do("info")["held"]
            if held and dice.random() < 0.4:
                assert program.do("free", dice.randrange(held))["code"] == 0
                continue
            kind = dice.choice(SMALL + LARGE)
            if kind == "heap" and program.pid in heaps:
                continue  # a raised limit is leased until the context ends
            least = 3 * MIB if kind in LARGE else 1
            size = dice.randrange(least, 40 * MIB if dice.random() < 0.5 else 4 * MIB)
            if program.do(kind, size)["code"] == 0:
                kinds.add(kind)
                heaps |= {program.pid} if kind == "heap" else set()
        if dice.random() < 0.5:
            dice.choice(programs).do("past", dice.randrange(3 * MIB, 20 * MIB))
        real = truth(box)

        def close(real: int = real) -> bool:
            return abs(ledger(state(box)) - real) <= max(GRANULE, real // 100)

        wait_for(close, f"truth {real}, ledger {ledger(state(box))}")
        for one in state(box).tenants:
            for use in one.uses:
                assert use.unleased_bytes <= use.overhead_bytes < 1 << 40
                assert use.charged_bytes == use.leased_bytes + use.unleased_bytes
    assert len(kinds) >= 6, kinds


@pytest.mark.slow
def test_who_allocates_and_frees_all_the_time_is_charged_for_nothing(native_dir: Path) -> None:
    """NVML and the arbiter are asked one after the other; memory comes and goes between."""
    with machine(native_dir, HARP_CONFIG_WATCHDOG_PERIOD_S="0.1") as box:
        box.start_harpd()
        program = told(box, "--name", "t", "--mem", "200MiB")
        assert program.do("churn", 200 * MIB)["code"] == 0
        assert shown(box, "t").unleased_bytes == 0


@pytest.mark.slow
def test_what_nobody_leased_counts_against_its_tenant_and_no_other(box: Machine) -> None:
    mine = told(box, "--name", "t", "--mem", "200MiB")
    other = told(box, "--name", "other", "--mem", "200MiB")
    mine.do("alloc", 50 * MIB)
    mine.do("past", 30 * MIB)
    wait_for(lambda: shown(box, "t").unleased_bytes == 30 * MIB, "it is seen")
    assert mine.do("info")["cuda"] == [120 * MIB, 80 * MIB, 200 * MIB]
    assert other.do("info")["cuda"] == [200 * MIB, 0, 200 * MIB]
    table = box.harp("ps").stdout
    assert "t: 30MiB of code, heaps and local memory count against its limit on GPU 0" in table
    (client,) = (box.ps("t") or {})["clients"]
    assert (client["overhead_bytes"], client["unleased_bytes"]) == (CONTEXT + 30 * MIB, 30 * MIB)
    mine.do("free", 1)
    wait_for(lambda: shown(box, "t").unleased_bytes == 0, "it went")
    assert mine.do("info")["cuda"] == [150 * MIB, 50 * MIB, 200 * MIB]


def test_limit_below_use_loses_nothing_and_is_said(box: Machine) -> None:
    program = told(box, "--name", "t", "--mem", "600MiB")
    program.do("alloc", 500 * MIB)
    done = box.harp("set", "t", "--mem", "100MiB")
    assert done.returncode == 0, done.stderr
    assert "t: over its limit by 400MiB on GPU 0: no new memory" in done.stderr
    assert "t: over its limit by 400MiB on GPU 0: no new memory" in box.harp("ps").stdout
    found = box.ps("t") or {}
    assert (found["mem_over_limit_bytes"], found["mem_leased_bytes"]) == (400 * MIB, 500 * MIB)
    assert found["devices"][0]["mem_over_limit_bytes"] == 400 * MIB
    doctor = {c["name"]: c for c in box.json("doctor")["checks"]}
    assert "no new memory" in doctor["memory"]["text"]
    said = program.do("alloc", MIB)
    assert (said["code"], said["cuda"]) == (2, [0, 100 * MIB, 100 * MIB])
    # What it holds nobody else can be promised.
    refused = box.harp("run", "--mem", "700MiB", "--", "true")
    assert refused.returncode == 125
    assert "left of" in refused.stderr
    box.json("set", "t", "--mem", "600MiB")
    assert program.do("alloc", 90 * MIB)["code"] == 0
    found = box.ps("t") or {}
    assert (found["mem_over_limit_bytes"], found["mem_limit_bytes"]) == (0, 600 * MIB)


@pytest.mark.slow
def test_context_costs_are_learnt_for_two_models_and_survive_a_restart(native_dir: Path) -> None:
    with machine(
        native_dir, HARP_SOFT_DEVICES="tiny,t4-16g", HARP_CONFIG_WATCHDOG_PERIOD_S="0.2"
    ) as box:
        box.start_harpd()

        def costs() -> list[tuple[int, str, int]]:
            return [
                (d["context_bytes"] // MIB, d["context_source"], d["context_seen"])
                for d in box.json("devices")["devices"]
            ]

        assert costs() == [(24, "measured", 0), (104, "measured", 0)]
        doctor = [c["text"] for c in box.json("doctor")["checks"] if c["name"] == "contexts"]
        assert [text.partition(" each on ")[0] for text in doctor] == ["24MiB", "104MiB"]
        child = box.tenant("--name", "keeps", command=["sh", "-c", "echo is; exec sleep 600"])
        assert child.stdout
        assert child.stdout.readline() == "is\n"  # else it would start a harpd of its own
        _kill_harpd(box)
        with closing(sqlite3.connect(box.run_dir / "harpd.db")) as db:  # as if no probe had run
            db.execute("UPDATE overhead SET bytes = 300 << 20, source = 'default'")
            db.commit()
        box.start_harpd()
        assert [c[0] for c in costs()] == [300, 300]
        told(box, "--gpu", "0", "--mem", "64MiB")
        told(box, "--gpu", "1", "--mem", "64MiB")
        wait_for(lambda: costs() == [(24, "seen", 1), (104, "seen", 1)], "real clients tell")
        _kill_harpd(box)
        box.start_harpd()
        assert costs() == [(24, "seen", 1), (104, "seen", 1)]
        # The next context is leased at the cost that was learnt.
        one = told(box, "--name", "next", "--gpu", "1", "--mem", "64MiB")
        assert one.do("info")["cuda"][1] == 0
        (client,) = (box.ps("next") or {})["clients"]
        assert client["overhead_bytes"] == 104 * MIB
        assert child.poll() is None


def _kill_harpd(box: Machine) -> None:
    pid = box.harpd_pid()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: (found := read(pid)) is None or found.zombie, "harpd is gone")


def _grown(box: Machine) -> tuple[Told, Told]:
    """The process of a tenant above its limit by memory nobody leased, and another tenant's."""
    offender = told(box, "--name", "t", "--mem", "100MiB")
    innocent = told(box, "--name", "other", "--mem", "100MiB")
    offender.do("alloc", 90 * MIB)
    wait_for(lambda: shown(box, "t").window_s, "it was looked at")
    offender.do("past", 30 * MIB)
    wait_for(lambda: shown(box, "t").over_limit_bytes, "it is above")
    return offender, innocent


@pytest.mark.slow
def test_above_the_limit_by_unleased_memory_there_is_no_new_memory(box: Machine) -> None:
    offender, innocent = _grown(box)
    assert shown(box, "t").over_limit_bytes == 20 * MIB
    assert offender.do("alloc", MIB)["code"] == 2
    assert innocent.do("alloc", 90 * MIB)["code"] == 0
    (event,) = wait_for(lambda: box.events("tenant_above_limit"), "it is logged")
    assert (event["tenant"], event["effect"]) == ("t", "no new memory")
    assert not box.events("process_overdrawn")
    assert offender.process.poll() is None
    offender.do("free", 1)
    wait_for(lambda: not shown(box, "t").over_limit_bytes, "it is within again")
    assert offender.do("alloc", MIB)["code"] == 0


@pytest.mark.slow
def test_overdraft_kill_ends_the_offender_alone_after_its_grace(native_dir: Path) -> None:
    with machine(
        native_dir,
        HARP_CONFIG_WATCHDOG_PERIOD_S="0.2",
        HARP_CONFIG_WATCHDOG_OVERDRAFT="kill",
        HARP_CONFIG_WATCHDOG_OVERDRAFT_GRACE_S="1",
    ) as box:
        box.start_harpd()
        began = time.monotonic()
        offender, innocent = _grown(box)
        assert offender.process.wait(30) == -signal.SIGKILL
        assert time.monotonic() - began >= 1
        (event,) = box.events("process_overdrawn")
        assert (event["pid"], event["tenant"], event["action"]) == (offender.pid, "t", "killed")
        assert innocent.do("alloc", 50 * MIB)["code"] == 0
        lowered = told(box, "--name", "low", "--mem", "100MiB")
        lowered.do("alloc", 90 * MIB)
        box.json("set", "low", "--mem", "50MiB")
        time.sleep(2)
        assert lowered.do("info")["code"] == 0
        assert len(box.events("process_overdrawn")) == 1


@pytest.mark.slow
def test_a_quota_of_pinned_memory_reaches_the_grant_and_is_shown(box: Machine) -> None:
    told(box, "--name", "t", "--host-mem", "2GiB")
    assert shown(box, "t").host_limit_bytes == 2 << 30
    assert "of 2GiB pinned host memory" in box.harp("ps").stdout
    done = box.harp("set", "t", "--host-mem", "1GiB")
    assert "pinned 1GiB" in done.stderr
    _kill_harpd(box)
    box.start_harpd()
    assert shown(box, "t").host_limit_bytes == 1 << 30
    box.json("set", "t", "--host-mem", "none")
    assert shown(box, "t").host_limit_bytes == 0
