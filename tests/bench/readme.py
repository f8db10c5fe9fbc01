# SPDX-License-Identifier: Apache-2.0
"""The figures in README.md: taken, kept as JSON files, written between markers.

    python tests/bench/readme.py            writes both sections from the JSON files
    python tests/bench/readme.py --check    fails if README.md differs from what they say
    python tests/bench/readme.py --run      runs the benches first (some 2 minutes)

`hardware` comes from tests/gpu/results, `bench` from tests/bench/results. No figure is typed by
hand, and none of the software GPU appears without its label.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HARDWARE, BENCH = ROOT / "tests/gpu/results", ROOT / "tests/bench/results"
LABEL = "software GPU: not a GPU result"
KERNELS_US = (50, 200, 1000)
SHARE_RUNS, SHARE_SECONDS, OVERHEAD_RUNS = 3, 5, 3

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
        "the watchdog's comparison of NVML's process list with the sessions; memory after SIGKILL",
        (),
    ),
    ("programs that use libcudart (PyTorch, CuPy, `nvcc` builds)", ()),
    ("graphs, several GPUs in one machine, MIG, MPS, drivers other than those named here", ()),
)


@dataclass(frozen=True)
class Section:
    """One generated part of README.md."""

    name: str
    text: str

    def put(self, readme: str) -> str:
        """README.md with this part replaced."""
        pattern = re.compile(rf"<!-- generated: {self.name} -->\n.*?<!-- end -->", re.DOTALL)
        if len(pattern.findall(readme)) != 1:
            sys.exit(f"README.md needs `<!-- generated: {self.name} -->` ... `<!-- end -->` once")
        block = f"<!-- generated: {self.name} -->\n{self.text}<!-- end -->"
        return pattern.sub(lambda _: block, readme)


def load(folder: Path) -> list[dict[str, Any]]:
    """The results of a folder by file name: runs on hardware in the order of their dates."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def hardware(results: list[dict[str, Any]]) -> Section:
    """What ran on a real GPU, and what is left to show."""
    if any("software" in str(r["device"]).lower() for r in results):
        sys.exit(f"{HARDWARE.relative_to(ROOT)} holds a result of the software GPU")
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
        lines.append("- **Not shown on a real GPU:**")
    lines += [_fold(f"  - {claim};") for claim, on in proven.items() if not on]
    return Section("hardware", "\n".join(lines).removesuffix(";") + ".\n")


def _outcomes(result: dict[str, Any]) -> list[str]:
    return [str(test["outcome"]) for test in result["tests"].values()]


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


def bench(results: list[dict[str, Any]]) -> Section:
    """Tables of the software GPU's figures."""
    shares = [r for r in results if r["bench"] == "share"]
    costs = [r for r in results if r["bench"] == "overhead"]
    lines = [f"Label of every figure here: **{LABEL}**.", ""]
    lines += [f"Machine: {m}." for m in sorted({str(r["machine"]) for r in results})] + [""]
    lines += [
        "Two saturating programs asked for 30 % and 70 %:",
        f"`{_commands(shares)}`,",
        "with `--no-gate` for off. What each got is the engine's own ledger over the window.",
        "",
        "| kernels | gate | got (median) | off by, points: median (min to max) | busy | n |",
        "|---|---|---|---|---|---|",
    ]
    for r in sorted(shares, key=lambda r: (not r["gate"], r["kernel_us"])):
        off = [run["off"] * 100 for run in r["runs"]]
        got = [statistics.median(run["achieved"][i] for run in r["runs"]) * 100 for i in (0, 1)]
        spread = f"{statistics.median(off):.2f} ({min(off):.2f} to {max(off):.2f})"
        busy = statistics.median(run["engine_busy_ratio"] for run in r["runs"]) * 100
        cells = [f"{r['kernel_us']} µs", "on" if r["gate"] else "off"]
        cells += [f"{got[0]:.1f} / {got[1]:.1f} %", spread, f"{busy:.0f} %", str(len(off))]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        f"Added to one kernel launch; `{_commands(costs)}`. Median of the runs' medians, and the",
        "runs' widest 10th to 90th percentile:",
        "",
        "| launch | added, ns | 10th to 90th percentile, ns | n runs |",
        "|---|---|---|---|",
    ]
    for r in costs:
        runs = r["runs"]
        bare = statistics.median(run["launch_ns_bare"] for run in runs)
        rows = [(f"on the device ({bare:.0f} ns bare)", "device", [x["added_ns"] for x in runs])]
        rows += [
            (f"on a driver that does nothing, {name.replace('_', ' ')}", name, taken)
            for name in runs[0]["noop_added_ns"]
            if (taken := [run["noop_added_ns"][name] for run in runs])
        ]
        for text, name, taken in rows:
            low = min(run["spread"][name][0] for run in runs)
            high = max(run["spread"][name][1] for run in runs)
            cells = [text, f"{statistics.median(taken):.1f}", f"{low:.1f} to {high:.1f}"]
            lines.append(f"| {' | '.join([*cells, str(len(runs))])} |")
    return Section("bench", "\n".join(lines) + "\n")


