# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the client tests."""

from __future__ import annotations

from typing import Any

import pytest
from client_process import Client, run_program


@pytest.fixture
def client(soft_env: dict[str, str]) -> Client:
    """Runs a program of programs/ on the bare software GPU; returns what it printed last."""

    def run(name: str, *args: str, **env: str) -> Any:
        return run_program({**soft_env, **env}, name, *args)

    return run
