#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""How much of a GPU's time a program gets that wants all of it: gpu_time.py [SECONDS].

Kernels of a known length, one after the other without a pause; what ended is counted. The first two
seconds are not: who has had nothing yet may have more at first.
"""

from __future__ import annotations

import json
import subprocess
import sys

KERNEL_US = 500
SETTLE_S = 2


def main() -> None:
    """Command line."""
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    options = ["--mode", "saturate", "--kernel-us", str(KERNEL_US), "--seconds", str(seconds)]
    done = subprocess.run(
        ["harp-bench-busy", *options], stdout=subprocess.PIPE, text=True, check=True
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    counts = [(row["t_ns"], row["iterations"]) for row in rows if "iterations" in row]
    begin_ns = counts[0][0] + SETTLE_S * 10**9
    counts = [one for one in counts if one[0] >= begin_ns]
    took_us = (counts[-1][0] - counts[0][0]) / 1000
    work_us = (counts[-1][1] - counts[0][1]) * KERNEL_US
    print(f"had {100 * work_us / took_us:.0f} % of the GPU's time", flush=True)  # noqa: T201


main()
