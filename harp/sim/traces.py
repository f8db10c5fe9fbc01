# SPDX-License-Identifier: Apache-2.0
"""Lists of nodes and pods as CSV files, gzipped or not, in the columns of the public GPU traces.

    nodes   sn or name, cpu_milli, memory_mib, gpu, model
    pods    name or pod, cpu_milli, memory_mib, num_gpu, gpu_milli, gpu_spec

`gpu` is a number of whole GPUs; `model`, `gpu_spec` ("A|B": either) and the names may be missing.
Other columns are not read. Source: alibaba/clusterdata, cluster-trace-gpu-v2023.
"""

from __future__ import annotations

from pathlib import Path

from harp import csvfile
from harp.csvfile import Row
from harp.errors import ConfigError
from harp.scheduler import WHOLE_MILLI, Node, Pod

__all__ = ["read_nodes", "read_pods"]

_MIB = 1 << 20
#: GPUs of one node; the tables of Fragmentation grow with it
_GPUS_MAX = 64


def read_nodes(path: Path) -> list[Node]:
    """The nodes of a file, in its order.

    Raises:
        ConfigError: unreadable, a column is missing, a value is no number or out of range.
    """
    found = []
    for row in csvfile.read(path, ("cpu_milli", "memory_mib", "gpu")):
        gpus = row.integer("gpu")
        if gpus > _GPUS_MAX:
            raise ConfigError(f"{row.where}: gpu is {gpus}", f"0 to {_GPUS_MAX} GPUs a node")
        found.append(
            Node(
                _name(row, "node"),
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
    for row in csvfile.read(path, ("cpu_milli", "memory_mib", "num_gpu", "gpu_milli")):
        name = _name(row, "pod")
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


def _name(row: Row, kind: str) -> str:
    named = (row.text(column) for column in ("name", "sn", "pod"))
    return next(filter(None, named), f"{kind}-{row.line}")
