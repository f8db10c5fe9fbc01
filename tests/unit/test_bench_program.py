# SPDX-License-Identifier: Apache-2.0
"""Programs of the benches: what is said of one that ends, and of one that says nothing."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import cast

import pytest

from harp.bench import program
from harp.bench.machine import Machine
from harp.errors import HarpError


class Bare:
    """As much of a machine as a program needs."""

    def __init__(self) -> None:
        self.env = dict(os.environ)

    def under_harp(self, command: Sequence[str], *options: str) -> list[str]:
        assert not options
        return list(command)


def start(script: str) -> program.Program:
    return program.Program(cast("Machine", Bare()), ["/bin/sh", "-c", script])


def test_what_it_says_is_read_line_by_line() -> None:
    with program.programs() as running:
        running.append(start("read go; echo '{\"a\": 1}'; echo '{\"a\": 2}'"))
        running[0].go()
        assert running[0].read() == {"a": 1}
        assert running[0].finish() == {"a": 2}


def test_one_that_ends_is_named_by_its_status_and_last_words() -> None:
    with program.programs() as running:
        running.append(start("echo no memory >&2; exit 3"))
        with pytest.raises(HarpError, match="a program ended with 3: no memory"):
            running[0].read()


def test_one_that_says_nothing_is_ended_and_said_to_be_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not `ended with -9`, as if somebody else had killed it."""
    monkeypatch.setattr(program, "_LINE_S", 0.2)
    with program.programs() as running:
        running.append(start("exec sleep 60"))
        with pytest.raises(HarpError, match=r"said nothing for 0\.2 s and was ended"):
            running[0].read()
