# SPDX-License-Identifier: Apache-2.0
"""Cases of result codes: their names and texts."""

from __future__ import annotations

import ctypes as c
import re
from pathlib import Path

from soft_mod_driver import INVALID_VALUE, SOFTWARE, Driver, case, main

ROWS = Path(__file__).resolve().parents[2] / "native" / "generated" / "cuda_abi.h"


def rows() -> dict[int, str]:
    found = re.findall(r"^ +(CUDA_(?:SUCCESS|ERROR_\w+)) = (\d+),", ROWS.read_text(), re.MULTILINE)
    assert len(found) > 90
    return {int(number): name for name, number in found}


def asked(d: Driver, call: str, code: int) -> tuple[int, str | None]:
    text = c.c_char_p(b"untouched")
    status = d.call(call, code, c.byref(text))
    return status, text.value.decode() if text.value is not None else None


@case
def every_code_has_its_name_and_a_text(d: Driver) -> None:
    known = 0
    for code, name in rows().items():
        status, told = asked(d, "cuGetErrorName", code)
        if status == INVALID_VALUE:  # an older driver; the software GPU is none: see below
            assert told is None, (code, told)
            continue
        known += 1
        assert (status, told) == (0, name), code
        status, told = asked(d, "cuGetErrorString", code)
        assert (status, bool(told)) == (0, True), code
    assert known > 80


@case(only=SOFTWARE, why="a real driver may know fewer codes, or more, than the rows")
def no_other_number_has_a_name_and_no_code_lacks_one(d: Driver) -> None:
    names = rows()
    for code in (*range(1100), 2**31 - 1, 2**32 - 1):
        known = code in names
        expected = (0, names[code]) if known else (INVALID_VALUE, None)
        assert asked(d, "cuGetErrorName", code) == expected, code
        status, text = asked(d, "cuGetErrorString", code)
        assert (status, bool(text)) == ((0, True) if known else (INVALID_VALUE, False)), code
    d.fails(INVALID_VALUE, "cuGetErrorName", 0, None)
    d.fails(INVALID_VALUE, "cuGetErrorString", 0, None)


if __name__ == "__main__":
    main()
