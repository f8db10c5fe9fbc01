# SPDX-License-Identifier: Apache-2.0
"""The figures in README.md: taken, kept as JSON files, written between markers.

    python tests/bench/readme.py            writes both sections from the JSON files
    python tests/bench/readme.py --check    fails if README.md differs from what they say
    python tests/bench/readme.py --run      runs the benches first (some 20 minutes)
    python tests/bench/readme.py --run --everything   with the whole matrix (some 50)

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
import textwrap
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harp.bench.machine import machine as private_machine

ROOT = Path(__file__).resolve().parents[2]
HARDWARE, BENCH = ROOT / "tests/gpu/results", ROOT / "tests/bench/results"
LABEL = "software GPU: not a GPU result"
RUNS, SHARE_SECONDS, LATENCY_SECONDS = 3, 5, 10
SLICE_US, SWITCH_US = 2000, 20  #: of the cells that a plain --run takes

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
        lines += [_fold(f"  - {line}") for line in _figures(results)]
        lines.append("- **Not shown on a real GPU:**")
    lines += [_fold(f"  - {claim};") for claim, on in proven.items() if not on]
    return Section("hardware", "\n".join(lines).removesuffix(";") + ".\n")


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


def bench(results: list[dict[str, Any]]) -> Section:
    """Tables of the software GPU's figures."""
    by_name = {str(r["bench"]): r for r in results}
    lines = [f"Label of every figure here: **{LABEL}**.", ""]
    lines += [f"Machine: {m}." for m in sorted({str(r["machine"]) for r in results})] + [""]
    lines += _shares(by_name["share"])
    lines += _latency(by_name["latency"])
    lines += _overhead(by_name["overhead"])
    if "memory" in by_name:
        lines += ["", *_memory(by_name["memory"])]
    if "oversub" in by_name:
        lines += ["", *_oversub(by_name["oversub"])]
    if "crash" in by_name:
        lines += _crash(by_name["crash"])
    return Section("bench", "\n".join(lines) + "\n")


def _taken(r: dict[str, Any]) -> str:
    load = f", load of the machine then {r['result']['load_1min']:.1f}" if "result" in r else ""
    return f"`{r['command']}`, {r['date']}{load}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 98, break_on_hyphens=False, break_long_words=False)


def _shares(r: dict[str, Any]) -> list[str]:
    found = r["result"]
    lines = [
        *_wrapped(
            f"Shares: {_taken(r)}. Names say what runs, shares asked for, kernel, the driver's time"
            " slice, its switch. Got: by the engine's own ledger; HARP's charge and the clients'"
            " own count are off that by so many points; errors are of 1 s windows; busy is against"
            " the same programs without HARP."
            f" Medians; runs of each: {found['repeat']}, of {found['seconds']:g} s."
        ),
        "",
        "| cell | got, % | charge off | count off | error, mean | 95th percentile | busy |",
        "|---|---|---|---|---|---|---|",
    ]
    wrong = {one["cell"] for one in found["violations"]}
    for case in found["cases"]:
        got = sorted({f"{part * 100:.1f}": None for part in case["achieved"]}, key=float)
        if len(case["achieved"]) <= 4:
            got = [f"{part * 100:.1f}" for part in case["achieved"]]
        elif len(got) > 1:
            got = [f"{got[0]} to {got[-1]}"]
        figures = (
            *(case[name] for name in ("meter_error_pp", "client_error_pp")),
            *(case[name] for name in ("mean_error_pp", "p95_error_pp")),
        )
        row = [f"{case['name']}{' **wrong**' if case['name'] in wrong else ''}", " / ".join(got)]
        row += ["-" if value is None else f"{value:.2f}" for value in figures]
        row += [f"{case['aggregate_ratio']:.3f}"]
        lines.append(f"| {' | '.join(row)} |")
    lines += [""]
    for control in found["controls"]:
        got = " / ".join(f"{part * 100:.1f}" for part in control["achieved"])
        verdict = "refused, as it must be" if control["fails"] else "**not refused**"
        lines.append(f"Control {control['kind']} of {control['name']}: {got} %, {verdict}.")
    lines += [f"Not run: {reason}." for reason in found["not_run"]]
    missed = [one for one in found["targets"] if not one["met"]]
    lines += [f"Of {len(found['targets'])} stricter figures {len(missed)} are missed:"]
    lines += [
        f"- {one['cell']}: {one['figure']} {one['value']:.3f}, held to {one['limit']:g}"
        for one in missed
    ]
    return [*lines, ""]


