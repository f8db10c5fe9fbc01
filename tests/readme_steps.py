# SPDX-License-Identifier: Apache-2.0
"""What a README says is typed and what comes then, for the tests that type it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Step", "agrees", "steps"]

#: of a number that the README writes with a ~
TOLERANCE = 0.2


@dataclass(frozen=True)
class Step:
    """A command and what it is to say."""

    command: str
    expected: tuple[str, ...]


def steps(readme: Path) -> Iterator[Step]:
    """Of its block of expected output."""
    block = readme.read_text().partition("```console\n")[2].partition("```")[0]
    assert block, f"{readme} has no block of expected output"
    for part in block.strip().split("$ ")[1:]:
        command, *expected = part.strip().splitlines()
        yield Step(command, tuple(expected))


def agrees(said: str, expected: str) -> bool:
    """Whether a line is as expected: `...` is anything, `~30` a number within a fifth."""
    pattern = ""
    numbers = []
    for part in re.split(r"(\.\.\.|~\d+)", expected):
        if part == "...":
            pattern += ".*"
        elif part.startswith("~"):
            pattern += r"(\d+)"
            numbers.append(int(part[1:]))
        else:
            pattern += re.escape(part)
    found = re.fullmatch(pattern, said)
    return found is not None and all(
        abs(int(is_) - wanted) <= TOLERANCE * wanted
        for is_, wanted in zip(found.groups(), numbers, strict=True)
    )
