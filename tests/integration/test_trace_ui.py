# SPDX-License-Identifier: Apache-2.0
"""Exports in Perfetto's own UI in a real browser: what its trace processor finds in them.

Pictures are left in build/trace.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chromium import Page, browser
from perfetto_ui import served

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "unit"))

from trace_made import RECORDS, written  # noqa: E402 - of another folder

US = 1000
_QUERY = """(async () => {
  const found = await app.trace.engine.query(%s);
  const plain = (value) => typeof value === "bigint" ? Number(value) : value;
  const rows = [];
  for (const it = found.iter({}); it.valid(); it.next())
    rows.push(found.columns().map((name) => plain(it.get(name))));
  return JSON.stringify(rows);
})()"""


def rows(page: Page, sql: str) -> list[list[Any]]:
    """What Perfetto's trace processor answers."""
    asked = {"expression": _QUERY % json.dumps(sql), "awaitPromise": True, "returnByValue": True}
    told = page.call("Runtime.evaluate", **asked)
    assert "exceptionDetails" not in told, told
    found: list[list[Any]] = json.loads(told["result"]["value"])
    return found


def seen(path: Path, picture: Path) -> dict[str, Any]:
    """Open a file; what is in it, and what is drawn."""
    with served(path) as url, browser() as page:
        page.look(scheme="light", width=1400, height=500)
        page.open(url)
        page.wait("typeof app !== 'undefined' && app.trace && !app.isLoadingTrace", 120)
        page.ask("app.trace.workspace.flatTracks.forEach((node) => node.expand())")
        idle = {"expression": "waitForPerfettoIdle().then(() => 1)", "awaitPromise": True}
        page.call("Runtime.evaluate", **idle)
        page.picture(picture)
        return {
            "errors": rows(page, "select name from stats where severity != 'info' and value > 0"),
            "slices": rows(page, "select name, dur, depth, category from slice order by ts, depth"),
            "begin": rows(page, "select min(ts) from slice")[0][0],
            "inside": rows(
                page,
                "select s.name, p.name from slice s join slice p on s.parent_id = p.id",
            ),
            "arrows": rows(
                page,
                "select a.name, b.name from flow f join slice a on f.slice_out = a.id"
                " join slice b on f.slice_in = b.id order by a.ts",
            ),
            "text": page.ask("document.body.innerText"),
        }


def test_both_formats_are_the_same_to_perfetto(tmp_path: Path) -> None:
    pictures = ROOT / "build" / "trace"
    pictures.mkdir(parents=True, exist_ok=True)
    made = tmp_path / "made.trace"
    made.write_bytes(written(RECORDS))
    found = {}
    for kind in ("perfetto", "chrome"):
        out = tmp_path / f"made.{kind}"
        command = [sys.executable, "-m", "harp", "trace", "export", made, "--to", kind, "-o", out]
        subprocess.run(command, cwd=ROOT, check=True, timeout=60)
        found[kind] = seen(out, pictures / f"{kind}.png")
        assert found[kind]["errors"] == []
        for word in ("thread 4711", "default stream", "stream 0xabc0", "GPU", "train"):
            assert word in found[kind]["text"], word
        assert (pictures / f"{kind}.png").stat().st_size > 20_000
    one = found["perfetto"]
    names = [name for name, *_ in one["slices"]]
    assert len(names) == 12 + 5 + 1  # calls, device work, one gate
    assert [s for s in one["slices"] if s[0] == "gemm"] == [["gemm", 100 * US, 0, "kernel"]] * 2
    assert one["inside"] == [["gated by HARP", "cuLaunchKernel"]]
    assert one["arrows"] == [
        ["cuMemcpyHtoD", "HtoD"],
        ["cuLaunchKernel", "gemm"],
        ["cuLaunchKernel", "gemm"],
        ["cuLaunchKernel", "relu"],
        ["cuLaunchKernel", "relu"],
    ]
    other = found["chrome"]
    assert [s[:3] for s in other["slices"]] == [s[:3] for s in one["slices"]]
    assert (other["inside"], other["arrows"]) == (one["inside"], one["arrows"])
