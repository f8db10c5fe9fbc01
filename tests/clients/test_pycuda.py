# SPDX-License-Identifier: Apache-2.0
"""PyCUDA's driver parts on the software GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from clients import Told, all_cases, cases_of

CASES = cases_of("pycuda_run.py")


@pytest.fixture(scope="module")
def told(native_dir: Path) -> Told:
    return all_cases("pycuda", "pycuda_run.py", native_dir)


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, told: Told) -> None:
    told.insist(name)


def test_every_case_is_known(told: Told) -> None:
    assert sorted(told) == sorted(CASES)
