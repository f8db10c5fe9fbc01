# SPDX-License-Identifier: Apache-2.0
"""harp-link beside the programs of one lease, as a process of ours."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from harp.errors import NativeError
from harp.native import NativeDir, scrub

__all__ = ["beside", "said_by"]

#: until harp-link listens, and until it has ended
_NEAR_S = 10.0


@contextlib.contextmanager
def beside(
    native: NativeDir,
    socket: Path,
    sessions: Path,
    folder: Path | None,
    env: Mapping[str, str],
    *,
    certificate: bool,
    name: str = "",
    traffic: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run harp-link, which says on stdout who has which session. It ends with the block and us.

    Args:
        native: what is built.
        socket: where programs connect.
        sessions: folder of what they are offered (harp/remote/offers.py).
        folder: of the client, with its authority; None: plaintext.
        env: ours.
        name: what nodes' certificates are for; "": each one's host.
        traffic: whether it says what sessions carry, too.
        certificate: whether to show the client's; else sessions' tokens must do.

    Raises:
        NativeError: it does not come up.
    """
    options: list[str | Path] = [native.link, "near", "--socket", socket, "--sessions", sessions]
    if folder is not None:
        options += ["--ca", folder / "ca.crt"]
    if folder is not None and certificate:
        options += ["--cert", folder / "tls.crt", "--key", folder / "tls.key"]
    if name:
        options += ["--name", name]
    if traffic:
        options.append("--traffic")
    # In a session of its own: what a terminal sends is for the programs, which may go on.
    process = subprocess.Popen(
        options,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        bufsize=0,
        env=scrub(env),
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        if not _says(process.stdout, _NEAR_S) or os.read(process.stdout.fileno(), 6) != b"ready\n":
            raise NativeError("harp-link did not start", "see what it says above")
        yield process
    finally:
        process.terminate()
        try:
            process.wait(_NEAR_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


async def said_by(
    link: subprocess.Popen[bytes],
) -> tuple[asyncio.StreamReader, asyncio.BaseTransport]:
    """What harp-link says, and its sessions, to be read to the end though the block above ends."""
    assert link.stdout is not None
    reader = asyncio.StreamReader()
    pipe, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader),
        os.fdopen(os.dup(link.stdout.fileno()), "rb", buffering=0),
    )
    return reader, pipe


def _says(pipe: IO[bytes], within_s: float) -> bool:
    """Whether there is something to read; not by select(2), which knows 1024 descriptors."""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        return bool(selector.select(within_s))
