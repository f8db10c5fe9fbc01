# SPDX-License-Identifier: Apache-2.0
"""The checked-in stubs are what the protos say, and every field is explained."""

from __future__ import annotations

import importlib.metadata
import re
import shutil
from pathlib import Path

import pytest

from device_plugin.proto.gen import STUBS as PLUGIN
from harp.api import gen

STUBS = (gen.STUBS, PLUGIN)
PROTOS = sorted(path for stubs in STUBS for path in stubs.folder.glob("*.proto"))


def up_to_date() -> None:
    """Skips where the stubs in the tree are made with another version."""
    try:
        found = importlib.metadata.version("grpcio-tools")
    except importlib.metadata.PackageNotFoundError:
        found = "absent"
    if found != gen.FLOOR:
        pytest.skip(f"grpcio-tools is {found}; the stubs are made with {gen.FLOOR}")


@pytest.mark.parametrize("stubs", STUBS, ids=lambda s: s.folder.name)
def test_regeneration_gives_the_stubs_that_are_checked_in(stubs: gen.Stubs) -> None:
    up_to_date()
    assert stubs.stale() == []


def test_a_stub_that_is_missing_or_changed_is_stale(tmp_path: Path) -> None:
    up_to_date()
    folder = tmp_path / PLUGIN.folder.relative_to(PLUGIN.root)
    shutil.copytree(PLUGIN.folder, folder)
    copied = gen.Stubs(root=tmp_path, folder=folder, command="")
    assert copied.stale() == []
    gone, changed = folder / "podresources_pb2.py", folder / "deviceplugin_pb2.pyi"
    gone.unlink()
    changed.write_text(changed.read_text() + "#\n")
    assert {tmp_path / path for path in copied.stale()} == {gone, changed}


@pytest.mark.parametrize("path", PROTOS, ids=lambda p: p.name)
def test_every_field_and_rpc_has_a_comment(path: Path) -> None:
    previous = ""
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.strip()
        if re.match(r"(rpc|message|enum|service) ", words) and not words.startswith("service "):
            empty = words.endswith("{}")
            assert previous.startswith("//") or empty or "Request" in words or "Reply" in words, (
                f"{path.name}:{number}"
            )
        if re.match(r"[\w<>, .]+ = \d+;", words):
            assert "//" in words, f"{path.name}:{number}: {words}"
        previous = words
