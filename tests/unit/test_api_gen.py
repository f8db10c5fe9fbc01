# SPDX-License-Identifier: Apache-2.0
"""The checked-in stubs are what the protos say, and every field is explained."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest

from device_plugin.proto.gen import STUBS as PLUGIN
from harp.api import gen

STUBS = (gen.STUBS, PLUGIN)
PROTOS = sorted(path for stubs in STUBS for path in stubs.folder.glob("*.proto"))


@pytest.mark.parametrize("stubs", STUBS, ids=lambda s: s.folder.name)
def test_regeneration_gives_the_stubs_that_are_checked_in(stubs: gen.Stubs) -> None:
    try:
        found = importlib.metadata.version("grpcio-tools")
    except importlib.metadata.PackageNotFoundError:
        found = "absent"
    if found != gen.FLOOR:
        pytest.skip(f"grpcio-tools is {found}; the stubs are made with {gen.FLOOR}")
    assert stubs.stale() == []


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
