# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN001, ANN201
"""Fits a line by gradient descent beside a ballast; the same arguments need the same memory.

    recurring.py --features 32 --mib 60 --steps 3

Says "ready" with everything allocated, waits for a line, goes on, and says the losses. Small on
purpose: tinygrad's own work before a kernel runs is most of its time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

import numpy as np
from tinygrad import Device, Tensor

SAMPLES, RATE = 64, 0.1


def step(x, y, w):
    """One step; the new weights and the loss before it."""
    off = (x @ w - y).realize()
    loss = (off * off).mean().item()
    return (w - (x.T @ off) * (RATE / SAMPLES)).realize(), loss


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--features", type=int, required=True)
    parser.add_argument("--mib", type=int, required=True)
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    name = type(Device[Device.DEFAULT].renderer).__name__
    if os.environ.get("DEV") == "CUDA:PTX" and name != "PTXRenderer":
        sys.exit(f"tinygrad chose {Device.DEFAULT}:{name}")
    draw = np.random.default_rng(1)
    values = draw.standard_normal((SAMPLES, args.features)).astype(np.float32)
    x, y = Tensor(values).realize(), Tensor(values.sum(axis=1, keepdims=True)).realize()
    w = Tensor(np.zeros((args.features, 1), np.float32)).realize()
    ballast = Tensor(np.zeros(args.mib << 18, np.int32)).realize()
    losses = []
    for part in range(2):
        for _ in range(args.steps):
            w, loss = step(x, y, w)
            losses.append(loss)
        if part == 0:
            print("ready", flush=True)
            sys.stdin.readline()
    print(json.dumps({"losses": losses, "ballast": int(ballast[:4].numpy().sum())}), flush=True)


main()
