# SPDX-License-Identifier: Apache-2.0
"""The environment that `harp` was started in, and what it adds to its own."""

from __future__ import annotations

import os

from harp.remote.floor import CIPHERS

__all__ = ["as_given", "prepare"]

#: gRPC has threads of its own; its fork handlers would warn at every child we start
_OWN = {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "NONE"}
#: {name: what the user had set, None: nothing}
_given: dict[str, str | None] = {}


def prepare() -> None:
    """Before gRPC is imported; what the user has set stays, but for what TLS must be."""
    _given.clear()
    for name, value in {**_OWN, CIPHERS[0]: CIPHERS[1]}.items():
        if name not in os.environ or name == CIPHERS[0]:
            _given[name] = os.environ.get(name)
            os.environ[name] = value


def as_given() -> dict[str, str]:
    """For a program of the user's: it may use gRPC itself, and in another way."""
    env = {name: value for name, value in os.environ.items() if name not in _given}
    return env | {name: value for name, value in _given.items() if value is not None}
