# SPDX-License-Identifier: Apache-2.0
"""The folder from which `harp-link near` takes sessions for programs (native/src/link/offers.c).

FOLDER/ID holds a session that waits, FOLDER/.ID the same once a program has it, FOLDER/.refused why
there is none. Who removes a session's file ends the session.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from harp.errors import ConfigError, HarpError, WireError
from harp.remote.trust import address

__all__ = ["Offers", "check"]

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TOKEN_CHARS = 511
_REFUSED = ".refused"
#: the ring's answer to a program has room for so much
_WHY_BYTES = 240
_VERSIONS = "run the same version of HARP on both sides"


def check(session_id: str, token: str, endpoint: str) -> None:
    """Refuse words of a node that cannot be offered.

    Raises:
        WireError: one is not what it must be.
    """
    if not _ID.fullmatch(session_id):
        raise WireError(f"the node calls a session {session_id[:80]!r}", _VERSIONS)
    if not 0 < len(token) <= _TOKEN_CHARS or not token.isascii() or not token.isprintable():
        raise WireError(f"the node's token for session {session_id} is none", _VERSIONS)
    try:
        address(endpoint)
    except ConfigError as error:
        raise WireError(f"the node's endpoint: {error.message}", _VERSIONS) from error


class Offers:
    """One folder; its reader may take a session away at any time.

    All of it raises HarpError where the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def offer(self, session_id: str, token: str, endpoint: str) -> None:
        """Let a program have a session whose words were checked."""
        self._write(session_id, f"{token}\nto={endpoint}\n")

    def withdraw(self, session_id: str) -> bool:
        """Offer it no longer; False: a program has it."""
        try:
            with self._writing():
                (self._folder / session_id).unlink()
        except FileNotFoundError:
            return False
        return True

    def end_all(self) -> None:
        """End all sessions, offered and taken."""
        with self._writing():
            for path in self._folder.iterdir():
                if path.name != _REFUSED:
                    with contextlib.suppress(FileNotFoundError):  # its process ends just now
                        path.unlink()

    def deny(self, why: str) -> None:
        """Tell programs that find no session why; the words may be another machine's."""
        text = "".join(c if c.isprintable() else "?" for c in " ".join(why.split()))
        line = text.encode()[:_WHY_BYTES].decode(errors="ignore")
        self._write(_REFUSED, f"{line}\n")

    def admit(self) -> None:
        """There will be sessions again."""
        with self._writing():
            (self._folder / _REFUSED).unlink(missing_ok=True)

    def _write(self, name: str, text: str) -> None:
        """Whole or not at all: the reader looks for names without a dot."""
        scratch = self._folder / f".new.{name}"
        with self._writing():
            fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(fd, "w") as file:
                    file.write(text)
                scratch.rename(self._folder / name)
            except OSError:
                scratch.unlink()
                raise

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, FileNotFoundError) and self._folder.exists():
                raise
            raise HarpError(
                f"sessions cannot be written to {self._folder}: {error.strerror}",
                "make room there, or let XDG_RUNTIME_DIR name another folder",
            ) from error
