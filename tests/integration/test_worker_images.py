# SPDX-License-Identifier: Apache-2.0
"""harp-worker --images: what one process of a tenant has put, its next one need not."""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ring_client import Client, Worker
from shim_world import World, soft_world
from worker_world import PTX

USER = 48241
NAME = hashlib.sha256(PTX).hexdigest()
IMAGE = {"sha256": hashlib.sha256(PTX).digest(), "bytes": len(PTX)}


@pytest.fixture(scope="module")
def world(native_dir: Path) -> Iterator[World]:
    with soft_world(native_dir) as made:
        yield made


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="harp-images-") as made:
        yield Path(made)


def start(world: World, folder: Path, *options: str) -> Worker:
    told = ("--images", folder, *options)
    return Worker(world.native, world.cuda, world.bare_env(), options=told)


def found(c: Client) -> bool:
    c.must("harpSession", devices=1, driver_version=1, loading_mode=1)
    return bool(c.must("harpImageFind", image=IMAGE, found=1)["found"])


def put(c: Client) -> None:
    c.must("harpImagePut", image=IMAGE, data=PTX, bytes=len(PTX))


def runs(c: Client) -> None:
    """A kernel of the image, which is not put."""
    c.context()
    at = int(c.must("cuMemAlloc_v2", dptr=1, bytesize=4096)["dptr"])
    module, twice = c.new(), c.new()
    c.must("cuModuleLoadData", module=module, image=IMAGE)
    c.send("cuModuleGetFunction", hfunc=twice, hmod=module, name="twice")
    c.send("cuMemsetD32_v2", dstDevice=at, ui=21, N=1)
    c.launch(twice, struct.pack("<Q", at), blocks=1, threads=1)
    told = c.must("cuMemcpyDtoH_v2", dstHost=b"", srcDevice=at, ByteCount=4)
    assert bytes(told["dstHost"]) == struct.pack("<I", 42)


def test_the_second_process_of_a_tenant_puts_no_image(world: World, folder: Path) -> None:
    with start(world, folder) as worker:
        c = worker.dial()
        assert not found(c)
        put(c)
    assert [(p.name, p.stat().st_mode & 0o777) for p in folder.iterdir()] == [(NAME, 0o600)]
    with start(world, folder) as worker:
        c = worker.dial()
        assert found(c)
        runs(c)


def test_another_tenant_learns_nothing_of_it(world: World, folder: Path) -> None:
    """Each has a folder of its own; without one an image is the session's."""
    for which in ("first", "second"):
        (folder / which).mkdir(mode=0o700)
    with start(world, folder / "first") as worker, start(world, folder / "second") as other:
        put(worker.dial())
        assert not found(other.dial())
        with Worker(world.native, world.cuda, world.bare_env()) as none:
            assert not found(none.dial())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_the_folder_may_lie_where_only_root_comes(world: World, folder: Path) -> None:
    inner = folder / "lease"
    inner.mkdir(mode=0o700)
    os.chown(inner, USER, USER)
    for there in (False, True):
        with start(world, inner, "--user", str(USER)) as worker:
            c = worker.dial()
            assert found(c) == there
            put(c)
    assert {p.stat().st_uid for p in inner.iterdir()} == {USER}


def _other_bytes(path: Path) -> None:
    path.write_bytes(PTX.replace(b"shl.b32", b"shr.b32"))


def _a_link(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(PTX)
    path.unlink()
    path.symlink_to(other)


def _longer(path: Path) -> None:
    path.write_bytes(PTX + b"\n")


@pytest.mark.parametrize("poison", [_other_bytes, _a_link, _longer])
def test_what_is_not_the_image_is_not_taken_for_it(
    world: World, folder: Path, poison: Callable[[Path], None]
) -> None:
    with start(world, folder) as worker:
        put(worker.dial())
    poison(folder / NAME)
    with start(world, folder) as worker:
        c = worker.dial()
        assert not found(c)
        assert c.ask("cuModuleLoadData", module=c.new(), image=IMAGE)[0] == 301  # FILE_NOT_FOUND
        put(c)
        runs(c)
    assert (folder / NAME).read_bytes() == PTX
    assert not (folder / NAME).is_symlink()


@pytest.mark.parametrize("wrong", ["open to others", "no folder", "a link"])
def test_a_folder_that_others_reach_is_not_used(world: World, folder: Path, wrong: str) -> None:
    used = folder
    if wrong == "open to others":
        folder.chmod(0o755)
    elif wrong == "no folder":
        used = folder / "none"
    else:
        used = folder / "link"
        (folder / "real").mkdir(mode=0o700)
        used.symlink_to(folder / "real")
    with start(world, used) as worker:
        with pytest.raises(ConnectionRefusedError, match="images folder"):
            worker.dial()
        assert worker.ended() == 1


def test_a_full_disk_is_said_once_and_costs_the_session_nothing(world: World, folder: Path) -> None:
    """Here: the name is taken by what cannot be replaced."""
    (folder / NAME).mkdir()
    with start(world, folder) as worker:
        c = worker.dial()
        put(c)
        runs(c)
        worker.sock.close()
        assert worker.ended() == 0
        assert worker.words().count("an image is not kept in its folder") == 1
