# SPDX-License-Identifier: Apache-2.0
"""The demo's result as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

__all__ = ["table"]

_MIB = 1 << 20


def table(result: Mapping[str, Any]) -> Table:
    """`result` of `harp.demo.run`, one row a tenant."""
    kind = "software GPU, no figure is a GPU's" if result["software"] else "GPU"
    grid = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title=f"{result['device']}: {kind}",
        caption=f"{result['seconds']:.0f} s in common, "
        f"engine busy {result['engine_busy_ratio']:.0%}, "
        f"overrun ratio {result['overrun_ratio']:.2f}\n"
        "memory: peak of limit; CPU: same program, same seed",
    )
    grid.add_column("tenant", no_wrap=True)
    for column in ("asked", "achieved", "memory", "steps", "loss", "on CPU"):
        grid.add_column(column, justify="right", no_wrap=True)
    for row in result["tenants"]:
        grid.add_row(
            row["name"],
            f"{row['asked_share']:.0%}",
            f"{row['achieved_share']:.1%}",
            f"{row['mem_peak_bytes'] / _MIB:.0f}/{row['mem_limit_bytes'] / _MIB:.0f} MiB",
            str(row["steps"]),
            f"{row['loss_first']:.2f} → {row['loss_last']:.4f}",
            f"{row['loss_cpu_last']:.4f} {'=' if row['loss_equal'] else '≠'}",
        )
    return grid
