# SPDX-License-Identifier: Apache-2.0
"""`harp bench`: shares, latency, memory, oversubscription, crashes, remote, pairs, Kubernetes.

harp.bench is imported by the commands that need it: `harp bench --help` need not be slow.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType

import click

from harp.cli.output import json_option, print_json, progress
from harp.cli.start import connect_or_start

__all__ = ["bench"]


@click.group()
def bench() -> None:
    """Measure what HARP promises, judged from outside."""
    # What was started is taken down again, also when somebody ends us.
    signal.signal(signal.SIGTERM, _leave)


@bench.command()
@click.option("--rounds", type=click.IntRange(1, 10_000), help="Pairs of batches; else 10^7 calls.")
@json_option
def overhead(*, rounds: int | None, as_json: bool) -> None:
    """What launches, graph launches and copies cost more under HARP."""
    # Imported late: only this command needs it.
    from harp.bench import overhead as measure  # noqa: PLC0415

    client, _ = connect_or_start(os.environ)
    client.close()
    result = measure(os.environ, rounds=rounds, progress=progress)
    if as_json:
        print_json(result)
        return
    label = f" ({result['label']})" if result["label"] else ""
    print(f"{result['device']}{label}, {result['n']} launches on each side")
    print(
        f"launch: bare {result['launch_ns_bare']:.0f} ns, under HARP"
        f" {result['launch_ns_harp']:.0f} ns, added {result['added_ns']:.0f} ns"
        f" (x{result['ratio']:.2f}); until the device is done x{result['end_to_end_ratio']:.3f}"
    )
    for heading, key in (
        ("a launch that costs nothing", "noop_added_ns"),
        ("the same in bursts", "paced_added_ns"),
        ("other calls", "calls_added_ns"),
    ):
        figures = result[key]
        assert isinstance(figures, dict)
        for name, value in figures.items():
            print(f"added to {heading}, {name}: {value:.1f} ns")


@bench.command()
@click.option("--quick", is_flag=True, help="A few cells; ends within 50 s.")
@click.option("--cell", "cells", multiple=True, metavar="NAME", help="These only; * and ? match.")
@click.option("--list", "as_list", is_flag=True, help="Say the cells and how long they take.")
@click.option("--seconds", type=click.FloatRange(0.5, 3600), help="Measured per run; 10, quick 2.")
@click.option("--repeat", type=click.IntRange(1, 100), help="Runs per side, medians; 3, quick 1.")
@click.option("--client", metavar="CMD", help="Your program; {share} in it is the percent.")
@click.option("--shares", default=None, metavar="N,N", help="One cell of yours: its shares.")
@click.option("--kernel-us", type=click.IntRange(1, 1_000_000), default=200, show_default=True)
@click.option("--mode", type=click.Choice(["saturate", "sync", "graph"]), default="saturate")
@click.option("--slice-us", type=click.IntRange(200, 300_000), default=2000, show_default=True)
@click.option("--switch-us", type=click.IntRange(0, 10_000), default=20, show_default=True)
@click.option("--raw", type=click.Path(dir_okay=False, path_type=Path), help="Every sample.")
@json_option
def share(
    *,
    quick: bool,
    cells: tuple[str, ...],
    as_list: bool,
    seconds: float | None,
    repeat: int | None,
    client: str | None,
    shares: str | None,
    kernel_us: int,
    mode: str,
    slice_us: int,
    switch_us: int,
    raw: Path | None,
    as_json: bool,
) -> None:
    """Does each tenant get its share? Exit status 1: not within two points, or it cannot tell."""
    from harp.bench import report  # noqa: PLC0415
    from harp.bench.cells import Cell, plan  # noqa: PLC0415
    from harp.bench.share import run_share  # noqa: PLC0415

    own = None
    if shares is not None or client is not None:
        parts = _shares(shares or "30,70")
        kind = mode if client is None else "client"
        own = Cell(parts, (kernel_us,), kind, slice_us=slice_us, switch_us=switch_us)
    chosen = plan(cells, quick=quick, seconds=seconds, repeat=repeat, own=own)
    if as_list:
        for cell in chosen.cells:
            print(cell.name)
        print(report.expected(chosen))
        return
    progress(report.expected(chosen))
    outcome = run_share(os.environ, chosen, command=client, raw=raw, progress=progress)
    if as_json:
        print_json(outcome.json(chosen))
    else:
        report.show_share(outcome)
    sys.exit(0 if outcome.ok else 1)


@bench.command()
@click.option("--quick", is_flag=True, help="One neighbour, short; ends within 50 s.")
@click.option(
    "--kernel-us",
    "kernels_us",
    multiple=True,
    type=click.IntRange(1, 1_000_000),
    help="Kernels of the best-effort tenant; several; 10, 200 and 1000.",
)
@click.option("--seconds", type=click.FloatRange(1, 3600), help="Measured per run; 15, quick 5.")
@click.option("--repeat", type=click.IntRange(1, 100), help="Runs per setting; 3, quick 1.")
@click.option("--raw", type=click.Path(dir_okay=False, path_type=Path), help="Every request.")
@json_option
def latency(
    *,
    quick: bool,
    kernels_us: tuple[int, ...],
    seconds: float | None,
    repeat: int | None,
    raw: Path | None,
    as_json: bool,
) -> None:
    """What a request-driven tenant feels of a busy neighbour. Exit status 1: it cannot tell."""
    from harp.bench import latency as measured  # noqa: PLC0415
    from harp.bench import report  # noqa: PLC0415
    from harp.bench.machine import LABEL  # noqa: PLC0415

    kernels = kernels_us or ((200,) if quick else measured.KERNELS_US)
    window_s = seconds or (5.0 if quick else 15.0)
    runs = repeat or (1 if quick else 3)
    total_s = len(kernels) * runs * 3 * (window_s + 2.5) + 3
    progress(f"{len(kernels)} neighbours, {runs} runs: some {total_s:.0f} s ({LABEL})")
    outcome = measured.run_latency(
        os.environ,
        kernels_us=kernels,
        seconds=window_s,
        repeat=runs,
        raw=raw,
        progress=progress,
    )
    if as_json:
        print_json(outcome.json(seconds=window_s, repeat=runs))
    else:
        report.show_latency(outcome)
    sys.exit(0 if outcome.ok else 1)


@bench.command()
@click.option("--quick", is_flag=True, help="Few of each; ends within 50 s.")
@click.option("--deaths", type=click.IntRange(1, 1000), help="50, quick 8.")
@click.option("--upgrades", type=click.IntRange(1, 1000), help="10, quick 3.")
@json_option
def crash(*, quick: bool, deaths: int | None, upgrades: int | None, as_json: bool) -> None:
    """What deaths and upgrades cost. Exit status 1: something was lost, or it cannot tell."""
    from harp.bench import crash as measured  # noqa: PLC0415
    from harp.bench import report  # noqa: PLC0415
    from harp.bench.machine import LABEL  # noqa: PLC0415

    kills = deaths or (8 if quick else 50)
    times = upgrades or (3 if quick else measured.LEAST_UPGRADES)
    calls = 0 if quick else measured.LEAST_CALLS
    progress(f"{kills} deaths, {times} upgrades: some {kills + 2 * times + 15} s ({LABEL})")
    outcome = measured.run_crash(
        os.environ, deaths=kills, upgrades=times, calls=calls, progress=progress
    )
    if as_json:
        print_json(outcome.json())
    else:
        report.show_crash(outcome)
    sys.exit(0 if outcome.ok else 1)


@bench.command()
@click.option("--quick", is_flag=True, help="Fewer rounds; ends within a minute.")
@json_option
def memory(*, quick: bool, as_json: bool) -> None:
    """What memory costs; do limits hold in a race? Exit status 1: not, or it cannot tell."""
    from harp.bench import report  # noqa: PLC0415
    from harp.bench.machine import LABEL  # noqa: PLC0415
    from harp.bench.memory import Effort, run_memory  # noqa: PLC0415

    progress(f"some {25 if quick else 80} s ({LABEL})")
    effort = Effort.quick() if quick else Effort()
    outcome = run_memory(os.environ, effort, progress=progress)
    if as_json:
        print_json(outcome.json(load_1min=os.getloadavg()[0], label=LABEL))
    else:
        report.show_memory(outcome)
    sys.exit(0 if outcome.ok else 1)


@bench.command()
@click.option("--quick", is_flag=True, help="One bursty pair; ends within 30 s.")
@json_option
def oversub(*, quick: bool, as_json: bool) -> None:
    """What jobs that do not fit together gain. Exit status 1: data lost, or it cannot tell."""
    from harp.bench import report  # noqa: PLC0415
    from harp.bench.machine import LABEL  # noqa: PLC0415
    from harp.bench.oversub import Plan, expected_s, run_oversub  # noqa: PLC0415

    plans = Plan.all(quick=quick)
    progress(f"{len(plans)} pairs: some {expected_s(plans):.0f} s ({LABEL})")
    outcome = run_oversub(os.environ, plans, progress=progress)
    if as_json:
        print_json(outcome.json(load_1min=os.getloadavg()[0], label=LABEL))
    else:
        report.show_oversub(outcome)
    sys.exit(0 if outcome.ok else 1)


@bench.command()
@click.option("--quick", is_flag=True, help="Fewer rounds; ends within a minute.")
@json_option
def remote(*, quick: bool, as_json: bool) -> None:
    """What a GPU elsewhere costs, beside a raw connection. Exit status 1: it cannot tell."""
    from harp.bench import report  # noqa: PLC0415
    from harp.bench.machine import LABEL  # noqa: PLC0415
    from harp.bench.remote import Effort, run_remote  # noqa: PLC0415

    progress(f"some {40 if quick else 420} s ({LABEL})")
    effort = Effort.quick() if quick else Effort()
    outcome = run_remote(os.environ, effort, progress=progress)
    if as_json:
        print_json(outcome.json(load_1min=os.getloadavg()[0], label=LABEL))
    else:
        report.show_remote(outcome)
    sys.exit(0 if outcome.ok else 1)


@bench.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Of both.")
@json_option
def pairing(*, rounds: int, as_json: bool) -> None:
    """What it gains to pair jobs that compute with jobs that wait. Exit status 1: nothing."""
    from harp.bench.machine import LABEL  # noqa: PLC0415
    from harp.bench.pairing import run_pairing  # noqa: PLC0415

    progress(f"some {12 * rounds} s ({LABEL})")
    outcome = run_pairing(os.environ, rounds, progress=progress)
    if as_json:
        print_json(outcome.json(load_1min=os.getloadavg()[0], label=LABEL))
    else:
        print(f"makespan of opposites: {outcome.ratio:.2f} of that of equals")
    sys.exit(0 if outcome.ok else 1)


@bench.command()
@click.option("--pairs", default=15, show_default=True, type=click.IntRange(1), help="Of blocks.")
@json_option
def trace(*, pairs: int, as_json: bool) -> None:
    """What it costs a training to be recorded. Exit status 1: not all was, or it cannot tell."""
    from harp.bench.machine import LABEL  # noqa: PLC0415
    from harp.bench.trace import run_trace  # noqa: PLC0415

    progress(f"some {20 + 3 * pairs} s ({LABEL})")
    outcome = run_trace(os.environ, pairs, 40, progress=progress)
    if as_json:
        print_json(outcome.json(load_1min=os.getloadavg()[0], label=LABEL))
    else:
        print(f"a step that is recorded takes {outcome.ratio:.3f} times as long")
    sys.exit(0 if outcome.ok else 1)


@bench.command()
@click.option("--tenants", default=200, show_default=True, type=click.IntRange(1, 1000))
@click.option("--scrapes", default=101, show_default=True, type=click.IntRange(1, 10_000))
@json_option
def scrape(*, tenants: int, scrapes: int, as_json: bool) -> None:
    """What a scrape of a busy node costs. Exit status 1: a tenant is left out."""
    from harp.bench.machine import LABEL  # noqa: PLC0415
    from harp.bench.scrape import run_scrape  # noqa: PLC0415

    progress(f"{scrapes} scrapes of {tenants} tenants: some {10 + scrapes // 10} s ({LABEL})")
    outcome = run_scrape(os.environ, tenants, scrapes, progress=progress)
    figures = outcome.json(load_1min=os.getloadavg()[0])
    if as_json:
        print_json(figures)
    else:
        print(
            f"a scrape of {tenants} tenants ({outcome.series} series) takes"
            f" {figures['scrape_ms_p50']:.1f} ms, p99 {figures['scrape_ms_p99']:.1f} ms, of CPU"
            f" time {outcome.cpu_ms:.1f} ms"
        )
    sys.exit(0 if outcome.ok else 1)


@bench.command()
@click.option("--quick", is_flag=True, help="Fewer pods; ends within 20 s.")
@click.option(
    "--pods",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Shares of these pods, CSV as for `harp sim place`, gzipped or not.  [small ones]",
)
@json_option
def plugin(*, quick: bool, pods: Path | None, as_json: bool) -> None:
    """What the device plugin costs a kubelet. Exit status 1: a wrong grant, or it cannot tell.

    Small shares come and go on a node of 8 GPUs with 200 pods. With --pods the shares are drawn
    from that list: as many live as fit, and who does not fit is refused.
    """
    from harp.bench.plugin import run_plugin, slots_of  # noqa: PLC0415
    from harp.sim.traces import read_pods  # noqa: PLC0415

    sizes = slots_of(read_pods(pods)) if pods is not None else ()
    what = f"pods of {pods}" if pods is not None else "200 pods"
    progress(f"a fake kubelet of 8 GPUs with {what}: some {10 if quick else 60} s")
    figures, ok = run_plugin(os.environ, quick=quick, sizes=sizes)
    if as_json:
        print_json(figures)
    else:
        for name, value in figures.items():
            print(f"{name}: {value}")
    sys.exit(0 if ok else 1)


@bench.command()
@click.option("--quick", is_flag=True, help="A small history; ends within half a minute.")
@json_option
def estimate(*, quick: bool, as_json: bool) -> None:
    """What estimates cost: a question, a run learned, the memory of a made-up history."""
    from harp.bench.estimate import Effort, run_estimate  # noqa: PLC0415

    effort = Effort.quick() if quick else Effort()
    progress(f"{effort.runs} runs of {effort.keys} keys: some {effort.runs // 1500} s")
    figures = run_estimate(effort, progress)
    if as_json:
        print_json(figures)
        return
    for name, value in figures.items():
        print(f"{name}: {value}")


@bench.command()
@click.option("--quick", is_flag=True, help="A few rounds; ends within half a minute.")
@json_option
def softgpu(*, quick: bool, as_json: bool) -> None:
    """How fast the software GPU is, beside NumPy. Exit status 1: a result is wrong."""
    from harp.bench.softgpu import Effort, run_softgpu  # noqa: PLC0415

    progress("two kernels and their starts: some " + ("20 s" if quick else "60 s"))
    effort = Effort.quick() if quick else Effort()
    outcome = run_softgpu(os.environ, effort, progress=progress)
    if as_json:
        print_json(outcome.json(load_1min=os.getloadavg()[0]))
    else:
        for name in outcome.readings:
            print(f"{name}: {outcome.median(name):.3g}")
    sys.exit(0 if outcome.ok else 1)


def _shares(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(
            f"{text}: percent, commas between", param_hint="--shares"
        ) from error
    if not found or min(found) < 1 or sum(found) > 100:
        raise click.BadParameter(
            f"{text}: each at least 1, all together 100 at most", param_hint="--shares"
        )
    return found


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)
