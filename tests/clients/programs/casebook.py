# SPDX-License-Identifier: Apache-2.0
"""Cases of a client that are run in one process, each told apart."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np


class Casebook:
    """Functions of a seeded generator that assert what they see."""

    def __init__(self) -> None:
        self.cases: dict[str, Callable[[np.random.Generator], object]] = {}
        #: names of those that launch nothing
        self.without: set[str] = set()

    def case(self, function: Callable[[np.random.Generator], object]) -> Callable[..., object]:
        """Keeps a case under its function's name."""
        name = function.__name__
        assert name not in self.cases, name
        self.cases[name] = function
        return function

    def host(self, function: Callable[[np.random.Generator], object]) -> Callable[..., object]:
        """Keeps a case that launches no kernel."""
        self.without.add(function.__name__)
        return self.case(function)

    def __or__(self, other: Casebook) -> Casebook:
        both = Casebook()
        assert not self.cases.keys() & other.cases.keys()
        both.cases = self.cases | other.cases
        both.without = self.without | other.without
        return both

    def main(self, watching: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
        """Runs the cases that the command line names, or all; the last line says how each went.

        A case's row is {"error": text or null, "launches": n, "instructions": n}. That a kernel has
        run where one should, and none where none should, is part of the case.

        Args:
            watching: a context whose value has `counts` (counters.Watch) when it was left.
        """
        told: dict[str, dict[str, object]] = {}
        for name in sys.argv[1:] or self.cases:
            error, watch = None, None
            try:
                with watching() as watch:
                    self.cases[name](np.random.default_rng(11))
            except Exception:  # noqa: BLE001 - the next case runs all the same
                error = traceback.format_exc()
                print(f"{name}\n{error}", file=sys.stderr, flush=True)
            counts = watch.counts.values() if watch is not None else ()
            launches = sum(count.launches for count in counts)
            instructions = sum(count.instructions for count in counts)
            if error is None and (launches > 0) == (name in self.without):
                error = f"{launches} launches"
            told[name] = {"error": error, "launches": launches, "instructions": instructions}
        print(json.dumps(told))
