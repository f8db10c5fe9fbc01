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
from pathlib import Path

__all__ = ["FLOOR", "generate", "main", "stale"]

#: grpcio-tools that makes the stubs, and so the oldest grpcio they run with.
FLOOR = "1.71.2"

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parent.parent
_PROTOS = tuple(sorted(p.relative_to(_ROOT) for p in (_HERE / "v1").glob("*.proto")))
_SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def generate(target: Path) -> list[Path]:
    """Write the stubs of all protos under `target`; returns their paths relative to it."""
    tools = Path(sys.executable).parent
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
            *(str(p) for p in _PROTOS),
        ],
        cwd=_ROOT,
        check=True,
    )
    return [p.with_name(p.stem + suffix) for p in _PROTOS for suffix in _SUFFIXES]


def stale() -> list[Path]:
    """Stubs in the tree that differ from what the protos say."""
    with tempfile.TemporaryDirectory(prefix="harp-gen-") as folder:
        made = generate(Path(folder))
        return [
            path
            for path in made
            if not (_ROOT / path).exists()
            or not filecmp.cmp(_ROOT / path, Path(folder) / path, shallow=False)
        ]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if stubs are stale")
    options = parser.parse_args()
    found = importlib.metadata.version("grpcio-tools")
    if found != FLOOR:
        sys.stderr.write(
            f"grpcio-tools is {found}, the stubs are made with {FLOOR}; "
            f"remedy: pip install grpcio-tools=={FLOOR} mypy-protobuf==3.6.0\n"
        )
        return 2
    if options.check:
        old = stale()
        for path in old:
            sys.stderr.write(f"{path} is stale; remedy: python -m harp.api.gen\n")
        return 1 if old else 0
    generate(_ROOT)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
