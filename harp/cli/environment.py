# SPDX-License-Identifier: Apache-2.0
"""The environment that `harp` was started in, and what it adds to its own."""

from __future__ import annotations

import os

__all__ = ["as_given", "prepare"]

#: gRPC has threads of its own; its fork handlers would warn at every child we start
_OWN = {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "NONE"}
_added: set[str] = set()


def prepare() -> None:
    """Before gRPC is used; what the user has set stays."""
    for name, value in _OWN.items():
        if name not in os.environ:
            os.environ[name] = value
            _added.add(name)


def as_given() -> dict[str, str]:
    """For a program of the user's: it may use gRPC itself, and in another way."""
    return {name: value for name, value in os.environ.items() if name not in _added}
