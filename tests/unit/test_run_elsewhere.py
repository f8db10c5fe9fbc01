# SPDX-License-Identifier: Apache-2.0
"""`harp run --remote` while its command runs: what is said of harp-link's end, and when."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from harp.api.v1 import remote_pb2 as pb
from harp.cli import run_remote as module
from harp.errors import NativeError
from harp.native import NativeDir
from harp.remote import beside
from harp.remote.taking import Taking
from harp.remote.who import Who


class EndedChild:
    """A command that has ended already when it is looked at."""

    pid = 4711

    def start(self, env: Mapping[str, str]) -> None:
        assert env == {"A": "1"}

    async def ended(self) -> int:
        return 7


class Link:
    """harp-link, whose last word has not come through yet."""

    def __init__(self, status: int | None) -> None:
        reading, self.writing = os.pipe()
        self.stdout = os.fdopen(reading, "rb")
        self._status = status
        self.heard: list[int] = []

    def poll(self) -> int | None:
        return self._status

    def send_signal(self, number: int) -> None:
        self.heard.append(number)


class OneLease:
    def __init__(self) -> None:
        self.dropped: list[str] = []
        self.refusals = 0
        self.reconnects = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield

    async def take(self) -> Taking:
        return Taking("n1", "n1:7443", pb.LeaseReply(lease_id="l"))

    async def hear(self, _reader: asyncio.StreamReader) -> None:
        await asyncio.get_running_loop().create_future()

    async def reconnect(self) -> bool:
        self.reconnects += 1
        self.refusals -= 1
        return self.refusals < 0

    async def drop(self, why: str) -> bool:
        self.dropped.append(why)
        return True


class RenewedWho:
    """Who has been given another certificate so often."""

    def __init__(self) -> None:
        self.times = 0

    def look(self) -> bool:
        return False  # whoever else looks may have seen it first

    @property
    def stamp(self) -> bytes:
        return bytes(self.times)


def made(holder: OneLease, link: Link, who: object, place: Path) -> module._Serving:
    return module._Serving(
        cast("Any", holder),
        cast("Any", EndedChild()),
        cast("Any", link),
        cast("Any", who),
        place,
        {"A": "1"},
        pb.LeaseRequest(name="x"),
        as_json=False,
    )


def test_all_that_it_began_go_on_with_a_renewed_certificate(tmp_path: Path) -> None:
    holder, link, who = OneLease(), Link(None), RenewedWho()
    holder.refusals = 2

    async def main() -> None:
        look = made(holder, link, who, tmp_path)._renewer()
        await look()
        assert (link.heard, holder.reconnects) == ([], 0)
        who.times += 1
        for _ in range(6):
            await look()
        assert link.heard == [signal.SIGUSR2] * 2, "it does not say whether it could read it"
        assert holder.reconnects == 3, "until the node answers"

    asyncio.run(main())
    os.close(link.writing)
    link.stdout.close()


@pytest.mark.parametrize("status", [-9, None])
def test_why_there_was_no_gpu_any_more_is_said_though_the_command_ended_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], status: int | None
) -> None:
    holder, link = OneLease(), Link(status)
    serving = made(holder, link, Who(None, "", print), tmp_path)

    async def main() -> int:
        return await serving.run(take=True)

    assert asyncio.run(main()) == 7
    os.close(link.writing)
    died = status is not None
    assert ("harp-link has ended" in capsys.readouterr().err) is died
    assert holder.dropped == ["harp-link has ended"] * died


@pytest.mark.parametrize(("says", "good"), [("ready", True), ("what", False)])
def test_harp_link_is_begun_by_who_has_many_files_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str, good: bool
) -> None:
    """A keeper with a thousand containers."""
    program = tmp_path / "harp-link"
    program.write_text(f"#!/bin/sh\necho {says}\nexec sleep 60\n")
    program.chmod(0o700)
    monkeypatch.setattr(NativeDir, "link", program)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, before[1]))
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(1100)]
    try:
        assert max(fds) >= 1024
        arguments = (NativeDir(tmp_path), tmp_path / "near.sock", tmp_path, None, os.environ)
        with (
            contextlib.nullcontext() if good else pytest.raises(NativeError, match="did not start"),
            beside.beside(*arguments, certificate=False) as link,
        ):
            assert isinstance(link, subprocess.Popen)
            assert link.stdout is not None
            assert link.stdout.fileno() >= 1024
    finally:
        for fd in fds:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
