# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN001, ANN201, ANN202
"""Trains harp.demo's network beside a ballast; the same arguments need the same memory.

    recurring.py --hidden 32 --mib 60 --steps 3

Says "ready" with everything allocated, waits for a line, trains on, and says the losses.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
from tinygrad import Context, Tensor, TinyJit, nn

from harp.demo.digits import Network, batches, device_name


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hidden", type=int, required=True)
    parser.add_argument("--mib", type=int, required=True)
    parser.add_argument("--steps", type=int, default=3)
    args = parser.parse_args()
    device_name()
    Tensor.manual_seed(1)
    data, network = batches(1), Network(args.hidden)
    optimizer = nn.optim.SGD(nn.state.get_parameters(network), lr=0.05, momentum=0.9)
    ballast = Tensor(np.zeros(args.mib << 18, np.int32)).realize()

    @TinyJit
    def step(x, y):
        with Context(TRAINING=1):
            optimizer.zero_grad()
            loss = network(x).sparse_categorical_crossentropy(y).backward()
            return loss.realize(*optimizer.schedule_step())

    losses = [step(*data[n % len(data)]).item() for n in range(args.steps)]
    print("ready", flush=True)
    sys.stdin.readline()
    losses += [step(*data[n % len(data)]).item() for n in range(args.steps)]
    print(json.dumps({"losses": losses, "ballast": int(ballast[:4].numpy().sum())}), flush=True)


main()
