# SPDX-License-Identifier: Apache-2.0
"""The suite with every call through the body codec: what rows say of parameters is so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import suite
import wire_loop

pytestmark = pytest.mark.slow  # 90 s in all


@pytest.fixture(scope="session")
def loop_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cc = shutil.which("gcc") or shutil.which("cc")
    if cc is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("wire_loop")
    wire_loop.build(cc, folder)
    (folder / "log").touch()
    return folder


@pytest.fixture
def loop_env(loop_dir: Path, native_dir: Path, soft_env: dict[str, str]) -> dict[str, str]:
    return {
        **soft_env,
        "LD_LIBRARY_PATH": f"{loop_dir}:{soft_env['LD_LIBRARY_PATH']}",
        "HARP_WIRE_LOOP_REAL": str(native_dir / "soft" / "libcuda.so.1"),
        "HARP_WIRE_LOOP_LOG": str(loop_dir / "log"),
        "HARP_SOFT_VERBOSE": "1",
    }


@pytest.mark.parametrize(("backend", "area", "name"), suite.params("soft"))
def test_case_through_the_codec(
    backend: str, area: str, name: str, loop_env: dict[str, str]
) -> None:
    assert backend == "soft"
    suite.run(area, name, loop_env)
