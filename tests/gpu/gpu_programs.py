# SPDX-License-Identifier: Apache-2.0
"""Programs on libcudart, as users have them: `gpu_programs.py WHAT`; JSON lines."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

#: of nvcc: adds on the device and says what the runtime thinks of its memory
SOURCE = r"""
#include <cstdio>
__global__ void add(const float *a, const float *b, float *c, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) c[i] = a[i] + b[i];
}
int main()
{
    const int n = 1 << 20;
    float *a, *b, *c;
    size_t free_bytes = 0, total = 0;
    cudaMallocManaged(&a, n * 4); cudaMallocManaged(&b, n * 4); cudaMalloc(&c, n * 4);
    for (int i = 0; i < n; i++) { a[i] = i; b[i] = 2 * i; }
    add<<<n / 256, 256>>>(a, b, c, n);
    cudaMemcpy(a, c, n * 4, cudaMemcpyDefault);
    int wrong = 0;
    for (int i = 0; i < n; i++) wrong += a[i] != 3.0f * i;
    cudaMemGetInfo(&free_bytes, &total);
    float *more;
    cudaError_t first = cudaMalloc(&more, 512ull << 20), second = cudaMalloc(&more, 64ull << 30);
    std::printf("{\"wrong\": %d, \"error\": %d, \"total\": %zu, \"fits\": %d, \"too_much\": %d}\n",
                wrong, (int)cudaPeekAtLastError(), total, (int)first, (int)second);
}
"""


def say(**fact: object) -> None:
    """A JSON line."""
    print(json.dumps(fact), flush=True)


def _network(torch: Any, width: int, batch: int) -> tuple[Any, Any, Any, Any]:
    torch.manual_seed(7)
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    model = torch.nn.Sequential(
        torch.nn.Linear(1024, width), torch.nn.ReLU(), torch.nn.Linear(width, 1024)
    ).cuda()
    x = torch.randn(batch, 1024, device="cuda")
    y = torch.randn(batch, 1024, device="cuda")
    return model, torch.optim.SGD(model.parameters(), lr=0.01), x, y


def train() -> None:
    """A small training: losses and the weights' digest; what torch sees; its error past a limit."""
    import torch

    model, optimizer, x, y = _network(torch, 2048, 512)
    for step in range(50):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            say(step=step, loss=loss.item())
    weights = b"".join(p.detach().cpu().numpy().tobytes() for p in model.parameters())
    say(sha256=hashlib.sha256(weights).hexdigest())


def limits() -> None:
    """What torch and CuPy see of the device, and how they are told that it is full."""
    import cupy
    import torch

    free, total = torch.cuda.mem_get_info()
    say(torch_total=total, torch_free=free, cupy_total=cupy.cuda.runtime.memGetInfo()[1])
    try:
        torch.empty(6 << 30, dtype=torch.uint8, device="cuda")
        error = ""
    except torch.cuda.OutOfMemoryError as caught:
        error = type(caught).__name__
    say(torch_error=error)
    try:
        cupy.cuda.runtime.malloc(6 << 30)
        error = ""
    except cupy.cuda.runtime.CUDARuntimeError as caught:
        error = str(caught)
    say(cupy_error=error)
    sums = [
        float(cupy.arange(1 << 20, dtype=cupy.float64).sum()),
        float(torch.ones(1 << 20).cuda().sum()),
    ]
    say(sums=sums)


def steps() -> None:
    """Trains until it is killed: how many steps are done, ten times a second.

    Steps of some ms, so that the device is the bottleneck and not the host: only then is there
    anything to divide.
    """
    import torch

    model, optimizer, x, y = _network(torch, 16384, 4096)
    done, told_s = 0, 0.0
    while True:
        for _ in range(10):
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
        torch.cuda.synchronize()
        done += 10
        if (now_s := time.monotonic()) - told_s > 0.1:
            say(t=now_s, done=done)
            told_s = now_s


def graph() -> None:
    """A captured graph of torch's, replayed."""
    import torch

    x = torch.zeros(1 << 20, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            x.add_(1.0)
    torch.cuda.current_stream().wait_stream(stream)
    x.zero_()
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        y = x * 2 + 1
        x.add_(1.0)
    for _ in range(10):
        captured.replay()
    torch.cuda.synchronize()
    say(x=float(x[0]), y=float(y[-1]))


def source(path: str) -> None:
    """Writes the program for nvcc."""
    Path(path).write_text(SOURCE)


if __name__ == "__main__":
    {f.__name__: f for f in (train, limits, steps, graph, source)}[sys.argv[1]](*sys.argv[2:])
