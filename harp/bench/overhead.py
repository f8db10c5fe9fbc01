# SPDX-License-Identifier: Apache-2.0
"""What a call costs more under HARP.

native/bench/launch.c has the driver and libharp in one process and launches through either in
turn, batch by batch, so both sides meet the same caches, clocks and neighbours. It runs under
`harp run`, on the device that is there and on a driver whose calls cost nothing, where the
difference is HARP's alone.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harp.api.v1 import control_pb2 as pb
from harp.bench.machine import LABEL
from harp.bench.verdict import Target, as_json
from harp.client import Client
from harp.errors import HarpError, NoDevice
from harp.model import uuid_bytes
from harp.native import NativeDir, find, scrub

__all__ = ["overhead"]

_TIMEOUT_S = 120.0
#: launches in one timed batch: a device queues 1024, a driver that does nothing any number
_DEVICE_BATCH, _NOOP_BATCH = 200, 20_000
_LIMIT_BYTES = 64 << 20
_LIMITS = ("--mem", f"{_LIMIT_BYTES >> 20}MiB", "--share", "50%")


#: launches timed on each side of the figures that are judged
LEAST_LAUNCHES = 10_000_000
#: ns added to a launch that costs nothing
NOOP_LIMITS_NS = {"no_limit": 20.0, "limited_alone": 30.0, "limited_8_threads": 150.0}
#: a storm of launches drains token buckets and warms every cache; programs launch in bursts
_BURST, _PAUSE_US, _BURSTS = 200, 1000, 1000
_DEVICE_ROUNDS = 201


@dataclass(frozen=True, slots=True)
class _Variant:
    """One way to run the calling program."""

    name: str
    run_options: tuple[str, ...] = _LIMITS  #: of `harp run`
    noop: bool = True  #: on the driver whose calls cost nothing
    threads: int = 1
    call: str = "launch"
    batch: int = _NOOP_BATCH
    pause_us: int = 0
    default_rounds: int = LEAST_LAUNCHES // _NOOP_BATCH + 1


_DEVICE = tuple(
    _Variant(name, noop=False, call=call, batch=_DEVICE_BATCH, default_rounds=_DEVICE_ROUNDS)
    for name, call in (("device", "launch"), ("device_graph", "graph"), ("device_copy", "copy"))
)
_NOOPS = (
    _Variant("no_limit", run_options=()),
    _Variant("limited_alone"),
    _Variant(
        "limited_8_threads", threads=8, default_rounds=LEAST_LAUNCHES // (8 * _NOOP_BATCH) + 1
    ),
)
_PACED = tuple(
    dataclasses.replace(
        variant,
        name=f"paced_{variant.name}",
        batch=_BURST,
        pause_us=_PAUSE_US,
        default_rounds=_BURSTS // variant.threads,
    )
    for variant in _NOOPS
)
_CALLS = (_Variant("noop_graph", call="graph"), _Variant("noop_copy", call="copy"))


def overhead(
    env: Mapping[str, str], *, rounds: int | None, progress: Callable[[str], None]
) -> dict[str, object]:
    """Measure; a daemon must run.

    Args:
        env: the environment to measure in.
        rounds: pairs of batches, bare and HARP, per variant, at least 1; None: as many as make ten
            million launches on each side where the driver does nothing.
        progress: called with a line per variant.

    Returns:
        `device`, `software`; of a launch on the device in ns `launch_ns_bare`, `launch_ns_harp`,
        `added_ns` (median of the pairs' differences), `ratio`, and `end_to_end_ratio` (until the
        device had done the batch); `noop_added_ns` {`no_limit`, `limited_alone`,
        `limited_8_threads`}, `paced_added_ns` (the same in bursts out of idleness),
        `calls_added_ns` {`device_graph`, `device_copy`, `noop_graph`, `noop_copy`}; `n` (calls
        timed on each side, in all), `n_of` {variant}, `spread` {variant: [10th, 90th percentile
        of the difference]}; `targets`, met or missed.

    Raises:
        HarpError: something did not run.
    """
    native = find(env)
    with Client.connect(env) as client:
        devices = list(client.state().devices)
        info = client.info()
    if not devices:
        raise NoDevice("no device to measure on")
    taken: dict[str, dict[str, float]] = {}
    for variant in (*_DEVICE, *_NOOPS, *_PACED, *_CALLS):
        result = taken[variant.name] = _run(
            variant, native, env, devices[0].uuid, info, rounds=rounds or variant.default_rounds
        )
        progress(
            f"{variant.name}: bare {result['bare_ns']:.1f} ns, HARP {result['harp_ns']:.1f} ns,"
            f" added {result['added_ns']:.1f} ns"
        )
    device = taken["device"]
    software = info.kind == pb.DEVICE_KIND_SOFTWARE
    added = {name: result["added_ns"] for name, result in taken.items()}
    counts = {n: int(r["rounds"] * r["batch"] * r["threads"]) for n, r in taken.items()}
    found = [
        Target("noop_added_ns", name, added[name], limit, added[name] <= limit)
        for name, limit in NOOP_LIMITS_NS.items()
    ]
    return {
        "bench": "overhead",
        "label": LABEL if software else "",
        "device": devices[0].name,
        "software": software,
        "launch_ns_bare": device["bare_ns"],
        "launch_ns_harp": device["harp_ns"],
        "added_ns": device["added_ns"],
        "ratio": device["harp_ns"] / device["bare_ns"],
        "end_to_end_ratio": device["harp_done_ns"] / device["bare_done_ns"],
        "noop_added_ns": {v.name: added[v.name] for v in _NOOPS},
        "paced_added_ns": {v.name.removeprefix("paced_"): added[v.name] for v in _PACED},
        "calls_added_ns": {v.name: added[v.name] for v in (*_DEVICE[1:], *_CALLS)},
        "n": sum(counts.values()),
        "n_of": counts,
        "spread": {n: [r["added_p10_ns"], r["added_p90_ns"]] for n, r in taken.items()},
        "targets": as_json(found),
    }


def _run(
    variant: _Variant,
    native: NativeDir,
    env: Mapping[str, str],
    uuid: str,
    info: pb.GetInfoReply,
    *,
    rounds: int,
) -> dict[str, float]:
    program, null = native.file("harp-bench-launch"), native.file("harp-bench-null.so")
    driver = null if variant.noop else Path(info.cuda_path)
    command = [sys.executable, "-m", "harp", "run", *variant.run_options, "--"]
    # The program loads both libraries by itself: preloaded, ours would answer for the driver too.
    command += ["env", "-u", "LD_PRELOAD", "-u", "LD_LIBRARY_PATH", f"HARP_CUDA_REAL={driver}"]
    command += [str(program), str(driver), str(native.libharp)]
    command += [
        "--rounds",
        str(rounds),
        "--batch",
        str(variant.batch),
        "--threads",
        str(variant.threads),
    ]
    command += ["--call", variant.call]
    if variant.pause_us:
        command += ["--pause-us", str(variant.pause_us)]
    if not variant.noop:
        command += ["--kernel"]
    done = subprocess.run(
        command,
        env={**scrub(env), "HARP_BENCH_UUID": uuid_bytes(uuid).hex()},
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise HarpError(
            f"the {variant.name} run ended with {done.returncode}: {done.stderr.strip()[-200:]}",
            "see `harp doctor`",
        )
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    limited = result["memory_bytes"] == _LIMIT_BYTES
    if limited != bool(variant.run_options):
        raise HarpError(
            f"the {variant.name} run saw {result['memory_bytes']} bytes of memory: its limits are"
            f" {'' if limited else 'not '}in force, so its figures are of something else",
            "see `harp doctor`",
        )
    return result
