# SPDX-License-Identifier: Apache-2.0
"""`python -m native.gen [--target FILE] [--check]`: write, or compare, the generated files."""

from __future__ import annotations

import argparse
import difflib
import sys

from native.gen.output import NATIVE, Target, render
from native.gen.targets import TARGETS


def _check(target: Target) -> bool:
    path = NATIVE / target.path
    old = path.read_text() if path.exists() else ""
    new = render(target)
    if old == new:
        return True
    diff = difflib.unified_diff(
        old.splitlines(), new.splitlines(), f"{target.path} (checked in)", "generated", lineterm=""
    )
    sys.stdout.write("\n".join(list(diff)[:40]) + "\n")
    return False


def _write(target: Target) -> None:
    path = NATIVE / target.path
    new = render(target)
    if not path.exists() or path.read_text() != new:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(new)
        sys.stderr.write(f"wrote {target.path}\n")


def main() -> int:
    """Exit status: 0 clean or written, 1 something differs, 2 usage."""
    parser = argparse.ArgumentParser(prog="python -m native.gen", description=__doc__)
    parser.add_argument("--target", help="one file, by its name (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing, show differences")
    args = parser.parse_args()
    chosen = [t for t in TARGETS if args.target in (None, t.path, t.path.rsplit("/", 1)[-1])]
    if not chosen:
        names = ", ".join(t.path.rsplit("/", 1)[-1] for t in TARGETS)
        sys.stderr.write(f"no such target: {args.target} (one of {names})\n")
        return 2
    if args.check:
        clean = [_check(t) for t in chosen]
        return 0 if all(clean) else 1
    for target in chosen:
        _write(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
