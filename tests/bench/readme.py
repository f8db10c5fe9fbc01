# SPDX-License-Identifier: Apache-2.0
"""The figures in README.md: taken, kept as JSON files, written between markers.

    python tests/bench/readme.py            writes the three sections from the JSON files
    python tests/bench/readme.py --check    fails if README.md differs from what they say
    python tests/bench/readme.py --run      runs the benches first (some 20 minutes)
    python tests/bench/readme.py --run --everything   with the whole matrix (some 50)
    python tests/bench/readme.py --run --only remote  one bench; the others' files stay

`hardware` comes from tests/gpu/results (hardware.py), `bench` from tests/bench/results
(tables.py), `placement` from tests/bench/traces (place.py), whose figures are of no GPU and need
the public traces: `--run --only place`. No figure is typed by hand, and none of the software GPU
appears without its label.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hardware
import place
import tables

from harp.bench.machine import machine as private_machine

ROOT = Path(__file__).resolve().parents[2]
HARDWARE, BENCH = ROOT / "tests/gpu/results", ROOT / "tests/bench/results"
TRACED = ROOT / "tests/bench/traces"
BENCHES = ("share", "latency", "memory", "crash", "oversub", "remote", "softgpu", "scrape")
BENCHES += ("overhead",)
RUNS, SHARE_SECONDS, LATENCY_SECONDS = 3, 5, 10
SLICE_US, SWITCH_US = 2000, 20  #: of the cells that a plain --run takes


def put(readme: str, name: str, text: str) -> str:
    """README.md with this generated part replaced."""
    pattern = re.compile(rf"<!-- generated: {name} -->\n.*?<!-- end -->", re.DOTALL)
    if len(pattern.findall(readme)) != 1:
        sys.exit(f"README.md needs `<!-- generated: {name} -->` ... `<!-- end -->` once")
    return pattern.sub(lambda _: f"<!-- generated: {name} -->\n{text}<!-- end -->", readme)


def load(folder: Path) -> list[dict[str, Any]]:
    """The results of a folder by file name: runs on hardware in the order of their dates."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def machine() -> str:
    """Cores, model and kernel; nothing that names this machine."""
    cpu = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^(?:model name|Processor)\s*:\s*(.+)$", cpu, re.MULTILINE)
    kernel = ".".join(platform.release().split("-")[0].split(".")[:2])
    name = model[1] if model else platform.machine()
    return f"{os.cpu_count()} cores of {name}, Linux {kernel}"


def run(*, everything: bool, repeat: int, only: str | None = None) -> None:
    """Takes the figures; the matrix of all slices and switches only if `everything`."""
    about = {"machine": machine(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    if only == "place":
        found = place.take(lambda arguments: _last_json(arguments, software=False))
        _keep("place", {"bench": "place", **about} | found, folder=TRACED)
        return
    about["label"] = tables.LABEL
    share = ["bench", "share", "--seconds", str(SHARE_SECONDS), "--repeat", str(repeat)]
    if not everything:
        share += ["--cell", f"*.{SLICE_US}us.{SWITCH_US}us"]
    latency = ["bench", "latency", "--seconds", str(LATENCY_SECONDS), "--repeat", str(repeat)]
    plain = ("memory", "crash", "oversub", "remote", "softgpu", "scrape")
    memory, crash, oversub, remote, softgpu, scrape = (["bench", name] for name in plain)
    for name, arguments in (
        ("share", share),
        ("latency", latency),
        ("memory", memory),
        ("crash", crash),
        ("oversub", oversub),
        ("remote", remote),
        ("softgpu", softgpu),
        ("scrape", scrape),
    ):
        if only not in {None, name}:
            continue
        _keep(
            name,
            {"bench": name, **about, "command": _shown(arguments)}
            | {"result": _last_json(arguments)},
        )
    if only not in {None, "overhead"}:
        return
    with private_machine(os.environ, harp=True) as box:
        costs = [_last_json(["bench", "overhead"], dict(box.env)) for _ in range(repeat)]
    _keep(
        "overhead",
        {"bench": "overhead", **about, "command": _shown(["bench", "overhead"]), "runs": costs},
    )


def _shown(arguments: list[str]) -> str:
    return " ".join(["harp", *(f"'{a}'" if "*" in a else a for a in arguments), "--json"])


def _last_json(
    arguments: list[str], env: dict[str, str] | None = None, *, software: bool = True
) -> dict[str, Any]:
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
    if software and found.get("software") is not True:
        sys.exit("these benches are for the software GPU; tests/gpu is for real ones")
    return found


def _keep(name: str, result: dict[str, Any], folder: Path = BENCH) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if stale")
    parser.add_argument("--run", action="store_true", help="run the benches first")
    parser.add_argument("--everything", action="store_true", help="the whole matrix of shares")
    parser.add_argument("--only", choices=(*BENCHES, "place"), help="this one alone")
    parser.add_argument("--repeat", type=int, default=RUNS, help="runs of everything")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md")
    args = parser.parse_args()
    if args.run:
        run(everything=args.everything, repeat=args.repeat, only=args.only)
    now = args.readme.read_text()
    want = put(now, "hardware", hardware.text(load(HARDWARE)))
    want = put(want, "bench", tables.text(load(BENCH)))
    want = put(want, "placement", place.text(load(TRACED)))
    if args.check:
        if now != want:
            print("README.md is stale; remedy: python tests/bench/readme.py", file=sys.stderr)
        return int(now != want)
    args.readme.write_text(want)
    return 0


if __name__ == "__main__":
    sys.exit(main())
