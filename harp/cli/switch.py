# SPDX-License-Identifier: Apache-2.0
"""Attach and detach a command that runs: a socket in its run's folder, JSON lines.

    {"do": "attach", "to": "HOST:PORT"}    -> {"node": ..., "endpoint": ..., "lease": ...}
    {"do": "detach"}                       -> {"detached": true or false}
    refused                                -> {"error": {"text": ..., "hint": ...}}

The folder is its user's alone, and so is the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

from harp.errors import ConfigError, DaemonUnreachable, HarpError
from harp.remote.holder import Holder
from harp.remote.trust import address

__all__ = ["RUNS", "SOCKET", "ask", "detached", "listening", "runs"]

#: in the user's own folder: a folder for each run
RUNS = "runs"
SOCKET = "control.sock"
_LINE_BYTES = 4096
#: a node may have to be looked for, and its lease to be given back
_ANSWER_S = 60.0
_HEAR_S = 5.0


def runs(base: Path, name: str) -> list[Path]:
    """Folders of the runs called `name`: as `harp run --remote --json` says, or before its dash."""
    if not base.is_dir():
        return []
    stem = "".join(c for c in name if c.isalnum())[:16]
    return [
        place
        for place in sorted(base.iterdir())
        if (place / SOCKET).exists()
        and (place.name == name or (stem and place.name.rpartition("-")[0] == stem))
    ]


def detached(place: Path) -> str:
    """What programs are told meanwhile."""
    return f"the command is detached from its GPU; remedy: harp remote attach {place.name}"


def ask(place: Path, request: dict[str, str]) -> dict[str, object]:
    """What the run answers.

    Raises:
        DaemonUnreachable: it is not there any more.
        HarpError: it refused.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_ANSWER_S)
        try:
            sock.connect(str(place / SOCKET))
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as answer:
                line = answer.readline(_LINE_BYTES)
        except OSError as error:
            raise DaemonUnreachable(
                f"{place.name} does not answer: {error.strerror or 'it takes too long'}",
                "has the command ended?",
            ) from error
    if not line.endswith(b"\n"):
        raise DaemonUnreachable(f"{place.name} has ended", "start the command again")
    said: dict[str, object] = json.loads(line)
    if isinstance(refusal := said.get("error"), dict):
        raise HarpError(str(refusal["text"]), str(refusal["hint"]))
    return said


@contextlib.asynccontextmanager
async def listening(holder: Holder, place: Path) -> AsyncIterator[None]:
    """Answer while the block runs."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_HEAR_S):
                line = await reader.readline()
            said = await _done(holder, place, line)
            writer.write(json.dumps(said).encode() + b"\n")
            await writer.drain()
        except (TimeoutError, ValueError, OSError):
            pass  # whoever asked has gone, or says no line
        finally:
            writer.close()

    before = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(answer, place / SOCKET, limit=_LINE_BYTES)
    finally:
        os.umask(before)
    async with server:
        yield


async def _done(holder: Holder, place: Path, line: bytes) -> dict[str, object]:
    try:
        match _request(line):
            case "attach", to:
                taking = await holder.take(to)
                return {
                    "node": taking.node_id,
                    "endpoint": taking.endpoint,
                    "lease": taking.lease.lease_id,
                }
            case "detach", _:
                return {"detached": await holder.drop(detached(place))}
            case what, _:
                raise ConfigError(f"{what!r} is unknown here", "attach or detach")
    except HarpError as error:
        return {"error": {"text": error.message, "hint": error.hint}}


def _request(line: bytes) -> tuple[str, str]:
    try:
        said = json.loads(line)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise ConfigError("the request is no JSON object", "use `harp remote attach`")
    to = str(said.get("to", ""))
    if to:
        address(to)
    return str(said.get("do", "")), to
