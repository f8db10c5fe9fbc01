# SPDX-License-Identifier: Apache-2.0
"""Every result code of the rows has its name and a text; no other number has either."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

ROWS = Path(__file__).resolve().parents[2] / "native" / "generated" / "cuda_abi.h"


def _asked(function: ctypes._NamedFuncPointer, code: int) -> tuple[int, str | None]:
    text = ctypes.c_char_p(b"untouched")
    status = function(code, ctypes.byref(text))
    return status, text.value.decode() if text.value is not None else None


def test_every_code_has_name_and_text_and_no_other(native_dir: Path) -> None:
    cuda = ctypes.CDLL(str(native_dir / "soft" / "libcuda.so.1"))
    found = re.findall(r"^ +(CUDA_(?:SUCCESS|ERROR_\w+)) = (\d+),", ROWS.read_text(), re.MULTILINE)
    names = {int(number): name for name, number in found}
    assert len(names) > 90
    for code in (*range(1100), 2**31 - 1, 2**32 - 1):
        known = code in names
        assert _asked(cuda.cuGetErrorName, code) == ((0, names[code]) if known else (1, None)), code
        status, text = _asked(cuda.cuGetErrorString, code)
        assert (status, bool(text)) == ((0, True) if known else (1, False)), code
