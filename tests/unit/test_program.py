# SPDX-License-Identifier: Apache-2.0
"""Whether injection can reach a program."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from harp.cli.program import locate, obstacle
from harp.cli.run import run


def _elf(path: Path, *segments: int) -> Path:
    header = b"\x7fELF\x02\x01\x01" + bytes(9)
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    path.write_bytes(header + b"".join(struct.pack("<I", s) + bytes(52) for s in segments))
    path.chmod(0o755)
    return path


def test_a_dynamic_program_is_reached(tmp_path: Path) -> None:
    assert obstacle(_elf(tmp_path / "dynamic", 6, 3, 1)) == ""
    assert obstacle(Path(sys.executable).resolve()) == ""


def test_a_static_program_is_not(tmp_path: Path) -> None:
    static = _elf(tmp_path / "static", 1, 4)
    assert "statically linked" in obstacle(static)
    script = tmp_path / "script"
    script.write_text(f"#!{static} -x\n")
    assert "statically linked" in obstacle(script)


def test_a_setuid_program_is_not_for_plain_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = _elf(tmp_path / "setuid", 3)
    program.chmod(0o4755)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "setuid" in obstacle(program)


def test_a_script_that_names_itself_ends(tmp_path: Path) -> None:
    script = tmp_path / "loop"
    script.write_text(f"#!{script}\n")
    assert obstacle(script) == ""


def test_programs_are_found_as_execvp_finds_them(tmp_path: Path) -> None:
    program = _elf(tmp_path / "tool", 3)
    assert locate("tool", {"PATH": f"/nowhere:{tmp_path}"}) == program
    assert locate("tool", {"PATH": "/nowhere"}) is None
    assert locate(str(program), {}) == program
    assert locate(str(tmp_path / "none"), {}) is None


def test_a_folder_that_may_not_be_entered_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # root enters every folder, so the kernel's answer is played
    inside = tmp_path / "shut" / "program"
    real = os.stat

    def refused(path: str | os.PathLike[str], **more: bool) -> os.stat_result:
        if "shut" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **more)

    monkeypatch.setattr(os, "stat", refused)
    assert locate(str(inside), {}) == inside
    result = CliRunner().invoke(run, ["--", str(inside)])
    assert result.exit_code == 126  # as a shell's
    assert "cannot be run" in result.stderr
