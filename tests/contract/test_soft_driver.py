# SPDX-License-Identifier: Apache-2.0
"""Driver flavours: what a machine that plays an older CUDA driver says it is, knows and refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from asking import answers

from native.api import cuda, soft
from native.api.types.device_attribute import SINCE

INVALID_VALUE, NOT_FOUND, NOT_SUPPORTED, UNKNOWN = 1, 500, 801, 999
VERSIONS = (11000, 12000, 12010, 12020, 12040, 12050, 12080, 12090, 13000)

ASK = """
import ctypes as c, json, sys
asked = json.load(sys.stdin)
cu, nvml = c.CDLL("libcuda.so.1"), c.CDLL("libnvidia-ml.so.1")
out = {}
n = c.c_int()
cu.cuDriverGetVersion(c.byref(n))  # before cuInit, as the runtime asks
out["early"] = n.value
out["init"] = cu.cuInit(0)
cu.cuDriverGetVersion(c.byref(n))
out["version"] = n.value
nvml.nvmlInit_v2()
nvml.nvmlSystemGetCudaDriverVersion_v2(c.byref(n))
text = c.create_string_buffer(80)
nvml.nvmlSystemGetDriverVersion(text, 80)
driver = text.value.decode()
nvml.nvmlSystemGetNVMLVersion(text, 80)
out["nvml"] = [n.value, driver, text.value.decode()]
where = {c.cast(getattr(cu, s), c.c_void_p).value: s for s in asked["symbols"]}
out["found"] = []
for name, version in asked["lookups"]:
    entry, status = c.c_void_p(), c.c_int(-1)
    result = cu.cuGetProcAddress_v2(
        name.encode(), c.byref(entry), version, c.c_uint64(0), c.byref(status))
    out["found"].append([result, status.value, where.get(entry.value)])
out["attributes"] = {a: cu.cuDeviceGetAttribute(c.byref(n), a, 0) for a in asked["attributes"]}
ctx = c.c_void_p()
out["ctx"] = cu.cuCtxCreate_v2(c.byref(ctx), 0, 0)
out["calls"] = {}
for name in asked["calls"]:
    out["calls"][name] = getattr(cu, name)(*[c.c_void_p(0)] * 12)
print(json.dumps(out))
"""

CALLS = [s.name for s in cuda.SYMBOLS if s.since > 12000]
LOOKUPS = [(f.name, v) for f in cuda.FUNCTIONS for v in VERSIONS]


def _ask(env: dict[str, str]) -> dict[str, Any]:
    asked = {
        "symbols": [s.name for s in cuda.SYMBOLS],
        "lookups": LOOKUPS,
        "attributes": list(range(1, 149)),
        "calls": [n for n in CALLS if n in soft.implemented()],
    }
    return dict(answers(ASK, asked, env))


def _expected(name: str, version: int, driver: int) -> str | None:
    """The newest plain symbol that is not newer than asked for, nor than the driver."""
    row = next(f for f in cuda.FUNCTIONS if f.name == name)
    fit = [s for s in row.symbols if s.since and not s.plain and s.since <= min(version, driver)]
    best = max(fit, key=lambda s: s.since, default=None)
    return best.name if best is not None and best.name in soft.implemented() else None


@pytest.mark.parametrize(
    ("text", "driver", "release"),
    [
        ("12.0", 12000, "525.60.13"),
        ("12.2", 12020, "535.54.03"),
        ("12.8", 12080, "570.86.10"),
        ("13.0", 13000, "580.65.06"),
        ("", 13000, "580.65.06"),
    ],
)
def test_a_driver_knows_what_it_knew(
    text: str, driver: int, release: str, soft_env: dict[str, str], tmp_path: Path
) -> None:
    soft_env |= {"HARP_SOFT_DRIVER": text, "HARP_SOFT_VERBOSE": str(tmp_path / "log")}
    seen = _ask(soft_env)
    assert (seen["early"], seen["init"], seen["version"]) == (driver, 0, driver)
    assert seen["nvml"] == [driver, release, f"{driver // 1000}.{release}"]
    wrong = [
        (name, version, got, want)
        for (name, version), got in zip(LOOKUPS, seen["found"], strict=True)
        if got[2] != (want := _expected(name, version, driver))
        or got[0] != (0 if want else NOT_FOUND)
    ]
    assert not wrong, wrong[:10]
    for attribute, result in seen["attributes"].items():
        hidden = SINCE.get(int(attribute), 0) > driver or int(attribute) >= 148
        assert result == (INVALID_VALUE if hidden else 0), attribute
    path = tmp_path / "log"
    log = path.read_text() if path.exists() else ""
    since = {s.name: s.since for s in cuda.SYMBOLS}
    for name, result in seen["calls"].items():
        hidden = since[name] > driver
        if hidden:
            assert result == NOT_SUPPORTED, name
        assert (f"{name} came with CUDA" in log) == hidden, name


def test_it_is_the_machines_and_not_the_callers(soft_env: dict[str, str]) -> None:
    assert _ask(soft_env | {"HARP_SOFT_DRIVER": "12.4"})["version"] == 12040
    assert _ask(soft_env | {"HARP_SOFT_DRIVER": "12.9"})["version"] == 12040
    assert _ask(soft_env)["early"] == 12040


@pytest.mark.parametrize("text", ["11.8", "13.1", "12", "12.20", "new"])
def test_a_driver_that_cannot_be_played_is_refused(
    text: str, soft_env: dict[str, str], tmp_path: Path
) -> None:
    soft_env |= {"HARP_SOFT_DRIVER": text, "HARP_SOFT_VERBOSE": str(tmp_path / "log")}
    done = subprocess.run(
        [sys.executable, "-c", "import ctypes as c; print(c.CDLL('libcuda.so.1').cuInit(0))"],
        env=soft_env,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert int(done.stdout) == UNKNOWN
    log = (tmp_path / "log").read_text()
    assert f"'{text}'" in log
    assert "12.0 to 12.9, or 13.0" in log
    assert not list(Path(soft_env["HARP_SOFT_DIR"]).iterdir()), "nothing is made"


def test_an_old_driver_can_fail_on_request_too(soft_env: dict[str, str]) -> None:
    soft_env |= {"HARP_SOFT_DRIVER": "12.2"}
    tool = f"{soft_env['HARP_NATIVE_DIR']}/harp-soft-fault"
    for rules, code in (("fail cuInit 46", 46), ("fail cuInit 3 nth=2", 0)):
        subprocess.run([tool, "set", rules], env=soft_env, check=True)
        assert _ask(soft_env)["init"] == code
    subprocess.run([tool, "clear"], env=soft_env, check=True)
    seen = _ask(soft_env)
    assert (seen["init"], seen["version"]) == (0, 12020)
    assert seen["calls"]["cuCtxCreate_v4"] == NOT_SUPPORTED
