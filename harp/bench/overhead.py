# SPDX-License-Identifier: Apache-2.0
"""What a launch costs more under HARP.

native/bench/launch.c has the driver and libharp in one process and launches through either in
turn, batch by batch, so both sides meet the same caches, clocks and neighbours. It runs under
`harp run`, on the device that is there and on a driver whose calls cost nothing, where the
difference is HARP's alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harp.api.v1 import control_pb2 as pb
from harp.client import Client
from harp.errors import BuildMissing, HarpError, NoDevice
from harp.model import uuid_bytes
from harp.native import NativeDir, find, scrub

__all__ = ["overhead"]

_TIMEOUT_S = 120.0
#: launches in one timed batch: a device queues 1024, a driver that does nothing any number
_DEVICE_BATCH, _NOOP_BATCH = 200, 20_000
_LIMITS = ("--mem", "64MiB", "--share", "50%")


@dataclass(frozen=True, slots=True)
class _Variant:
    """One way to run the launching program."""

    name: str
    noop: bool
    run_options: tuple[str, ...]  #: of `harp run`
    threads: int = 1


_DEVICE = _Variant("device", noop=False, run_options=_LIMITS)
_NOOPS = (
    _Variant("no_limit", noop=True, run_options=()),
    _Variant("limited_alone", noop=True, run_options=_LIMITS),
    _Variant("limited_8_threads", noop=True, run_options=_LIMITS, threads=8),
)


def overhead(
    env: Mapping[str, str], *, rounds: int, progress: Callable[[str], None]
) -> dict[str, object]:
    """Measure; a daemon must run.

    Args:
        env: the environment to measure in.
        rounds: pairs of batches, bare and HARP, per variant, at least 1.
        progress: called with a line per variant.

    Returns:
        `device`, `software`; of a launch on the device in ns `launch_ns_bare`, `launch_ns_harp`,
        `added_ns` (median of the pairs' differences), `ratio`; `noop_added_ns` {`no_limit`,
        `limited_alone`, `limited_8_threads`}; `n` (launches timed on each side), `spread`
        {variant: [10th, 90th percentile of the difference]}.

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
    for variant in (_DEVICE, *_NOOPS):
        result = taken[variant.name] = _run(
            variant, native, env, devices[0].uuid, info, rounds=rounds
        )
        progress(
            f"{variant.name}: bare {result['bare_ns']:.1f} ns, HARP {result['harp_ns']:.1f} ns,"
            f" added {result['added_ns']:.1f} ns"
        )
    device = taken[_DEVICE.name]
    return {
        "device": devices[0].name,
        "software": info.kind == pb.DEVICE_KIND_SOFTWARE,
        "launch_ns_bare": device["bare_ns"],
        "launch_ns_harp": device["harp_ns"],
        "added_ns": device["added_ns"],
        "ratio": device["harp_ns"] / device["bare_ns"],
        "noop_added_ns": {v.name: taken[v.name]["added_ns"] for v in _NOOPS},
        "n": sum(int(r["rounds"] * r["batch"] * r["threads"]) for r in taken.values()),
        "spread": {n: [r["added_p10_ns"], r["added_p90_ns"]] for n, r in taken.items()},
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
    program, null = native.optional("harp-bench-launch"), native.optional("harp-bench-null.so")
    if program is None or null is None:
        raise BuildMissing(
            f"{native.path} has no harp-bench-launch and harp-bench-null.so",
            "build native/bench as well",
        )
    driver = null if variant.noop else Path(info.cuda_path)
    batch = _NOOP_BATCH if variant.noop else _DEVICE_BATCH
    command = [sys.executable, "-m", "harp", "run", *variant.run_options, "--"]
    # The program loads both libraries by itself: preloaded, ours would answer for the driver too.
    command += ["env", "-u", "LD_PRELOAD", "-u", "LD_LIBRARY_PATH", f"HARP_CUDA_REAL={driver}"]
    command += [str(program), str(driver), str(native.libharp)]
    command += ["--rounds", str(rounds), "--batch", str(batch), "--threads", str(variant.threads)]
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
    return result
