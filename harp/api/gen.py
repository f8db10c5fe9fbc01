# SPDX-License-Identifier: Apache-2.0
"""Regenerates the stubs of api/v1: `python -m harp.api.gen [--check]`.

The stubs are checked in, so users need no grpcio-tools. They are made with the oldest release that
HARP supports (`FLOOR`): generated code refuses a runtime older than itself and takes newer ones.
"""

from __future__ import annotations

import argparse
import filecmp
import importlib.metadata
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["FLOOR", "STUBS", "Stubs", "main"]

#: grpcio-tools that makes the stubs, and so the oldest grpcio they run with.
FLOOR = "1.71.2"

_HERE = Path(__file__).resolve().parent
_SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


@dataclass(frozen=True, slots=True)
class Stubs:
    """The stubs of one folder of protos."""

    root: Path  #: imports begin here
    folder: Path
    command: str  #: remakes them

    def generate(self, target: Path) -> list[Path]:
        """Write the stubs of all protos under `target`; returns their paths relative to it."""
        tools = Path(sys.executable).parent
        protos = sorted(p.relative_to(self.root) for p in self.folder.glob("*.proto"))
        subprocess.run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                "-I.",
                f"--plugin=protoc-gen-mypy={tools / 'protoc-gen-mypy'}",
                f"--plugin=protoc-gen-mypy_grpc={tools / 'protoc-gen-mypy_grpc'}",
                f"--python_out={target}",
                f"--mypy_out=quiet:{target}",
                f"--grpc_python_out={target}",
                f"--mypy_grpc_out=quiet:{target}",
                *(str(p) for p in protos),
            ],
            cwd=self.root,
            check=True,
        )
        return [p.with_name(p.stem + suffix) for p in protos for suffix in _SUFFIXES]

    def stale(self) -> list[Path]:
        """Stubs in the tree that differ from what the protos say."""
        with tempfile.TemporaryDirectory(prefix="harp-gen-") as folder:
            made = self.generate(Path(folder))
            return [
                path
                for path in made
                if not (self.root / path).exists()
                or not filecmp.cmp(self.root / path, Path(folder) / path, shallow=False)
            ]

    def run(self, *, check: bool) -> int:
        """Make them, or compare; returns the exit status."""
        found = importlib.metadata.version("grpcio-tools")
        if found != FLOOR:
            sys.stderr.write(
                f"grpcio-tools is {found}, the stubs are made with {FLOOR}; "
                f"remedy: pip install grpcio-tools=={FLOOR} mypy-protobuf==3.6.0\n"
            )
            return 2
        if check:
            old = self.stale()
            for path in old:
                sys.stderr.write(f"{path} is stale; remedy: {self.command}\n")
            return 1 if old else 0
        self.generate(self.root)
        return 0


STUBS = Stubs(root=_HERE.parent.parent, folder=_HERE / "v1", command="python -m harp.api.gen")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if stubs are stale")
    return STUBS.run(check=parser.parse_args().check)


if __name__ == "__main__":
    raise SystemExit(main())
