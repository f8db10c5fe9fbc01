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
    lines = [line for line in log.read_text().splitlines() if "cuGetExportTable" in line]
    assert len(lines) == 1, log.read_text()
    assert "cudart" in lines[0] or "runtime API" in lines[0]


def test_it_is_refused_without_the_switch_too(client: Client) -> None:
    assert client("runtime_api.py")["status"] != 0
