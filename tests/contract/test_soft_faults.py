# SPDX-License-Identifier: Apache-2.0
"""Faults on request are seen as the documented errors; doors that are open change nothing."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from asking import answers

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]

#: Every exported symbol called with nothing: before cuInit, so that no argument is read.
CALL_ALL = """
import ctypes as c, json, sys
lib = c.CDLL(sys.argv[1])
seen = {}
for name in json.load(sys.stdin):
    function = getattr(lib, name)
    function.restype = c.c_int
    seen[name] = function(*[c.c_void_p(0)] * 12)
print(json.dumps(seen))
"""


def _cases() -> list[tuple[str, str]]:
    for path in sorted(FOLDER.glob("soft_fault_cases_*.py")):
        importlib.import_module(path.stem)
    return importlib.import_module("soft_fault_driver").all_cases()


def _tool(env: dict[str, str], *args: str) -> None:
    subprocess.run([f"{env['HARP_NATIVE_DIR']}/harp-soft-fault", *args], env=env, check=True)


@pytest.mark.parametrize(("file", "name"), _cases())
def test_case(file: str, name: str, soft_env: dict[str, str], tmp_path: Path) -> None:
    soft_env |= {
        "HARP_SOFT_DEVICES": "h100-80g,tiny",
        "HARP_SOFT_TEARDOWN_MS": "0",
        "HARP_SOFT_VERBOSE": str(tmp_path / "log"),
    }
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{file}.py"), name],
        env=soft_env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    assert done.stdout.splitlines()[-1] == "passed"


@pytest.mark.parametrize("library", ["libcuda.so.1", "libnvidia-ml.so.1"])
def test_every_symbol_answers_the_same_through_an_armed_door(
    library: str, soft_env: dict[str, str]
) -> None:
    cuda = importlib.import_module("native.api.cuda")
    nvml = importlib.import_module("native.api.nvml")
    names = [s.name for s in cuda.SYMBOLS] if "cuda" in library else list(nvml.SYMBOLS)
    # what begins a life, and what answers text
    names = [n for n in names if not n.startswith(("cuInit", "nvmlInit", "nvmlErrorString"))]

    unarmed = answers(CALL_ALL, names, soft_env, library)
    assert len(unarmed) > 400
    never = "cuInit" if "cuda" in library else "nvmlInit"
    _tool(soft_env, "set", f"fail {never} 3 nth=1000000", f"slow {never} 1s nth=1000000")
    assert answers(CALL_ALL, names, soft_env, library) == unarmed
    _tool(soft_env, "set", "fail cu* 34", "fail nvml* 19")
    failing = 34 if "cuda" in library else 19
    armed = answers(CALL_ALL, names, soft_env, library)
    assert {code for name, code in armed.items() if not name.startswith("cudbg")} == {failing}
