# SPDX-License-Identifier: Apache-2.0
"""The demo's result as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

__all__ = ["table"]

_MIB = 1 << 20


def table(result: Mapping[str, Any]) -> Table:
    """`result` of `harp.demo.run`, one row a tenant."""
    kind = "software GPU: no figure here is a GPU's" if result["software"] else "GPU"
    grid = Table(
        title=f"{result['device']} ({kind}), {result['seconds']:.0f} s in common",
        caption=f"engine busy {result['engine_busy_ratio']:.0%}, overrun ratio "
        f"{result['overrun_ratio']:.2f}; CPU: same program, same seed",
    )
    grid.add_column("tenant")
    for column in ("pid", "asked", "achieved", "memory peak", "limit", "steps"):
        grid.add_column(column, justify="right")
    grid.add_column("loss", justify="right")
    grid.add_column("on the CPU", justify="right")
    for row in result["tenants"]:
        grid.add_row(
            row["name"],
            str(row["pid"]),
            f"{row['asked_share']:.1%}",
            f"{row['achieved_share']:.1%}",
            f"{row['mem_peak_bytes'] / _MIB:.0f} MiB",
            f"{row['mem_limit_bytes'] / _MIB:.0f} MiB",
            str(row["steps"]),
            f"{row['loss_first']:.4f} → {row['loss_last']:.4f}",
            f"{row['loss_cpu_last']:.4f} {'=' if row['loss_equal'] else '≠'}",
        )
    return grid