def _commands(results: list[dict[str, Any]]) -> str:
    """The command all of these have in common."""
    commands = {str(r["command"]) for r in results}
    return commands.pop() if len(commands) == 1 else re.sub(r"us \d+", "us N", commands.pop())


def machine() -> str:
    """Cores, model and kernel; nothing that names this machine."""
    cpu = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^(?:model name|Processor)\s*:\s*(.+)$", cpu, re.MULTILINE)
    kernel = ".".join(platform.release().split("-")[0].split(".")[:2])
    name = model[1] if model else platform.machine()
    return f"{os.cpu_count()} cores of {name}, Linux {kernel}"


def run() -> None:
    """Takes the figures: every kernel length with and without the gate in turn, then the cost."""
    about = {"machine": machine(), "label": LABEL, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    for kernel_us in KERNELS_US:
        runs: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        shared = ["tests/bench/share.py", "--shares", "30,70", "--seconds", str(SHARE_SECONDS)]
        shared += ["--kernel-us", str(kernel_us)]
        for _ in range(SHARE_RUNS):
            for gate in (True, False):
                runs[gate].append(_last_json([*shared, *([] if gate else ["--no-gate"])]))
        for gate, taken in runs.items():
            _keep(
                f"share-{kernel_us}us-gate-{'on' if gate else 'off'}",
                {"bench": "share", **about, "command": "python " + " ".join(shared)}
                | {"kernel_us": kernel_us, "gate": gate, "runs": taken},
            )
    sys.path.insert(0, str(Path(__file__).parent))
    from share import machine as private_machine

    with private_machine(gate=True) as env:
        costs = [
            _last_json(["-m", "harp", "bench", "overhead", "--json"], env)
            for _ in range(OVERHEAD_RUNS)
        ]
    _keep(
        "overhead",
        {"bench": "overhead", **about, "command": "harp bench overhead --json", "runs": costs},
    )


def _last_json(arguments: list[str], env: dict[str, str] | None = None) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=True,
    )
    line = done.stdout.splitlines()[-1]
    print(" ".join(arguments), line, flush=True)
    found: dict[str, Any] = json.loads(line)
    if found.get("software") is not True:
        sys.exit("these benches are for the software GPU; tests/gpu is for real ones")
    return found


def _keep(name: str, result: dict[str, Any]) -> None:
    BENCH.mkdir(exist_ok=True)
    (BENCH / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def render(readme: str, gpu_results: list[dict[str, Any]], results: list[dict[str, Any]]) -> str:
    """README.md with both sections as the results say."""
    for section in (hardware(gpu_results), bench(results)):
        readme = section.put(readme)
    return readme


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if stale")
    parser.add_argument("--run", action="store_true", help="run the benches first")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    args = parser.parse_args()
    if args.run:
        run()
    now = args.readme.read_text()
    want = render(now, load(HARDWARE), load(BENCH))
    if args.check:
        if now != want:
            print("README.md is stale; remedy: python tests/bench/readme.py", file=sys.stderr)
        return int(now != want)
    args.readme.write_text(want)
    return 0


if __name__ == "__main__":
    sys.exit(main())
