# SPDX-License-Identifier: Apache-2.0
"""The file that tells a tenant's processes to record: who may read it, and what is believed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from harp.trace.control import NAME, Wish, is_on, tell, untell


@pytest.mark.parametrize(("uid", "mode"), [(0, 0o644), (1000, 0o600)])
def test_roots_file_is_read_by_the_tenants_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uid: int, mode: int
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    was = os.umask(0o077)
    try:
        tell(tmp_path, Wish(tmp_path / "t.trace"))
    finally:
        os.umask(was)
    assert stat.S_IMODE((tmp_path / NAME).stat().st_mode) == mode
    assert [p.name for p in tmp_path.iterdir()] == [NAME]


def test_what_is_told_is_on_until_it_is_untold(tmp_path: Path) -> None:
    assert is_on(tmp_path) is None
    tell(tmp_path, Wish(tmp_path / "t.trace"))
    assert is_on(tmp_path) == tmp_path / "t.trace"
    assert untell(tmp_path)
    assert is_on(tmp_path) is None
    assert not untell(tmp_path)


def test_only_a_plain_file_of_some_size_is_read(tmp_path: Path) -> None:
    told, other = tmp_path / NAME, tmp_path / "other"
    other.write_text("file=/of/somebody/else\n")
    told.symlink_to(other)
    assert is_on(tmp_path) is None
    told.unlink()
    os.mkfifo(told)  # would be waited for without end
    assert is_on(tmp_path) is None
    told.unlink()
    told.write_text("x" * 100_000 + "\nfile=/too/late\n")
    assert is_on(tmp_path) is None
