# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN001, ANN002, ANN003, ANN202
"""tinygrad's operations, on the device that DEV names; results go to an .npz file.

    tiny.py OUT.npz [CASE...]        TINY_CASES=MODULE: of that module, else of tiny_cases

On DEV=CUDA:PTX every launch is counted where tinygrad makes it (plain and as a graph node) and
compared, per case, with what the software GPU says it executed. The last line is
{"device": ..., "cases": {name: {"launches": n, "instructions": n, "kernels": [name...]}}}. No
kernel has an atomic operation in it: each adds in one order, and equal bits may be asked for.
"""

from __future__ import annotations

import json
import os
import re
import sys
from importlib import import_module
from math import prod

import numpy as np
from counters import Watch
from tinygrad import Device, Tensor

CASES = import_module(os.environ.get("TINY_CASES", "tiny_cases")).CASES
GPU = os.environ["DEV"].startswith("CUDA")
#: the watch of the case that runs
watching: list[Watch] = []


def count_launches() -> None:
    """Has tinygrad tell `watch` of each kernel it gives to the driver."""
    from tinygrad.runtime.graph.cuda import CUDAGraph
    from tinygrad.runtime.ops_cuda import CUDAProgram

    plain, graph = CUDAProgram.__call__, CUDAGraph.__call__

    def program_call(self, *args, global_size=(1, 1, 1), local_size=(1, 1, 1), **more):
        assert not re.search(r"\b(atom|red)\.", self.lib.decode()), self.name
        if watching:
            watching[-1].launched(self.name, prod(global_size), prod(local_size))
        return plain(self, *args, global_size=global_size, local_size=local_size, **more)

    def graph_call(self, *args, **more):
        result = graph(self, *args, **more)
        for (_node, params, _keep, is_copy), runtime in zip(self.nodes, self.runtimes, strict=True):
            if watching and not is_copy:
                grid = params.gridDimX * params.gridDimY * params.gridDimZ
                block = params.blockDimX * params.blockDimY * params.blockDimZ
                watching[-1].launched(runtime.name, grid, block)
        return result

    CUDAProgram.__call__, CUDAGraph.__call__ = program_call, graph_call


def main() -> None:
    out, only = sys.argv[1], sys.argv[2:]
    device = Device[Device.DEFAULT]
    name = f"{Device.DEFAULT}:{type(device.renderer).__name__}"
    if GPU:
        assert name == "CUDA:PTXRenderer", name
        count_launches()
    results: dict[str, np.ndarray] = {}
    told: dict[str, object] = {}
    for case, (function, _tolerance) in CASES.items():
        if only and case not in only:
            continue
        Tensor.manual_seed(7)
        rng = np.random.default_rng(11)
        if GPU:
            with Watch(device.synchronize) as watch:
                watching.append(watch)
                outputs = [t.numpy() for t in function(rng)]
            watching.clear()
            told[case] = {
                "launches": sum(count.launches for count in watch.counts.values()),
                "instructions": sum(count.instructions for count in watch.counts.values()),
                "kernels": sorted(watch.asked),
            }
        else:
            outputs = [t.numpy() for t in function(rng)]
        results.update({f"{case}/{i}": value for i, value in enumerate(outputs)})
        print(f"{case} {told.get(case, '')}", file=sys.stderr, flush=True)
    np.savez(out, **results)
    print(json.dumps({"device": name, "cases": told}))


main()
