# SPDX-License-Identifier: Apache-2.0
"""README.md's section `bench`: tables of the software GPU's figures."""

from __future__ import annotations

import statistics
import textwrap
from typing import Any

LABEL = "software GPU: not a GPU result"


def text(results: list[dict[str, Any]]) -> str:
    """Tables of the software GPU's figures."""
    by_name = {str(r["bench"]): r for r in results}
    lines = [f"Label of every figure here: **{LABEL}**.", ""]
    lines += [f"Machine: {m}." for m in sorted({str(r["machine"]) for r in results})] + [""]
    lines += _shares(by_name["share"])
    lines += _latency(by_name["latency"])
    lines += _overhead(by_name["overhead"])
    if "memory" in by_name:
        lines += ["", *memory(by_name["memory"])]
    if "oversub" in by_name:
        lines += ["", *oversub(by_name["oversub"])]
    if "crash" in by_name:
        lines += _crash(by_name["crash"])
    if "remote" in by_name:
        lines += ["", *remote(by_name["remote"])]
    if "softgpu" in by_name:
        lines += _softgpu(by_name["softgpu"])
    if "scrape" in by_name:
        lines += _scrape(by_name["scrape"])
    return "\n".join(lines) + "\n"


def _taken(r: dict[str, Any]) -> str:
    load = f", load of the machine then {r['result']['load_1min']:.1f}" if "result" in r else ""
    return f"`{r['command']}`, {r['date']}{load}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 98, break_on_hyphens=False, break_long_words=False)


def _missed(found: dict[str, Any], what: str) -> list[str]:
    missed = [one for one in found["targets"] if not one["met"]]
    return [
        f"Of {len(found['targets'])} {what} {len(missed)} are missed:",
        *(
            f"- {one['cell']}: {one['figure']} {one['value']:.3f}, held to {one['limit']:g}"
            for one in missed
        ),
    ]


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
    return [*lines, *_missed(found, "stricter figures"), ""]


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


def _softgpu(r: dict[str, Any]) -> list[str]:
    found = r["result"]
    limits = {target["figure"]: f"{target['limit']:g}" for target in found["targets"]}
    rows = (
        ("f32 add of 16 M elements, times of NumPy's (one core)", "add_ratio"),
        ("the same in CPU time", "add_cpu_ratio"),
        ("f32 product of 512 x 512, times of NumPy's (all cores)", "matmul_ratio"),
        ("the same in CPU time", "matmul_cpu_ratio"),
        ("cold start of a small kernel, ms", "cold_ms"),
        ("the same in CPU time, ms", "cold_cpu_ms"),
        ("times of what the C compiler takes over an empty file", "cold_over_empty_c"),
        ("warm start, ms", "warm_ms"),
        ("the same in CPU time, ms", "warm_cpu_ms"),
        ("of that from cuModuleLoadData on, ms", "warm_loaded_ms"),
        ("the same in CPU time, ms", "warm_loaded_cpu_ms"),
        ("add with one worker, times of that with all", "add_gain_of_cores"),
        ("product with one worker, times of that with all", "matmul_gain_of_cores"),
    )
    return [
        "",
        *_wrapped(
            f"The software GPU's speed: {_taken(r)}, {found['cores']} cores. Launches and NumPy in"
            " turn, in one process; starts from cuInit to the end of the first launch."
        ),
        "",
        "| figure | median | least to most | held to |",
        "|---|---|---|---|",
        *(
            f"| {text} | {f['median']:.2f} | {f['least']:.2f} to {f['most']:.2f} |"
            f" {limits.get(name, '')} |"
            for text, name in rows
            for f in (found["figures"][name],)
        ),
    ]


