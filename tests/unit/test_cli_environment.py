# SPDX-License-Identifier: Apache-2.0
"""What `harp` sets for itself does not reach the program that it runs."""

from __future__ import annotations

import os

import pytest

from harp.cli import environment
from harp.remote.floor import CIPHERS

FORKS, VERBOSITY = "GRPC_ENABLE_FORK_SUPPORT", "GRPC_VERBOSITY"


@pytest.mark.parametrize("given", [{}, {CIPHERS[0]: "the user's"}])
def test_a_program_gets_the_environment_that_harp_was_given(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str]
) -> None:
    monkeypatch.setattr(environment, "_given", {})
    monkeypatch.setattr(os, "environ", {"A": "1", VERBOSITY: "DEBUG", **given})
    environment.prepare()
    assert os.environ == {"A": "1", VERBOSITY: "DEBUG", FORKS: "0", CIPHERS[0]: CIPHERS[1]}
    assert environment.as_given() == {"A": "1", VERBOSITY: "DEBUG", **given}
