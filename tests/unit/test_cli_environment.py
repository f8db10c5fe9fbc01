# SPDX-License-Identifier: Apache-2.0
"""What `harp` sets for itself does not reach the program that it runs."""

from __future__ import annotations

import os

import pytest

from harp.cli import environment

FORKS, VERBOSITY = "GRPC_ENABLE_FORK_SUPPORT", "GRPC_VERBOSITY"


def test_a_program_gets_the_environment_that_harp_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(environment, "_added", set())
    monkeypatch.setattr(os, "environ", {"A": "1", VERBOSITY: "DEBUG"})
    environment.prepare()
    assert os.environ == {"A": "1", VERBOSITY: "DEBUG", FORKS: "0"}
    assert environment.as_given() == {"A": "1", VERBOSITY: "DEBUG"}
