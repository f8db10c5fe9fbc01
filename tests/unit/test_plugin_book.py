# SPDX-License-Identifier: Apache-2.0
"""Living grants, and the file that outlives the plugin."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from plugin_cases import gpus, slots_of

from device_plugin.book import Book, Grant, grant_id, missing, size_of
from device_plugin.checkpoint import Checkpoint, load, save
from device_plugin.identity import Owner
from device_plugin.tenants import NodeView
from harp.errors import ConfigError
from harp.model import DeviceKind, Limits, TenantClass

SLOTS = slots_of(2)
LIMITS = Limits(1 << 30, 250_000, 0, TenantClass.BEST_EFFORT, oversubscribe=True)


def grant(first: int, count: int, gpu: int = 0, owner: Owner | None = None) -> Grant:
    ids = frozenset(SLOTS.ids(gpu)[first : first + count])
    return Grant(grant_id(ids), ids, (SLOTS.gpus[gpu].uuid,), LIMITS, owner)


def test_the_id_of_a_grant_follows_from_its_slots_alone() -> None:
    ids = SLOTS.ids(1)[:25]
    assert grant_id(ids) == grant_id(reversed(ids)) == grant_id(frozenset(ids))  # type: ignore[arg-type]
    assert len({grant_id(SLOTS.ids(0)[a:b]) for a in range(99) for b in range(a + 1, 100)}) == 4950
    # a tenant's name and a folder's
    assert all(c.isalnum() or c in "-." for c in grant_id(ids))
    assert len(grant_id(SLOTS.ids(1))) <= 48


def test_the_id_of_a_grant_says_how_many_slots_it_has() -> None:
    assert [size_of(grant(0, n).id) for n in (1, 25, 100)] == [1, 25, 100]
    assert [size_of(key) for key in ("", "x", "lost+found", "ax-b", "a-1", "fx3-0123abcd")] == [
        0
    ] * 6


def test_a_grant_ends_those_whose_slots_it_has() -> None:
    book = Book([grant(0, 10), grant(10, 10), grant(0, 10, gpu=1)])
    over = grant(5, 10)
    assert {g.id for g in book.overlapping(over)} == {grant(0, 10).id, grant(10, 10).id}
    book.put(over)
    assert {g.id for g in book} == {over.id, grant(0, 10, gpu=1).id}
    book.put(grant(15, 5))  # free again
    assert len(book) == 3
    book.remove(over.id)
    book.remove("no such")
    assert book.overlapping(grant(0, 15)) == ()


def test_the_same_slots_again_are_the_same_grant() -> None:
    again = grant(0, 10, owner=Owner("a", "b", "c"))
    book = Book([grant(0, 10)])
    assert book.overlapping(again) == ()
    book.put(again)
    assert list(book) == [again]


def test_what_kubelet_does_not_list_ends_after_a_while() -> None:
    book = [grant(0, 10), grant(10, 10)]
    absent, ended = missing(book, [book[0].ids], {}, 100)
    assert (absent, ended) == ({book[1].id: 100}, ())
    absent, ended = missing(book, [book[0].ids], absent, 129)
    assert ended == ()
    # listed again in between: from the beginning
    assert missing(book, [g.ids for g in book], absent, 130) == ({}, ())
    absent, ended = missing(book, [book[0].ids], absent, 130)
    assert ended == (book[1],)


def test_a_part_of_its_slots_is_not_the_grant() -> None:
    book = [grant(0, 10)]
    absent, _ = missing(book, [grant(0, 9).ids, grant(0, 11).ids], {}, 1)
    assert set(absent) == {book[0].id}


def test_a_container_has_one_grant() -> None:
    """A pod that came again under its name has other slots; who had the first ones is gone."""
    owner = Owner("ns", "web-0", "main")
    first, second = grant(0, 10, owner=owner), grant(50, 10, owner=owner)
    other = grant(20, 10, owner=Owner("ns", "web-0", "side"))
    nobody = grant(40, 10)
    book = Book([first, other, nobody])
    assert book.overlapping(second) == (first,)
    assert book.overlapping(grant(60, 10)) == ()
    book.put(second)
    assert {g.id for g in book} == {second.id, other.id, nobody.id}


NODE = NodeView(DeviceKind.NVIDIA, Path("/a/cuda"), Path("/a/nvml"), tuple(gpus(2, numa=1)))
WRITTEN = Checkpoint(
    NODE,
    100,
    (grant(0, 25, owner=Owner("ns", "pod", "main")), grant(25, 30)),
)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "state" / "checkpoint.json"
    assert load(path) == Checkpoint()
    save(path, WRITTEN)
    assert load(path) == WRITTEN
    save(path, Checkpoint())
    assert load(path) == Checkpoint()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.json"]


def test_a_write_that_fails_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint.json"
    save(path, WRITTEN)

    def full(_fd: int) -> None:
        raise OSError(28, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        save(path, Checkpoint())
    assert load(path) == WRITTEN


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"version": 1}',
        '{"version": 1, "per_gpu": 1, "node": 3, "grants": []}',
        '{"version": 0}',
        '{"version": 1, "per_gpu": 1e999, "node": null, "grants": []}',
        "[" * 100_000,
    ],
)
def test_one_that_cannot_be_read_is_put_aside(tmp_path: Path, text: str) -> None:
    path = tmp_path / "checkpoint.json"
    path.write_text(text)
    assert load(path) == Checkpoint()
    aside = [p for p in tmp_path.iterdir() if ".bad-" in p.name]
    assert [p.read_text() for p in aside] == [text]
    assert not path.exists()


@pytest.mark.parametrize("at", [0, 40, -3])
def test_a_disk_that_changed_bytes_leaves_the_node_its_plugin(tmp_path: Path, at: int) -> None:
    """What is read then is no text at all."""
    path = tmp_path / "checkpoint.json"
    save(path, WRITTEN)
    spoiled = bytearray(path.read_bytes())
    spoiled[at] = 0xFF
    path.write_bytes(spoiled)
    assert load(path) == Checkpoint()
    (aside,) = tmp_path.glob("*.bad-*")
    assert aside.read_bytes() == spoiled


def test_every_cut_of_the_file_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.json"
    save(path, WRITTEN)
    whole = path.read_text()
    for length in range(0, len(whole) - 1, 97):
        path.write_text(whole[:length])
        assert load(path) == Checkpoint(), length


def test_one_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.json"
    text = json.dumps({"version": 2, "something": "else"})
    path.write_text(text)
    with pytest.raises(ConfigError, match="version 2"):
        load(path)
    assert path.read_text() == text
