# SPDX-License-Identifier: Apache-2.0
"""`harp sim place`: how full a cluster gets under a placement policy."""

from __future__ import annotations

import time
from pathlib import Path

import click

from harp.cli.output import json_option, print_json, progress

__all__ = ["place"]

#: as harp.scheduler.POLICIES, which a test compares; importing it here would load NumPy for --help
POLICY_NAMES = ("hybrid", "fgd", "best-fit", "first-fit", "dot-product", "random")
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option("--nodes", required=True, type=_FILE, help="Nodes, CSV: cpu_milli, memory_mib, gpu.")
@click.option(
    "--pods",
    required=True,
    type=_FILE,
    help="Pods, CSV: cpu_milli, memory_mib, num_gpu, gpu_milli.",
)
@click.option(
    "--policy",
    type=click.Choice(POLICY_NAMES),
    default=POLICY_NAMES[0],
    show_default=True,
    help="How to choose.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True, help="Same seed, same result."
)
@json_option
def place(*, nodes: Path, pods: Path, policy: str, seed: int, as_json: bool) -> None:
    """Replay a trace of pods: GPUs allocated and fragmented as demand grows to 130 %.

    The pods come in an order of the seed and stay; once all have come, pods drawn from the same
    list follow. Who fits nowhere is dropped. The files have the columns of Alibaba's GPU trace of
    2023, gzipped or not; the nodes' may have `sn` and `model`, the pods' `name` and `gpu_spec`.
    """
    from harp.sim import place as model  # noqa: PLC0415
    from harp.sim.traces import read_nodes, read_pods  # noqa: PLC0415

    began = time.monotonic()
    cluster, workload = read_nodes(nodes), read_pods(pods)
    progress(f"{len(cluster)} nodes, {len(workload)} pods read")
    found = model.replay(
        cluster,
        workload,
        policy=policy,
        seed=seed,
        clock_s=time.perf_counter,
        progress=lambda at: progress(
            f"{at.demand_pct} % asked for, {at.allocation_pct:.2f} % allocated,"
            f" {time.monotonic() - began:.1f} s"
        ),
    )
    if as_json:
        print_json(model.as_json(found))
        return
    for line in model.as_text(found):
        print(line)
