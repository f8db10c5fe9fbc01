# SPDX-License-Identifier: Apache-2.0
"""What `harp doctor --probe` found, for people and as JSON."""

from __future__ import annotations

from rich.table import Table

from harp.cli.view import printable
from harp.probe.ask import Probed
from harp.probe.questions import Answer, as_json

__all__ = ["shape", "table", "words"]

_SOFTWARE = "the software GPU: nothing here is a figure of a GPU or of NVIDIA's driver"


def shape(found: Probed) -> dict[str, object]:
    """The object of `--json`."""
    return {
        "device": {"name": found.name, "uuid": found.uuid, "driver_version": found.driver_version},
        "software": found.software,
        "note": _SOFTWARE if found.software else "",
        "others": found.others,
        "unknown": sum(answer.value is None for _, answer in found.answers),
        "answers": [as_json(probe, answer) for probe, answer in found.answers],
    }


def table(found: Probed) -> Table:
    """Question, answer, and how it was found."""
    out = Table(box=None, pad_edge=False, show_header=False)
    out.add_column(overflow="fold", ratio=4)
    out.add_column(overflow="fold", ratio=3)
    out.add_column(overflow="fold", ratio=4, style="dim")
    last = ""
    for probe, answer in found.answers:
        if last and probe != last:
            out.add_row("")
        last = probe
        out.add_row(answer.question.text, text(answer), answer.question.how)
    return out


def text(answer: Answer) -> str:
    """An answer in words."""
    if answer.value is None:
        return f"unknown: {printable(answer.unknown)}"
    if isinstance(answer.value, str):
        return printable(answer.value)
    return f"{_number(answer.value)} {answer.question.unit}".rstrip()


def _number(value: float) -> str:
    return f"{value:,}".replace(",", " ")


def words(found: Probed) -> str:
    """What was asked, and what to think of it."""
    unknown = sum(answer.value is None for _, answer in found.answers)
    said = f"{found.name}, driver {found.driver_version}: {len(found.answers)} questions"
    said += f", {unknown} unknown"
    if found.others:
        said += f"; {found.others} other processes had the GPU: times may be theirs, too"
    return f"{said}\n{_SOFTWARE}" if found.software else said
