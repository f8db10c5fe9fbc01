# SPDX-License-Identifier: Apache-2.0
"""The kernels that a run names, of its grant's folder or of its page."""

from __future__ import annotations

import os
import shutil
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
from recording_world import Desk, do, kept, picture, tenant

import harp.daemon.apart as daemon_apart
import harp.daemon.profiles as daemon_profiles
from harp.daemon.recording import Recording
from harp.errors import HistoryError
from harp.estimator.history import History
from harp.estimator.job import Run
from harp.model import Tenant
from harp.procs import all_procs
from harp.profile import Page, make
from harp.profile import read as read_profile

ROW_AT = 256 + 2 * 192
ROW = struct.pack("<7Q4I120s", 1, 10, 10, 5, 5_000_000, 0, 0, 1, 0, 0, 0, b"gemm")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "state")


def profiled(folder: Path) -> Path:
    """A grant's folder: 10 launches of one name, half of them measured, at 1 ms each."""
    folder.mkdir()
    make(folder)
    with (folder / "profile").open("r+b") as file:
        file.seek(ROW_AT)
        file.write(ROW)
    return folder


@pytest.mark.parametrize("own", [True, False])
def test_a_run_names_its_kernels(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, own: bool
) -> None:
    folder = profiled(tmp_path / "grant")
    one = tenant(uid=os.geteuid(), grant_dir=str(folder))
    if not own:
        monkeypatch.setattr(os, "geteuid", lambda: one.uid + 1)  # of another user's harpd

    async def steps(recording: Recording) -> None:
        recording.made(one, ["t"])
        desk.tenants[1] = one
        recording.look(picture(one), all_procs())
        recording.ended(desk.tenants.pop(1), picture(one), "ended")
        if own:
            shutil.rmtree(folder)  # as the book does now
        await recording.settle()
        assert recording.kernels_of(desk.told[0][1].job) == (("gemm", 10, 0.01),)

    do(desk, steps)
    assert [run.kernels for run in kept(desk)] == [(("gemm", 10, 0.01),)]
    assert desk.told[0][1].kernels == (("gemm", 10, 0.01),)


def end(recording: Recording, desk: Desk, one: Tenant) -> None:
    """A tenant's whole life."""
    desk.tenants[one.tenant_id] = one
    recording.made(one, ["t"])
    recording.look(picture(one), all_procs())
    recording.ended(desk.tenants.pop(one.tenant_id), picture(one), "ended")


def test_a_run_that_is_written_at_the_second_try_names_its_kernels(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = profiled(tmp_path / "grant")
    one = tenant(uid=os.geteuid(), grant_dir=str(folder))
    monkeypatch.setattr(os, "geteuid", lambda: one.uid + 1)  # of another user's harpd
    add, tries = History.add, []

    def fails_once(self: History, run: Run, key: str = "") -> Run:
        tries.append(run)
        if len(tries) == 1:
            raise HistoryError("no room")
        return add(self, run, key)

    monkeypatch.setattr(History, "add", fails_once)

    async def steps(recording: Recording) -> None:
        end(recording, desk, one)
        await recording.settle()
        assert (len(tries), desk.told) == (1, [])
        shutil.rmtree(folder)  # as its owner's next `harp run` does
        await recording.settle()

    do(desk, steps)
    assert [run.kernels for run in kept(desk)] == [(("gemm", 10, 0.01),)]
    assert [of for of, _ in desk.told] == [one]


def test_a_folder_of_no_name_or_of_another_user_s_ends_nothing(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = profiled(tmp_path / "grant")
    odd = [
        tenant(1, uid=4242, grant_dir="/x\0y"),
        tenant(2, uid=os.geteuid(), grant_dir="/x\0y"),
        tenant(3, uid=os.geteuid() + 1, grant_dir=str(theirs)),
        tenant(4, uid=4343, grant_dir=str(theirs)),
    ]

    def breaks(folder: Path, uid: int) -> Any:
        if uid == 4343:
            raise KeyError("odd")
        return read_profile(folder, uid)

    monkeypatch.setattr(daemon_profiles, "read", breaks)

    async def steps(recording: Recording) -> None:
        for one in odd:
            end(recording, desk, one)
        await recording.settle()

    do(desk, steps)
    assert [run.kernels for run in kept(desk)] == [()] * 4
    assert [of for of, _ in desk.told] == odd


@pytest.mark.parametrize("uid", [0, os.geteuid(), 4242])
def test_a_run_names_the_kernels_of_its_page(desk: Desk, uid: int) -> None:
    page = Page.make()
    os.pwrite(page.fd, ROW, ROW_AT)
    desk.pages[1] = page
    one = tenant(uid=uid, grant_dir="/nowhere")

    async def steps(recording: Recording) -> None:
        recording.made(one, ["t"])
        desk.tenants[1] = one
        recording.look(picture(one), all_procs())
        recording.ended(desk.tenants.pop(1), picture(one), "ended")
        desk.pages.clear()  # as the book does now

    do(desk, steps)
    assert [run.kernels for run in kept(desk)] == [(("gemm", 10, 0.01),)]


def test_a_folder_that_does_not_answer_keeps_no_run_from_being_written(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_apart, "_PATIENCE_S", 0.02)
    answers = threading.Event()
    monkeypatch.setattr(daemon_profiles, "read", lambda *_: answers.wait(20))
    both = [tenant(n, uid=4242, grant_dir="/hangs") for n in (1, 2)]

    async def steps(recording: Recording) -> None:
        for one in both:
            end(recording, desk, one)
        await recording.settle()
        assert [of for of, _ in desk.told] == both
        answers.set()

    do(desk, steps)
    assert [run.kernels for run in kept(desk)] == [(), ()]
