# SPDX-License-Identifier: Apache-2.0
"""Many processes, random operations over all paths to memory, random SIGKILLs, against a model.

Three books must agree: what the programs know they hold, HARP's ledger, and the engine's own, which
is sampled all the while: not a byte over a limit, ever.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from harp.bench.sampler import Sampled, sampling
from harp.client import Client
from tests.integration.machine import Machine, machine, seed_of_this_run, wait_for
from tests.integration.shim_world import GRANULE, MIB, compile_c

SOURCE = Path(__file__).with_name("memory_ops.c")

#: paths that are exact to the byte
EXACT = "linear,pitch,managed,async,pool,vmm,context,pinned"
#: small arrays have no address: an upper bound of the granules they share is charged
ALL = "linear,pitch,managed,async,pool,vmm,array,mipmap,context,pinned"


@dataclass(frozen=True)
class Load:
    """What is done, by how many."""

    tenants: int
    processes: int  #: of each tenant
    limit_mib: int  #: of each tenant
    ops: int  #: in all
    seconds: float  #: at most
    kills_per_s: float  #: of each tenant
    paths: str = ALL
    least_bytes: int = 1  #: of one allocation


FAST = Load(2, 8, limit_mib=192, ops=20_000, seconds=4, kills_per_s=4, paths=EXACT)
BOUND = replace(FAST, paths=ALL)
FULL = Load(4, 16, limit_mib=512, ops=1_000_000, seconds=90, kills_per_s=2)


def held_by_group(box: Machine, groups: list[int]) -> list[int]:
    """Bytes that the engine says the living of each process group hold."""
    held = dict.fromkeys(groups, 0)
    for row in box.truth()["processes"]:
        if row["state"] == "live":
            held[os.getpgid(row["pid"])] += row["mem_bytes"]
    return [held[group] for group in groups]


def leased(box: Machine) -> dict[str, int]:
    """HARP's ledger: bytes by tenant."""
    with Client.connect(box.env) as control:
        return {tenant.name: tenant.leased_bytes for tenant in control.state().tenants}


def nothing_is_left(box: Machine) -> bool:
    told = box.truth()
    held = [row for row in told["processes"] if row["state"] != "gone"]
    return told["devices"][0]["used_bytes"] == 0 and not held and not any(leased(box).values())


def run(box: Machine, program: Path, load: Load, seed: int) -> list[dict[str, Any]]:
    """Runs it; what each tenant said, its `leased` and `truth` one second after all stopped."""
    tenants = []
    each = load.ops // load.tenants
    for number in range(load.tenants):
        command = [str(program), str(load.processes), str(seed + number), str(each)]
        command += [str(load.seconds), str(load.kills_per_s), load.paths, str(load.limit_mib)]
        command += [str(load.least_bytes)]
        options = ["--name", f"s{number}", "--mem", f"{load.limit_mib}MiB"]
        tenants.append(box.tenant(*options, command=command, session=True))
    said = []
    for tenant in tenants:
        assert tenant.stdout is not None
        line = tenant.stdout.readline()
        assert line, tenant.stderr.read() if tenant.stderr else ""
        said.append(json.loads(line))
    ledger = leased(box)
    for number, held in enumerate(held_by_group(box, [tenant.pid for tenant in tenants])):
        said[number] |= {"leased": ledger[f"s{number}"], "truth": held}
    for tenant in tenants:
        tenant.communicate("end\n", timeout=60)
    return said


def check(load: Load, said: list[dict[str, Any]], seen: Sampled, groups: list[int]) -> None:
    limit = load.limit_mib * MIB
    assert all(one["bad"] == 0 for one in said), [one["what"] for one in said]
    for one, group in zip(said, groups, strict=True):
        assert seen.group_peak_bytes.get((group, 0), 0) <= limit
        assert one["holds_low"] <= one["truth"] <= one["holds_high"], one
        tolerance = max(GRANULE, one["truth"] // 100)
        most = one["truth"] * (2 if "array" in load.paths else 1) + tolerance
        assert one["truth"] - tolerance <= one["leased"] <= most, one
        assert abs(limit - one["free"] - one["leased"]) <= tolerance, one  # the dead hold nothing
    assert sum(one["ops"] for one in said) > 0
    assert seen.exact > 0


@pytest.mark.parametrize(
    "load",
    [
        pytest.param(FAST, id="16"),
        pytest.param(BOUND, id="16-arrays", marks=pytest.mark.slow),
        pytest.param(FULL, id="64", marks=pytest.mark.slow),
    ],
)
def test_no_underflow_no_leak_and_not_a_byte_over_a_limit(
    native_dir: Path, tmp_path: Path, load: Load
) -> None:
    seed = seed_of_this_run()
    program = compile_c(SOURCE, tmp_path / "memory_ops")
    with machine(native_dir, HARP_SOFT_DEVICES="h100-80g") as box:
        box.start_harpd()
        with sampling(native_dir, box.env) as sampler:
            said = run(box, program, load, seed)
            wait_for(lambda: nothing_is_left(box), "both ledgers are empty")
            seen = sampler.stop()
        groups = [child.pid for child in box.children]
        ops, kills = (sum(one[what] for one in said) for what in ("ops", "kills"))
        print(
            f"{ops} operations, {kills} SIGKILLs in {said[0]['seconds']} s; {seen.samples} samples"
            f" ({seen.hz:.0f} a second, {seen.exact} of one moment); {said}"
        )
        check(load, said, seen, groups)
