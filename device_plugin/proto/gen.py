# SPDX-License-Identifier: Apache-2.0
"""Regenerates the stubs beside it: `python -m device_plugin.proto.gen [--check]`.

With the same tools and for the same oldest runtime as harp.api.gen, whose way it follows.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harp.api.gen import Stubs

__all__ = ["STUBS", "main"]

_HERE = Path(__file__).resolve().parent
STUBS = Stubs(root=_HERE.parent.parent, folder=_HERE, command="python -m device_plugin.proto.gen")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if stubs are stale")
    return STUBS.run(check=parser.parse_args().check)


if __name__ == "__main__":
    sys.exit(main())
