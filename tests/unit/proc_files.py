# SPDX-License-Identifier: Apache-2.0
"""A process's files in /proc, made by hand."""

from __future__ import annotations

from pathlib import Path


def write_stat(folder: Path, env: tuple[int, int], *, vsize: int = 4096) -> None:
    """As proc(5) has it: field 2 may hold anything, 23 is vsize, 50 and 51 are the environment."""
    fields = ["7", "(a) b (c)", "R", *["1"] * 19, str(vsize), *["1"] * 26, *map(str, env), "0"]
    (folder / "stat").write_text(" ".join(fields))
