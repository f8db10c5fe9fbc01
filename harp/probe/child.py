# SPDX-License-Identifier: Apache-2.0
"""`python -m harp.probe.child LIBCUDA WHAT [ARGUMENT]...`: one probe's process.

It says JSON lines (questions.read_said). An error of the driver ends it with status 1 and one line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from harp.probe import calls, frozen, memory
from harp.probe.driver import Library, Refused

__all__ = ["main"]

#: {probe: what it does}; of those that need more than one process: one of these
_WHAT: dict[str, Callable[[Library], None]] = {
    "driver": calls.about,
    "pointers": calls.pointers,
    "events": calls.events,
    "queue": calls.queue,
    "memory": memory.mapping,
    "managed": memory.managed,
    "checkpoint": frozen.checkpoint,
    "tables": calls.tables,
}


def main(arguments: list[str]) -> int:
    """The process; returns its exit status."""
    path, what, *more = arguments
    try:
        library = Library(Path(path))
        if what == "hold":
            frozen.hold(*more)
        elif what == "slices":
            had, away = calls.hold_slices(int(more[0]), float(more[1]))
            sys.stdout.write(json.dumps({"had_us": had, "away_us": away}) + "\n")
        else:
            _WHAT[what](library)
    except Refused as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
