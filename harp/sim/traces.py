# SPDX-License-Identifier: Apache-2.0
"""Lists of nodes and pods as CSV files, gzipped or not, in the columns of the public GPU traces.

    nodes   sn or name, cpu_milli, memory_mib, gpu, model
    pods    name or pod, cpu_milli, memory_mib, num_gpu, gpu_milli, gpu_spec

`gpu` is a number of whole GPUs; `model`, `gpu_spec` ("A|B": either) and the names may be missing.
Other columns are not read. Source: alibaba/clusterdata, cluster-trace-gpu-v2023.
"""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harp.errors import ConfigError
from harp.scheduler import WHOLE_MILLI, Node, Pod

__all__ = ["read_nodes", "read_pods"]

_MIB = 1 << 20
_GZIP = b"\x1f\x8b"
#: GPUs of one node; the tables of Fragmentation grow with it
_GPUS_MAX = 64


def read_nodes(path: Path) -> list[Node]:
    """The nodes of a file, in its order.

    Raises:
        ConfigError: unreadable, a column is missing, a value is no number or out of range.
    """
    found = []
    for row in _rows(path, ("cpu_milli", "memory_mib", "gpu")):
        gpus = row.integer("gpu")
        if gpus > _GPUS_MAX:
            raise ConfigError(f"{row.where}: gpu is {gpus}", f"0 to {_GPUS_MAX} GPUs a node")
        found.append(
            Node(
                row.name("node"),
                row.integer("cpu_milli"),
                row.integer("memory_mib") * _MIB,
                (WHOLE_MILLI,) * gpus,
                row.text("model"),
            )
        )
    return found


def read_pods(path: Path) -> list[Pod]:
    """The pods of a file, in its order.

    Raises:
        ConfigError: as read_nodes(), or a name is there twice.
    """
    found: dict[str, Pod] = {}
    for row in _rows(path, ("cpu_milli", "memory_mib", "num_gpu", "gpu_milli")):
        name = row.name("pod")
        if name in found:
            raise ConfigError(f"{row.where}: pod {name} is there twice", "give each its own name")
        found[name] = Pod(
            name,
            row.integer("cpu_milli"),
            row.integer("memory_mib") * _MIB,
            row.integer("num_gpu"),
            row.integer("gpu_milli"),
            tuple(model for model in row.text("gpu_spec").split("|") if model),
        )
    return list(found.values())


class _Row:
    """One line, and where it is."""

    def __init__(self, path: Path, line: int, values: Mapping[str, str | None]) -> None:
        self.where = f"{path}, line {line}"
        self._line = line
        self._values = values

    def text(self, column: str) -> str:
        return (self._values.get(column) or "").strip()

    def name(self, kind: str) -> str:
        named = (self.text(column) for column in ("name", "sn", "pod"))
        return next(filter(None, named), f"{kind}-{self._line}")

    def integer(self, column: str) -> int:
        text = self.text(column)
        if not text.isdecimal() or not text.isascii():
            raise ConfigError(f"{self.where}: {column} is {text!r}", "a whole number, 0 or more")
        return int(text)


def _rows(path: Path, needed: Sequence[str]) -> Iterator[_Row]:
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw.startswith(_GZIP) else raw).decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}", "a CSV file, gzipped or not") from error
    reader = csv.DictReader(text.splitlines())
    has = reader.fieldnames or []
    if lacking := [column for column in needed if column not in has]:
        raise ConfigError(
            f"{path} has no column {lacking[0]}; it has {', '.join(has) or 'none'}",
            f"it needs {', '.join(needed)}",
        )
    for values in reader:
        yield _Row(path, reader.line_num, values)
