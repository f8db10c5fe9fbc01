# SPDX-License-Identifier: Apache-2.0
"""What `harp doctor --probe` finds out on a real GPU: recorded, hardly judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Gpu

pytestmark = pytest.mark.gpu


def test_what_the_driver_answers(gpu: Gpu, record_property: Callable[[str, object], None]) -> None:
    done = gpu.harp("doctor", "--probe", "--gpu", gpu.uuid, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["software"] is gpu.software
    for one in told["answers"]:
        value = one["answer"] if one["answer"] is not None else f"unknown: {one['unknown']}"
        record_property(f"{one['key']} [{one['unit']}]", value)
    died = [a["key"] for a in told["answers"] if "ended by SIG" in a.get("unknown", "")]
    assert died == []
    found = {a["key"]: a["answer"] for a in told["answers"]}
    assert found["library"] == str(gpu.cuda_path.resolve())
    assert found["same"] > 300
