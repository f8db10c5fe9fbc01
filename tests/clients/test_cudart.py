# SPDX-License-Identifier: Apache-2.0
"""A program of the runtime API is refused, and told why: private tables are not for us to fake."""

from __future__ import annotations

from pathlib import Path

from client_process import Client


def test_runtime_api_is_refused_and_told_why(client: Client, tmp_path: Path) -> None:
    log = tmp_path / "verbose"
    told = client("runtime_api.py", HARP_SOFT_VERBOSE=str(log))
    assert told["status"] != 0
    assert told["name"] != "cudaSuccess"
    lines = log.read_text().splitlines()
    why = [line for line in lines if "CUDA runtime" in line and "driver-API program" in line]
    assert len(why) == 1, lines
    assert len(lines) <= 3, lines  # it is not buried


def test_it_is_refused_without_the_switch_too(client: Client) -> None:
    assert client("runtime_api.py")["status"] != 0