def _scrape(r: dict[str, Any]) -> list[str]:
    found = r["result"]
    about = (
        f"A scrape of harpd with {found['tenants']} tenants, {found['series']} series, HTTP"
        f" included ({found['n']} in a row; {_taken(r)}; held to"
        f" {found['targets'][0]['limit']:g} ms of CPU time):"
    )
    each = [f"{found[name]:.1f} ms" for name in ("scrape_cpu_ms", "scrape_ms_p50", "scrape_ms_p99")]
    return [
        "",
        *_wrapped(about),
        "",
        "| CPU time of harpd and arbiter | as a client sees it, p50 | p99 |",
        "|---|---|---|",
        f"| {' | '.join(each)} |",
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


def memory(r: dict[str, Any]) -> list[str]:
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
    return lines + _missed(found, "figures held to a limit")


def oversub(r: dict[str, Any]) -> list[str]:
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
    lines += ["", f"Controls, without HARP and with a word changed: {said}."]
    return lines + _missed(found, "figures held to a limit")


_COMPARED = {
    "rtt": "a call that waits, TCP",
    "rtt_tls": "a call that waits, TLS 1.3",
    "shm": "a call that waits, same host (shared memory)",
    "bulk": "a copy of 64 MiB, TCP",
    "bulk_tls": "a copy of 64 MiB, TLS 1.3",
}


def remote(r: dict[str, Any]) -> list[str]:
    found = r["result"]
    there, back = found["frame_bytes"]
    lines = _wrapped(
        f"A GPU elsewhere: {_taken(r)}. Two hosts are two halves of this one's CPUs. A call that"
        f" waits: {found['call']}; {there} bytes go there, {back} come back, and as many on a raw"
        " connection (`native/bench/raw_tcp.c`, `raw_tls.c`), which runs in turn with it, on the"
        " same CPUs. Medians of the runs; ratio: of neighbouring runs, and its least and most."
        + "".join(
            f" **Not to be believed: {one['cell']}: {one['figure']} {one['value']:.2f}, limit"
            f" {one['limit']:g}: the host was busy.**"
            for one in found["violations"]
        )
    )
    lines += ["", "| what | raw, p50 | HARP, p50 | raw, p99 | HARP, p99 | ratio of p50 | n runs |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for one in found["compared"]:
        raw, ours = one["raw_us_p50_p99"], one["harp_us_p50_p99"]
        times = [
            f"{us:.1f} µs" if us < 10_000 else f"{us / 1000:.1f} ms"
            for us in (raw[0], ours[0], raw[1], ours[1])
        ]
        least, most = one["ratio_p50_least_most"]
        ratio = f"{one['ratio_p50']:.2f} ({least:.2f} to {most:.2f})"
        lines.append(f"| {' | '.join([_COMPARED[one['name']], *times, ratio, str(one['runs'])])} |")
    plain, local = (found[f"init_{name}_ms_p50_p99"][0] for name in ("plain", "local"))
    lines += [
        "",
        *_wrapped(
            f"A launch takes the program {found['async_us']:.2f} µs. 1000 of them and a"
            f" synchronisation wait {found['launches_1000_rt']:.0f} time(s), and"
            f" {found['strict_trips']} where every call has to. From main() to the first"
            f" allocation: {found['init_ms']:.1f} ms over TLS, {plain:.1f} ms without it,"
            f" {local:.1f} ms on the same GPU in this host. A second process sends"
            f" {found['second_module_bytes']:.0f} bytes for a module of {found['module_bytes']}."
            f" Memory is back {found['back_s']:.2f} s after SIGKILL of the program."
        ),
    ]
    for step in found["steps"]:
        lines += _wrapped(
            f"A step of {step['program']}, {step['delay_ms']:g} ms each way:"
            f" {step['local_ms']:.1f} ms here, {step['remote_ms']:.1f} ms there"
            f" ({step['ratio']:.2f}); a call that waits takes {step['rtt_us']:.0f} µs there."
        )
    lines += [f"Not run: {reason}." for reason in found["not_run"]]
    return lines + _missed(found, "figures held to a limit")
