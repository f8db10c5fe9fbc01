# SPDX-License-Identifier: Apache-2.0
"""cuda-python on the software GPU: one process a case, assertions in programs/bindings*.py."""

from __future__ import annotations

import pytest
from client_process import Client

CASES = (
    "context",
    "memory",
    "host_memory",
    "streams",
    "events",
    "host_function",
    "graph_explicit",
    "graph_captured",
    "launch",
    "skipped_kernel",
    "launch_extra",
    "module",
    "jit_log",
    "faults",
    "trap",
)


@pytest.mark.parametrize("case", CASES)
def test_case(client: Client, case: str) -> None:
    assert client("bindings.py", case) == "ok"


def test_no_case_is_left_out(client: Client) -> None:
    assert client("bindings.py", "--list") == list(CASES)
