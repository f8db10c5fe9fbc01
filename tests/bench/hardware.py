# SPDX-License-Identifier: Apache-2.0
"""README.md's section `hardware`: what the results of tests/gpu show, and what is left to show."""

from __future__ import annotations

import sys
from typing import Any

#: what only a real GPU can show, and the tests of tests/gpu that show it; none: no test yet
CLAIMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "injection: a program under the real driver gives the output it gives without HARP",
        ("test_output_is_the_same_bare_shimmed_and_limited",),
    ),
    (
        "names: every allocating or launching symbol the driver exports is known",
        ("test_driver_exports_no_allocating_or_launching_name_without_a_row",),
    ),
    (
        "libcudart's private export tables are passed through untouched",
        ("test_private_export_table_is_passed_through",),
    ),
    (
        "memory: the limit is what cuMemGetInfo and NVML show, and is kept to the granule",
        ("test_limit_is_shown_and_kept",),
    ),
    (
        "the time gate, driven by real events, divides time 30/70",
        ("test_30_beside_70", "test_the_check_fails_without_the_gate"),
    ),
    ("what a launch costs more", ("test_bench_overhead_runs",)),
    ("what a context costs, as NVML tells it", ("test_context_overhead_by_nvml",)),
    ("how long the driver's own time slices are", ("test_slices_of_two_unlimited_processes",)),
    (
        "memory after SIGKILL: the next tenant gets it",
        ("test_memory_of_a_killed_program_comes_back",),
    ),
    (
        "programs that use libcudart (PyTorch, CuPy, `nvcc` builds): same results, own limit",
        (
            "test_torch_trains_the_same",
            "test_torch_and_cupy_see_and_meet_the_limit",
            "test_torch_replays_its_graphs",
            "test_what_nvcc_builds",
        ),
    ),
    (
        "a suspended tenant frees the device's memory and goes on with the same bytes",
        ("test_a_suspended_tenant_frees_the_device_and_goes_on",),
    ),
    ("tenants that do not fit together take turns (`--oversubscribe`)", ("test_more_than_fits",)),
    ("pools keep to the limit", ("test_pools_keep_to_the_limit",)),
    (
        "harpd and the arbiter are upgraded under a running program",
        ("test_an_upgrade_under_a_running_program",),
    ),
    ("two trainings of PyTorch, 30 beside 70", ("test_two_trainings_30_beside_70",)),
    ("the software GPU answers as the driver does (`tests/contract`)", ("test_case",)),
    ("the watchdog's comparison of NVML's process list with the sessions", ()),
    ("several GPUs in one machine, MIG, MPS, drivers other than those named here", ()),
)


def text(results: list[dict[str, Any]]) -> str:
    """What ran on a real GPU, and what is left to show."""
    if any("software" in str(r["device"]).lower() for r in results):
        sys.exit("tests/gpu/results holds a result of the software GPU")
    proven = {claim: _shown_on(tests, results) for claim, tests in CLAIMS}
    lines = []
    if not results:
        lines += [
            "- **No part of this release has run on a real GPU yet.** Everything is developed and",
            "  tested on the *software GPU* in `native/soft`: a `libcuda.so.1` and",
            "  `libnvidia-ml.so.1` of our own that run PTX kernels on the CPU and keep time like a",
            "  device. Every surface labels it `software`; no figure measured on it is a GPU",
            "  result. `tests/gpu` waits for a machine with one. Until then unproven:",
        ]
    else:
        lines += [
            "- **What ran on a real GPU** is listed here (`tests/gpu`). All else ran only on the",
            "  *software GPU* in `native/soft`: a `libcuda.so.1` and `libnvidia-ml.so.1` of ours",
            "  that run PTX kernels on the CPU and keep time like a device. Every surface labels",
            "  it `software`; no figure measured on it is a GPU result.",
        ]
        for r in results:
            counts = ", ".join(
                f"{_outcomes(r).count(outcome)} {outcome}" for outcome in sorted(set(_outcomes(r)))
            )
            about = f"{r['device']}, driver {r['driver']}, CUDA {r['cuda']}, {r['date']}"
            lines.append(_fold(f"  - {about}: {counts}"))
        lines += [
            _fold(f"  - {claim}: shown on {', '.join(on)}") for claim, on in proven.items() if on
        ]
        lines += [_fold(f"  - {line}") for line in _figures(results)]
        lines.append("- **Not shown on a real GPU:**")
    lines += [_fold(f"  - {claim};") for claim, on in proven.items() if not on]
    return "\n".join(lines).removesuffix(";") + ".\n"


def _outcomes(result: dict[str, Any]) -> list[str]:
    return [str(test["outcome"]) for test in result["tests"].values()]


def _figures(results: list[dict[str, Any]]) -> list[str]:
    """What was measured on hardware, each device's last."""
    found: dict[str, dict[str, Any]] = {}
    for result in results:
        kept = found.setdefault(str(result["device"]), {})
        for name, test in result["tests"].items():
            if test["outcome"] == "passed" and test.get("recorded"):
                kept[name.split("::")[-1]] = test["recorded"]
    lines = []
    for device, kept in sorted(found.items()):
        parts = []
        if share := kept.get("test_30_beside_70", {}).get("share"):
            got = " / ".join(f"{100 * ratio:.1f}" for ratio in share["achieved"])
            parts.append(
                f"asked 30 / 70, got {got} %, device busy {100 * share['busy_ratio']:.1f} %"
            )
        if steps := kept.get("test_two_trainings_30_beside_70", {}).get("steps_per_s"):
            gated, free = steps["gated"], sum(steps["gate_off"])
            parts.append(
                f"two PyTorch trainings at 30 / 70 got {100 * gated[0] / sum(gated):.1f} % and"
                f" {100 * gated[1] / sum(gated):.1f} % of the steps, together"
                f" {sum(gated) / free:.2f} of what they do ungated"
            )
        if launch := kept.get("test_bench_overhead_runs", {}).get("overhead"):
            low, high = launch["spread"]["device"]
            parts.append(
                f"a launch of {launch['launch_ns_bare'] / 1000:.1f} us costs"
                f" {launch['added_ns']:.0f} ns more (runs: {low:.0f} to {high:.0f})"
            )
        if added := kept.get("test_context_overhead_by_nvml", {}).get(
            "added_bytes_first_and_second_context"
        ):
            parts.append(f"a process's context takes {added[0][0] / 2**20:.0f} MiB")
        if slices := kept.get("test_slices_of_two_unlimited_processes"):
            had = slices["process_0_had_us"]["median"] / 1000
            parts.append(f"the driver's own slices are {had:.2f} ms")
        if parts:
            lines.append(f"measured on {device}: " + "; ".join(parts))
    return lines


def _shown_on(tests: tuple[str, ...], results: list[dict[str, Any]]) -> list[str]:
    """Devices on which each of these tests passed the last time it ran there."""
    last: dict[str, dict[str, str]] = {}
    for result in results:
        seen = last.setdefault(str(result["device"]), {})
        seen |= {name.split("::")[-1]: t["outcome"] for name, t in result["tests"].items()}
    return [
        device
        for device, seen in sorted(last.items())
        if tests and all(seen.get(test) == "passed" for test in tests)
    ]


def _fold(line: str, width: int = 98) -> str:
    """A list item over several lines."""
    lines = [""]
    for word in line.strip().split(" "):
        if len(lines[-1]) + 1 + len(word) > width - 4:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return "  " + "\n    ".join(lines)
