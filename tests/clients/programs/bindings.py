# SPDX-License-Identifier: Apache-2.0
"""cuda-python (cuda.bindings.driver) against the driver: `bindings.py CASE`.

Each case asserts what it sees; kernels must have been executed to the last thread.
"""

from __future__ import annotations

import json
import sys

import bindings_memory
import bindings_modules
import bindings_streams

CASES = {
    name[5:]: value
    for module in (bindings_memory, bindings_streams, bindings_modules)
    for name, value in vars(module).items()
    if name.startswith("case_")
}

if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        print(json.dumps(list(CASES)))
    else:
        CASES[sys.argv[1]]()
        print(json.dumps("ok"))
