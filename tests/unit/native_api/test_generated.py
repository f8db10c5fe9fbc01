# SPDX-License-Identifier: Apache-2.0
"""Generated files are what the rows give; the rows' parser refuses what is no row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from native.api import cuda
from native.api.model import TIME_GATES, Gate, symbols
from native.gen import __main__ as command
from native.gen import output
from native.gen.targets import TARGETS

ROOT = Path(__file__).resolve().parents[3]
SHIM = ROOT / "native" / "src" / "shim"


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.path)
def test_checked_in_file_is_up_to_date(target: output.Target) -> None:
    assert (output.NATIVE / target.path).read_text() == output.render(target), (
        f"{target.path} is stale; remedy: python -m native.gen"
    )


def test_check_reports_a_file_that_was_edited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = next(t for t in TARGETS if t.path.endswith("soft_exports.map"))
    path = tmp_path / target.path
    path.parent.mkdir(parents=True)
    path.write_text(output.render(target).replace("cuInit;", "cuBegin;"))
    monkeypatch.setattr(command, "NATIVE", tmp_path)
    monkeypatch.setattr("sys.argv", ["gen", "--check", "--target", "soft_exports.map"])
    assert command.main() == 1
    assert "+        cuInit;" in capsys.readouterr().out


def test_generated_folder_holds_nothing_else() -> None:
    files = {f"generated/{p.name}" for p in (ROOT / "native" / "generated").iterdir()}
    assert files == {t.path for t in TARGETS if t.path.startswith("generated/")}


def test_generated_text_is_labelled_and_names_no_vendor_text() -> None:
    for target in TARGETS:
        text = (output.NATIVE / target.path).read_text()
        assert "do not edit" in text[:400]
        assert "NVIDIA Corporation" not in text


#: Intercepted by their row, but without a hook of their own, and why that is no hole.
HOOKLESS = {
    "cuMemFree",  # 32-bit: its allocator is refused to tenants with a limit
    "cuMemGetAddressRange",  # 32-bit: no slab lies there
}


@pytest.mark.skipif(not SHIM.exists(), reason="libharp is not in this tree")
def test_hooks_and_gates_agree() -> None:
    """A hook exists by being written: a missing one is a hole, an unknown one untold."""
    made = ROOT / "native" / "generated"
    files = [*SHIM.rglob("*.c"), made / "shim_time.c", made / "shim_touch.c"]
    text = "\n".join(path.read_text() for path in files)
    found = re.findall(r"^(?:\w+\s+)?harp_hook_(cu\w+)\([^;]*?\)\s*\{", text, re.MULTILINE)
    written = set(found)
    assert len(found) == len(written), {name for name in found if found.count(name) > 1}
    need = {s.name for s in cuda.SYMBOLS if cuda.function_of(s.name).gate is not Gate.NONE}
    assert need - written - HOOKLESS == set()
    assert written - need == set()


def test_time_gate_is_passed_by_every_symbol_of_its_rows() -> None:
    text = (ROOT / "native" / "generated" / "shim_time.c").read_text()
    need = {s.name for s in cuda.SYMBOLS if cuda.function_of(s.name).gate in TIME_GATES}
    assert set(re.findall(r"harp_hook_(cu\w+)\(", text)) == need


@pytest.mark.parametrize(
    "text",
    ["cuX (int a)", "cuX 13000 int a", "cuX 13000 ptxx=1 (int a)", "cuX 13000 (int a) more"],
)
def test_parser_refuses_what_is_no_symbol_line(text: str) -> None:
    with pytest.raises(ValueError, match="not a symbol line"):
        symbols(text)


def test_parser_reads_versions_twins_and_parameters() -> None:
    plain, twin = symbols("cuX_v2 3020 ptds=7000 (const void *p, unsigned int n)")
    assert (plain.name, plain.since, plain.per_thread) == ("cuX_v2", 3020, False)
    assert (twin.name, twin.since, twin.plain) == ("cuX_v2_ptds", 7000, "cuX_v2")
    assert plain.args == "const void *p, unsigned int n"
    assert plain.call == "p, n"
