# SPDX-License-Identifier: Apache-2.0
"""NVIDIA's own libcudart on the driver found: what cudaGetDeviceCount says."""

from __future__ import annotations

import ctypes
import json
from importlib.util import find_spec
from pathlib import Path

spec = find_spec("nvidia")
assert spec is not None
assert spec.submodule_search_locations is not None
found = sorted(
    path for root in spec.submodule_search_locations for path in Path(root).rglob("libcudart.so.*")
)
cudart = ctypes.CDLL(str(found[0]))
cudart.cudaGetErrorName.restype = ctypes.c_char_p
count = ctypes.c_int(-1)
status = cudart.cudaGetDeviceCount(ctypes.byref(count))
print(json.dumps({"status": status, "name": cudart.cudaGetErrorName(status).decode()}))
