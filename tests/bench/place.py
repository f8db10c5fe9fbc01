# SPDX-License-Identifier: Apache-2.0
"""README.md's section `placement`: what `harp sim place` makes of the public trace."""

from __future__ import annotations

import os
import statistics
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TRACES = Path(os.environ.get("HARP_TRACES", ROOT.parent / "shared" / "data")) / "placement"
NODES = "openb_node_list_gpu_node.csv.gz"
PODS = {
    "default": "openb_pod_list_default.csv.gz",
    "gpushare100": "openb_pod_list_gpushare100.csv.gz",
}
POLICIES = ("hybrid", "fgd", "first-fit", "best-fit", "dot-product", "random")
SEEDS = range(42, 52)
#: FGD's means over the same seeds as its authors published them (analysis_allo_discrete.csv)
PUBLISHED = {"default": (95.23, 95.39), "gpushare100": (86.64, 86.90)}


def take(call: Callable[[list[str]], dict[str, Any]]) -> dict[str, Any]:
    """The figures; `call` runs harp with these arguments and returns its JSON."""
    if not (TRACES / NODES).exists():
        sys.exit(f"{TRACES} holds no {NODES}; remedy: set HARP_TRACES to the traces' folder")
    found: dict[str, Any] = {}
    for workload, pods in PODS.items():
        files = ["--nodes", str(TRACES / NODES), "--pods", str(TRACES / pods)]
        for policy in POLICIES:
            seeded = [["--policy", policy, "--seed", str(seed)] for seed in SEEDS]
            runs = [call(["sim", "place", *files, *one]) for one in seeded]
            found.setdefault(workload, {})[policy] = {
                "100": [run["allocation_pct"]["100"] for run in runs],
                "130": [run["allocation_pct"]["130"] for run in runs],
                "fragments_100": [run["fragmentation_pct"]["100"] for run in runs],
                "ms": [run["ms_per_decision"] for run in runs],
            }
    return {
        "command": f"harp sim place --nodes {NODES} --pods openb_pod_list_WORKLOAD.csv.gz"
        f" --policy POLICY --seed {SEEDS[0]}...{SEEDS[-1]} --json",
        "load_1min": os.getloadavg()[0],
        "result": found,
    }


def text(results: list[dict[str, Any]]) -> str:
    """The table: means over the seeds, with the least and the most."""
    lines: list[str] = []
    for r in results:
        lines += [
            *textwrap.wrap(
                f"GPUs allocated at 100 % and 130 % demand, percent of all: `{r['command']}`,"
                f" {r['date']}; mean of {len(SEEDS)} seeds (least to most). Fragments at 100 %."
                " Milliseconds are of one decision: the median of the runs' means, on"
                f" {r['machine']}, load then {r['load_1min']:.1f}.",
                98,
                break_on_hyphens=False,
                break_long_words=False,
            ),
            "",
            "| policy | default, 100 % | 130 % | fragments | gpushare100, 100 % | 130 % | ms |",
            "|---|---|---|---|---|---|---|",
        ]
        for policy in POLICIES:
            default, shared = (r["result"][workload][policy] for workload in PODS)
            ms = statistics.median(default["ms"] + shared["ms"])
            lines.append(
                f"| {policy} | {_spread(default['100'])} | {_spread(default['130'])} |"
                f" {_spread(default['fragments_100'])} | {_spread(shared['100'])} |"
                f" {_spread(shared['130'])} | {ms:.1f} |"
            )
        (at_100, at_130), shared = (PUBLISHED[workload] for workload in PODS)
        row = f"{at_100:.2f} | {at_130:.2f} | | {shared[0]:.2f} | {shared[1]:.2f} |"
        lines.append(f"| *FGD as published* | {row} |")
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"
