# SPDX-License-Identifier: Apache-2.0
"""numba-cuda without nvJitLink: kernels in Python, linked by the driver, against NumPy."""

from __future__ import annotations

from pathlib import Path

import pytest
from clients import Told, all_cases, cases_of

CASES = cases_of("numba_cases.py", "numba_values.py", "numba_host.py")


@pytest.fixture(scope="module")
def told(native_dir: Path) -> Told:
    return all_cases("numba_cuda", "numba_run.py", native_dir)


@pytest.mark.timeout(700)
@pytest.mark.parametrize("name", CASES)
def test_case(name: str, told: Told) -> None:
    told.insist(name)


def test_every_case_is_known(told: Told) -> None:
    assert sorted(told) == sorted(CASES)
