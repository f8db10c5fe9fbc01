# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN001, ANN201, ANN202
"""Trains harp.demo's network beside a large ballast, which is worked on all the time.

    large.py --mib 24 --seed 1 --steps 100

Says "ready" and begins when a line comes. Prints one JSON object: losses, and how many words of the
ballast were not as they must be. Stays, holding it all, until its input ends.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

import numpy as np
from tinygrad import Context, Device, Tensor, TinyJit, nn

from harp.demo.digits import Network, batches, device_name

PIECE_MIB = 4
EVERY = 5  #: steps between two looks at the loss, each with work on a piece


def pieces(mib):
    """int32 tensors that make up the ballast; each word is the piece's number."""
    words = PIECE_MIB * (1 << 20) // 4
    return [Tensor(np.full(words, n, np.int32)).realize() for n in range(mib // PIECE_MIB)]


def train(seed, steps, mib):
    Tensor.manual_seed(seed)
    data, network = batches(seed), Network(128)
    optimizer = nn.optim.SGD(nn.state.get_parameters(network), lr=0.05, momentum=0.9)
    ballast = pieces(mib)
    counts = [0] * len(ballast)

    @TinyJit
    def step(x, y):
        with Context(TRAINING=1):
            optimizer.zero_grad()
            loss = network(x).sparse_categorical_crossentropy(y).backward()
            return loss.realize(*optimizer.schedule_step())

    losses = []
    for done in range(steps):
        loss = step(*data[done % len(data)])
        if done % EVERY == 0:
            losses.append(loss.item())
            at = len(losses) % len(ballast)
            # A part of it: the software GPU's threads are a CPU's.
            part = slice(0, 1 << 16)
            ballast[at][part].assign(ballast[at][part] + 1).realize()
            counts[at] += 1
    wrong = 0
    for n, piece in enumerate(ballast):
        expected = np.full(PIECE_MIB * (1 << 20) // 4, n, np.int32)
        expected[: 1 << 16] += counts[n]
        wrong += int((piece.numpy() != expected).sum())
    return {"losses": losses, "wrong": wrong, "changed": sum(counts)}, (network, ballast)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mib", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, required=True)
    args = parser.parse_args()
    device_name()
    Tensor.ones(4).contiguous().realize()
    print("ready", flush=True)
    sys.stdin.readline()
    begun_s = time.monotonic()
    said, held = train(args.seed, args.steps, args.mib)
    said |= {"begun_s": begun_s, "ended_s": time.monotonic(), "pid": os.getpid()}
    print(json.dumps(said), flush=True)
    sys.stdin.read()
    del held
    Device[Device.DEFAULT].synchronize()


if __name__ == "__main__":
    main()
