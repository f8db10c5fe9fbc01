# SPDX-License-Identifier: Apache-2.0
"""The suite on a GPU behind a harp-worker, each case with a session of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import suite
from soft_mod_driver import CASES

from tests.integration.remote_world import Serving, serving

pytestmark = pytest.mark.slow  # minutes in all

#: of one worker's, for the program's own environment to be without a GPU
_WORKERS = ("HARP_SOFT_DIR", "HARP_SOFT_DEVICES")


@pytest.fixture
def served(native_dir: Path, soft_dir: Path, soft_env: dict[str, str]) -> Iterator[Serving]:
    with serving(native_dir, soft_dir, {**soft_env, "HARP_SOFT_VERBOSE": "1"}) as found:
        yield found


def run(area: str, name: str, served: Serving) -> None:
    one = CASES[area, name]
    served.env |= {"HARP_SOFT_DEVICES": one.devices} if one.devices else {}
    served.env |= one.env
    env = {k: v for k, v in served.env.items() if k not in _WORKERS}
    suite.run(area, name, served.client_env(env))
    served.settle()


@pytest.mark.parametrize(("backend", "area", "name"), suite.params("remote"))
def test_case_elsewhere(backend: str, area: str, name: str, served: Serving) -> None:
    assert backend == "remote"
    run(area, name, served)


def test_waivers_name_cases() -> None:
    names = {f"{one.area}.{one.name}" for one in suite.cases()}
    assert set(suite.remote_waivers.WAIVED) <= names
