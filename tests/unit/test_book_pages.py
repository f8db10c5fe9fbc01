# SPDX-License-Identifier: Apache-2.0
"""Pages of tenants that share no folder with harpd: made, handed on, and closed with the tenant."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from book_world import DEVICES, Desk, do, listening, wish
from structlog.testing import capture_logs

from harp.daemon.book import Book
from harp.daemon.owners import Wish
from harp.errors import ArbiterError
from harp.profile import Page


def open_here() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


POD = replace(wish("0"), name="ns/p/main", uid=0, root_pid=0, any_uid=True, held=True)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    found = Desk(tmp_path)
    yield found
    found.close()


@pytest.mark.parametrize(
    ("asked", "euid", "version", "paged"),
    [
        (POD, 0, 3, True),
        (POD, 0, 2, False),  # the arbiter cannot pass it on
        (wish("0"), 0, 3, False),  # root reads everybody's folder
        (wish("0"), 1000, 3, False),  # its own
        (wish("0"), 1001, 3, True),
        (replace(wish("0"), uid=0), 1001, 3, True),
    ],
)
def test_who_shares_no_folder_with_harpd_gets_a_page(
    desk: Desk,
    monkeypatch: pytest.MonkeyPatch,
    asked: Wish,
    euid: int,
    version: int,
    *,
    paged: bool,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: euid)
    desk.arbiter.version = version
    removed: list[bool] = []

    async def steps(book: Book) -> None:
        book.on_removed = lambda tenant, *_: removed.append(tenant.tenant_id in book.pages)
        tenant = await book.create(asked, listening())
        number = tenant.tenant_id
        assert (number in book.pages) == paged
        along = desk.arbiter.along[number]
        assert len(along) == 1 + paged
        if paged:
            fd = book.pages[number].fd
            assert along[1] == os.fstat(fd).st_ino
        await book.remove(tenant, "ended")
        assert removed == [paged], "who is told of its end can read it yet"
        assert not book.pages
        if paged:
            with pytest.raises(OSError, match="Bad file"):
                os.fstat(fd)

    do(desk, steps)


def test_a_tenant_that_is_refused_leaves_no_page(desk: Desk) -> None:
    desk.arbiter.broken = 0

    async def steps(book: Book) -> None:
        before = open_here()
        with pytest.raises(ArbiterError):
            await book.create(POD, listening())
        assert not book.pages
        assert open_here() == before

    do(desk, steps)


def test_no_page_to_be_had_is_no_reason_for_no_grant(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> int:
        raise OSError("no memory")

    monkeypatch.setattr(os, "memfd_create", none)

    async def steps(book: Book) -> None:
        with capture_logs() as logs:
            tenant = await book.create(POD, listening())
        assert tenant.tenant_id not in book.pages
        assert [e["reason"] for e in logs if e["event"] == "page_not_made"] == ["no memory"]

    do(desk, steps)


def test_a_page_goes_on_to_the_next_arbiter_and_the_next_harpd(desk: Desk) -> None:
    async def steps(book: Book) -> None:
        tenant = await book.create(POD, listening())
        number = tenant.tenant_id
        ours = os.fstat(book.pages[number].fd).st_ino
        desk.arbiter.tenants.clear()  # another one
        desk.arbiter.along.clear()
        await book.recover()
        assert desk.arbiter.along[number][1:] == [ours]
        # Another harpd: the arbiter has them, and one of a tenant that nobody knows.
        stray = Page.make()
        kept = {number: os.dup(book.pages[number].fd), 77: os.dup(stray.fd)}
        desk.arbiter.kept = {}, dict(kept)
        after = desk.new_book()
        await after.announce_devices(DEVICES)
        await after.recover()
        assert {n: os.fstat(page.fd).st_ino for n, page in after.pages.items()} == {number: ours}
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(kept[77])
        assert os.pread(after.pages[number].fd, 8, 0) == b"HARPPROF"
        after.close()
        assert not after.pages

    do(desk, steps)


def test_what_the_arbiter_kept_is_looked_at(desk: Desk) -> None:
    async def steps(book: Book) -> None:
        tenant = await book.create(wish("0"), listening())
        desk.arbiter.kept = {}, {tenant.tenant_id: os.memfd_create("x")}
        with capture_logs() as logs:
            await book.recover()
        assert not book.pages
        assert [e["event"] for e in logs if e["event"] == "page_not_kept"]

    do(desk, steps)


def test_who_began_under_an_older_arbiter_gets_a_page_with_the_next(desk: Desk) -> None:
    desk.arbiter.version = 2

    async def steps(book: Book) -> None:
        tenant = await book.create(POD, listening())
        assert not book.pages
        desk.arbiter.tenants.clear()
        desk.arbiter.version = 3
        await book.recover()
        (page,) = book.pages.values()
        assert desk.arbiter.along[tenant.tenant_id][1:] == [os.fstat(page.fd).st_ino]

    do(desk, steps)


def test_an_arbiter_from_before_pages_is_given_none(desk: Desk) -> None:
    """As after a step back: it would not know what to do with one."""

    async def steps(book: Book) -> None:
        tenant = await book.create(POD, listening())
        desk.arbiter.tenants.clear()
        desk.arbiter.version = 2
        await book.recover()
        assert len(desk.arbiter.along[tenant.tenant_id]) == 1
        assert set(book.pages) == {tenant.tenant_id}, "for the one after it"

    do(desk, steps)


def test_a_tenant_that_is_lost_leaves_no_page(desk: Desk) -> None:
    async def steps(book: Book) -> None:
        tenant = await book.create(POD, listening())
        fd = book.pages[tenant.tenant_id].fd
        desk.arbiter.tenants.clear()
        desk.arbiter.broken = 0
        await book.recover()
        assert (book.tenants, book.pages) == ({}, {})
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)

    do(desk, steps)


def test_the_page_that_harpd_has_is_not_exchanged_for_the_arbiter_s(desk: Desk) -> None:
    async def steps(book: Book) -> None:
        number = (await book.create(POD, listening())).tenant_id
        ours, other = os.fstat(book.pages[number].fd).st_ino, Page.make()
        desk.arbiter.kept = {}, {number: (fd := os.dup(other.fd))}
        await book.recover()
        assert os.fstat(book.pages[number].fd).st_ino == ours
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)

    do(desk, steps)
