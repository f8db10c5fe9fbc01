# SPDX-License-Identifier: Apache-2.0
"""CASES.md: the table of areas and backends, from what the cases say of themselves.

    python tests/contract/table.py [--check]

Counts of cases, not results: those are CI's. Nothing is run and no device is touched.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import suite

PAGE = Path(__file__).with_name("CASES.md")
MARKS = re.compile(r"(?s)(<!-- generated: table -->\n).*?(<!-- end -->)")


def cell(cases: list[Any], backend: suite.Backend) -> str:
    """`12`, or `12 + 1 waived + 3 elsewhere`."""
    kinds = [suite.standing(one, backend.name).kind for one in cases]
    parts = [str(kinds.count(suite.RUNS))]
    parts += [
        f"{kinds.count(kind)} {kind}"
        for kind in (suite.WAIVED, suite.ELSEWHERE)
        if kinds.count(kind)
    ]
    return " + ".join(parts)


def reasons(cases: list[Any], backend: suite.Backend) -> list[str]:
    """Why cases do not run on the backend; a waiver names its cases."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in cases:
        stands = suite.standing(one, backend.name)
        if stands.kind != suite.RUNS:
            found.setdefault((stands.kind, stands.why), []).append(f"`{one.name}`")
    lines = []
    for (kind, why), names in sorted(found.items(), reverse=True):
        which = (
            ", ".join(sorted(names)) if kind == suite.WAIVED else f"{len(names)} of {len(cases)}"
        )
        lines.append(f"- **{backend.name}**, {kind}: {which}: {why}.")
    return lines


def table() -> str:
    """All between the marks."""
    cases = suite.cases()
    areas = sorted({one.area for one in cases})
    backends = suite.BACKENDS
    lines = ["| area | " + " | ".join(b.name for b in backends) + " |"]
    lines.append("|---" * (len(backends) + 1) + "|")
    for area in areas:
        mine = [one for one in cases if one.area == area]
        lines.append(f"| {area} | " + " | ".join(cell(mine, b) for b in backends) + " |")
    lines.append("| **all** | " + " | ".join(cell(cases, b) for b in backends) + " |")
    lines.append("")
    for backend in backends:
        if backend.name != "remote-local":  # its reasons are those of its two parts
            lines += reasons(cases, backend)
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write, or with --check compare."""
    text = PAGE.read_text()
    assert MARKS.search(text), f"{PAGE} has lost its marks"
    fresh = MARKS.sub(lambda found: found[1] + table() + found[2], text)
    if "--check" in sys.argv[1:]:
        if fresh != text:
            sys.exit("tests/contract/CASES.md is stale; remedy: python tests/contract/table.py")
        return
    PAGE.write_text(fresh)


if __name__ == "__main__":
    main()
