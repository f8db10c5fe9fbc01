# SPDX-License-Identifier: Apache-2.0
"""What a driver-API client sees, area by area, each case in its own process, on each backend."""

from __future__ import annotations

import pytest
import suite
import table
from local_backend import Locals
from soft_mod_driver import CASES, Case, Driver, case


@pytest.mark.parametrize(("backend", "area", "name"), suite.params("soft", "local"))
def test_case(backend: str, area: str, name: str, request: pytest.FixtureRequest) -> None:
    if backend == "soft":
        env: dict[str, str] = request.getfixturevalue("soft_env")
        suite.run(area, name, {**env, "HARP_SOFT_VERBOSE": "1"})
        return
    local: Locals = request.getfixturevalue("local")
    with local.on(CASES[area, name].devices).tenant() as env:
        suite.run(area, name, {**env, "HARP_SOFT_VERBOSE": "1"})


def test_waivers_are_needed(local: Locals) -> None:
    for one in suite.cases():
        if suite.standing(one, "local").kind == suite.WAIVED:
            with local.on(one.devices).tenant() as env, pytest.raises(AssertionError):
                suite.run(one.area, one.name, env)


def test_what_does_not_run_says_why() -> None:
    waived = Case("area", "name", print, (), "", {"local": "the ledger knows no such memory"})
    assert suite.standing(waived, "soft").kind == suite.RUNS
    assert suite.standing(waived, "local") == suite.Standing(
        suite.WAIVED, "the ledger knows no such memory"
    )
    elsewhere = Case("area", "name", print, ("soft",), "a reason", {})
    assert suite.standing(elsewhere, "local") == suite.Standing(suite.ELSEWHERE, "a reason")
    assert suite.standing(elsewhere, "remote").kind == suite.ELSEWHERE
    for wrong in ({"only": "soft"}, {"why": "because"}, {"waived": {"local": ""}}):
        with pytest.raises(AssertionError):
            case(**wrong)(print_nothing)  # type: ignore[call-overload]
    assert not [one for one in CASES.values() if one.name == "print_nothing"]


def print_nothing(_d: Driver) -> None:
    """A case nobody registered."""


def test_table_follows_the_cases() -> None:
    stated = table.MARKS.search(table.PAGE.read_text())
    assert stated is not None
    assert stated[0] == f"{stated[1]}{table.table()}{stated[2]}"
