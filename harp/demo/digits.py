# SPDX-License-Identifier: Apache-2.0
"""Trains a small network on scikit-learn's digits with tinygrad; knows nothing of HARP.

Runs on whatever device the environment names (DEV=CUDA:PTX, DEV=CPU, ...) and prints one JSON
object a line: `start`, `step` (every --every steps), `end`. The same seed gives the same losses on
every device, up to rounding. Stops after --steps, or at the end of a step after SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from tinygrad import Context, Device, Tensor, TinyJit, nn

#: 1797 samples, of which seven batches of 256 are used; a batch is one step.
BATCH = 256


def say(event: str, **fields: object) -> None:
    """Prints one line of progress."""
    print(json.dumps({"event": event, "time_s": round(time.monotonic(), 6), **fields}), flush=True)


class Network:
    """64 pixels, two hidden layers, 10 digits."""

    def __init__(self, hidden: int) -> None:
        self.layers = [nn.Linear(64, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 10)]

    def __call__(self, x: Any) -> Any:
        """Logits (n, 10) of pixels (n, 64)."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


def batches(seed: int) -> list[tuple[Any, Any]]:
    """The data, shuffled by the seed, on the device: [(x (256, 64) f32, y (256,) i32)]."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.data))
    x = (digits.data[order] / 16).astype(np.float32)
    y = digits.target[order].astype(np.int32)
    return [
        (Tensor(x[i : i + BATCH]).realize(), Tensor(y[i : i + BATCH]).realize())
        for i in range(0, len(x) - BATCH + 1, BATCH)
    ]


def device_name() -> str:
    """Device and code generator in use; refuses to run anywhere else than asked."""
    asked = os.environ.get("DEV", "")
    name = f"{Device.DEFAULT}:{type(Device[Device.DEFAULT].renderer).__name__}"
    if asked == "CUDA:PTX" and name != "CUDA:PTXRenderer":
        sys.exit(f"DEV={asked} was asked for, tinygrad chose {name}")
    return name


def train(*, seed: int, steps: int, hidden: int, every: int) -> None:
    """Trains and prints; `steps` 0 means until SIGTERM."""
    stop = False

    def on_term(_signal: int, _frame: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGTERM, on_term)
    Tensor.manual_seed(seed)
    say("start", pid=os.getpid(), device=device_name(), seed=seed, hidden=hidden)
    data = batches(seed)
    network = Network(hidden)
    optimizer = nn.optim.SGD(nn.state.get_parameters(network), lr=0.05, momentum=0.9)

    def one_step(x: Any, y: Any) -> Any:
        with Context(TRAINING=1):
            optimizer.zero_grad()
            loss = network(x).sparse_categorical_crossentropy(y).backward()
            return loss.realize(*optimizer.schedule_step())

    step = TinyJit(one_step)

    first = last = float("nan")
    done = 0
    while not stop and (steps == 0 or done < steps):
        # Several steps are queued between two reads, so that the device always has work.
        for _ in range(every if done else 1):
            loss = step(*data[done % len(data)])
            done += 1
        last = loss.item()
        first = last if done == 1 else first
        say("step", step=done, loss=last)
    say("end", steps=done, loss_first=first, loss_last=last)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=0, help="0: until SIGTERM")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--every", type=int, default=50, help="steps between two printed losses")
    args = parser.parse_args()
    train(seed=args.seed, steps=args.steps, hidden=args.hidden, every=args.every)


if __name__ == "__main__":
    main()