def _latency(r: dict[str, Any]) -> list[str]:
    found = r["result"]
    lines = [
        *_wrapped(
            f"Latency: {_taken(r)}. Requests of 10 ms, Poisson, 30 % of the device, in class"
            " latency; beside them a saturating program in class best-effort, whose part of what"
            " requests leave is the last column. In brackets what both are held to."
            f" Medians; runs of each: {found['repeat']}, of {found['seconds']:g} s."
            + "".join(
                f" **Not to be believed: {one['cell']}: {one['figure']} {one['value']:.2f}, limit"
                f" {one['limit']:g}: the host was busy.**"
                for one in found["violations"]
            )
        ),
        "",
        "| neighbour | p99 alone, ms | native | HARP | inflation (1.15) | of the rest (0.60) |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["cells"]:
        figures = [f"{row[name]:.1f}" for name in ("p99_solo_ms", "p99_native_ms", "p99_harp_ms")]
        figures += [f"{row[name]:.2f}" for name in ("inflation", "best_effort_ratio")]
        figures.insert(0, f"{row['kernel_us']} µs kernels")
        lines.append(f"| {' | '.join(figures)} |")
    return [*lines, ""]


def _crash(r: dict[str, Any]) -> list[str]:
    found = r["result"]
    limits = {target["figure"]: target["limit"] for target in found["targets"]}
    figures = {
        name: f"{found[name]:.1f} ms ({limits[name]:g})"
        for name in ("detect_ms_p99", "regrant_ms_p99", "longest_stall_ms")
    }
    return [
        "",
        *_wrapped(
            f"Crashes and upgrades: {_taken(r)}. Of {found['deaths']} killed tenants the death was"
            f" told within {figures['detect_ms_p99']}, and the memory given on within"
            f" {figures['regrant_ms_p99']} after the device had it back (p99);"
            f" {found['neighbour_oom']} neighbours were refused. harpd and the arbiter were"
            f" replaced {found['upgrades']} times under {found['calls']} calls:"
            f" {found['failed_calls']} failed, the longest took {figures['longest_stall_ms']}."
            " In brackets what they are held to."
        ),
    ]


def _overhead(r: dict[str, Any]) -> list[str]:
    runs = r["runs"]
    bare = statistics.median(run["launch_ns_bare"] for run in runs)
    done = statistics.median(run["end_to_end_ratio"] for run in runs)
    lines = [
        *_wrapped(
            f"Added to one call; {_taken(r)}. Median of the runs' medians, and the runs' widest"
            f" 10th to 90th percentile. Until the device had done the launches: {done:.3f} of bare."
        ),
        "",
        "| call | added, ns | 10th to 90th percentile, ns | calls a run | n runs |",
        "|---|---|---|---|---|",
    ]
    rows = [(f"launch on the device ({bare:.0f} ns bare)", "device", [x["added_ns"] for x in runs])]
    for group, prefix, text in (
        ("noop_added_ns", "", "launch on a driver that does nothing, {}"),
        ("paced_added_ns", "paced_", "the same in bursts of 200 out of idleness, {}"),
        ("calls_added_ns", "", "{}"),
    ):
        rows += [
            (
                text.format(name.replace("_", " ")),
                prefix + name,
                [run[group][name] for run in runs],
            )
            for name in runs[0][group]
        ]
    for text, name, taken in rows:
        low = min(run["spread"][name][0] for run in runs)
        high = max(run["spread"][name][1] for run in runs)
        cells = [text, f"{statistics.median(taken):.1f}", f"{low:.1f} to {high:.1f}"]
        cells += [f"{runs[0]['n_of'][name]:.0e}".replace("e+0", "e"), str(len(runs))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _memory(r: dict[str, Any]) -> list[str]:
    found = r["result"]
    lines = _wrapped(
        f"Memory: {_taken(r)}. Added to alloc and free of 1 MiB, and to a process's way from main()"
        " to its first allocation; differences of the medians and of the 99th percentiles. Of 256"
        " processes so many are on their way at a time as there are cores, and all stay; together:"
        " all at a time, so that the cores are what they wait for."
    )
    lines += ["", "| what | bare, median | added, median | added, 99th percentile | n |"]
    lines += ["|---|---|---|---|---|"]
    for calls in found["calls"]:
        figures = [f"{calls[name]:.2f} µs" for name in ("bare_us_p50", "added_us_p50")]
        figures += [f"{calls['added_us_p99']:.2f} µs", f"{calls['rounds']}"]
        lines.append(f"| alloc and free beside {calls['live']} | {' | '.join(figures)} |")
    for start in found["starts"]:
        n, at_once = start["processes"], start["at_once"]
        name = "a process alone" if n == 1 else f"{n} processes together"
        if at_once < n:
            name = f"{n} processes, {at_once} at a time"
        figures = [f"{start['bare_ms_p50_p90_p99'][0]:.2f} ms", f"{start['added_ms_p50']:.2f} ms"]
        figures += [f"{start['added_ms_p99']:.2f} ms", f"{start['n']}"]
        lines.append(f"| {name} (wall {start['wall_ratio']:.2f} of bare) | {' | '.join(figures)} |")
    lines += [""]
    races = [
        f"{race['processes']} processes: {race['over_limit_bytes']} bytes over in {race['samples']}"
        f" samples ({race['hz']:.0f} a second), {race['denied']} denials"
        for race in found["races"]
    ]
    control = found["control"]
    lines += _wrapped(
        f"Races for a limit of {found['races'][0]['limit_bytes'] >> 20} MiB, by the engine's own"
        f" ledger: {'; '.join(races)}. Without HARP, {control['processes']} processes:"
        f" {control['over_limit_bytes'] >> 20} MiB over, refused, as it must be."
        if found["can_tell"]
        else "Races for a limit: **the control was not refused**, so they say nothing."
    )
    missed = [one for one in found["targets"] if not one["met"]]
    lines += [f"Of {len(found['targets'])} figures held to a limit {len(missed)} are missed:"]
    return lines + [
        f"- {one['cell']}: {one['figure']} {one['value']:.3f}, held to {one['limit']:g}"
        for one in missed
    ]


def _oversub(r: dict[str, Any]) -> list[str]:
    found = r["result"]
    lines = _wrapped(
        f"Oversubscription: {_taken(r)}. Two jobs of 80 % of the device each, together against one"
        " after the other; bursty: half of the time is the host's. Bound: the most that any"
        " schedule could reach. Waits are beyond what the same took alone."
    )
    lines += ["", "| pair | gain | bound | swapping | longest wait | host late |"]
    lines += ["|---|---|---|---|---|---|"]
    wrong = {one["cell"] for one in found["violations"]}
    for pair in found["pairs"]:
        name = f"{pair['name']}{' **not to be believed**' if pair['name'] in wrong else ''}"
        figures = [f"{pair['speedup_vs_sequential']:.2f}", f"{pair['bound']:.2f}"]
        figures += [f"{pair['swap_ratio']:.1%}", f"{pair['longest_wait_s']:.1f} s"]
        figures += [f"{pair['overrun_ratio']:.1%}"]
        lines.append(f"| {name} | {' | '.join(figures)} |")
    said = "refused, as they must be" if found["can_tell"] else "**not refused**"
    missed = [one for one in found["targets"] if not one["met"]]
    lines += ["", f"Controls, without HARP and with a word changed: {said}."]
    lines += [f"Of {len(found['targets'])} figures held to a limit {len(missed)} are missed:"]
    return lines + [
        f"- {one['cell']}: {one['figure']} {one['value']:.3f}, held to {one['limit']:g}"
        for one in missed
    ]


def machine() -> str:
    """Cores, model and kernel; nothing that names this machine."""
    cpu = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^(?:model name|Processor)\s*:\s*(.+)$", cpu, re.MULTILINE)
    kernel = ".".join(platform.release().split("-")[0].split(".")[:2])
    name = model[1] if model else platform.machine()
    return f"{os.cpu_count()} cores of {name}, Linux {kernel}"


def run(*, everything: bool, repeat: int) -> None:
    """Takes the figures; the matrix of all slices and switches only if `everything`."""
    about = {"machine": machine(), "label": LABEL, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    share = ["bench", "share", "--seconds", str(SHARE_SECONDS), "--repeat", str(repeat)]
    if not everything:
        share += ["--cell", f"*.{SLICE_US}us.{SWITCH_US}us"]
    latency = ["bench", "latency", "--seconds", str(LATENCY_SECONDS), "--repeat", str(repeat)]
    memory, crash, oversub = (["bench", name] for name in ("memory", "crash", "oversub"))
    for name, arguments in (
        ("share", share),
        ("latency", latency),
        ("memory", memory),
        ("crash", crash),
        ("oversub", oversub),
    ):
        _keep(
            name,
            {"bench": name, **about, "command": _shown(arguments)}
            | {"result": _last_json(arguments)},
        )
    with private_machine(os.environ, harp=True) as box:
        costs = [_last_json(["bench", "overhead"], dict(box.env)) for _ in range(repeat)]
    _keep(
        "overhead",
        {"bench": "overhead", **about, "command": _shown(["bench", "overhead"]), "runs": costs},
    )


def _shown(arguments: list[str]) -> str:
    return " ".join(["harp", *(f"'{a}'" if "*" in a else a for a in arguments), "--json"])


def _last_json(arguments: list[str], env: dict[str, str] | None = None) -> dict[str, Any]:
    """What it printed. Status 1 means figures that are not good: they are shown all the same."""
    done = subprocess.run(
        [sys.executable, "-m", "harp", *arguments, "--json"],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    found: dict[str, Any] = json.loads((done.stdout.splitlines() or ["{}"])[-1])
    if done.returncode not in {0, 1} or "error" in found or not found:
        sys.exit(f"{_shown(arguments)} failed: {found.get('error', done.returncode)}")
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
    parser.add_argument("--everything", action="store_true", help="the whole matrix of shares")
    parser.add_argument("--repeat", type=int, default=RUNS, help="runs of everything")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    args = parser.parse_args()
    if args.run:
        run(everything=args.everything, repeat=args.repeat)
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
