# SPDX-License-Identifier: Apache-2.0
"""A certificate that is renewed while who shows it runs: its files are others, in their place.

Who looks now and then gets them; what cannot be used is not taken, and the one of before goes on.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from harp.errors import HarpError
from harp.remote.trust import Identity

__all__ = ["LOOK_S", "Renewing", "Told", "again_and_again"]

_log = structlog.get_logger(__name__)
#: how often a certificate is looked at: well before the end of any, and of no cost
LOOK_S = 30.0


class Renewing:
    """An identity, as its folder has it by now.

    Args:
        load: reads what is there.
        say: hears what cannot be used, once.

    Raises:
        HarpError: as `load`, the first time.
    """

    def __init__(self, load: Callable[[], Identity], say: Callable[[str], None]) -> None:
        self._load = load
        self._say = say
        self._said = ""
        self.now = load()
        self.stamp = _stamp(self.now)  #: another one whenever a file is

    def look(self) -> bool:
        """Take what is there now; whether that is another one."""
        try:
            found = self._load()
        except (HarpError, OSError) as error:
            why = f"{error.message}; {error.hint}" if isinstance(error, HarpError) else str(error)
            if why != self._said:
                self._said = why
                ends = self.now.certificate.ends.isoformat(timespec="seconds")
                self._say(f"{why}. The certificate of before is used, until {ends}")
            return False
        self._said = ""
        if (stamp := _stamp(found)) == self.stamp:
            return False
        # One after the other: who is at another thread sees the identity first.
        self.now, self.stamp = found, stamp
        return True


def _stamp(identity: Identity) -> bytes:
    pem = (identity.chain_pem, identity.key_pem, identity.authority_pem)
    return hashlib.sha256(b"\0".join(pem)).digest()


@dataclass(slots=True)
class Told:
    """A process that reads the files again when it is told to, and does not say whether it could.

    So it is told twice: as soon as they are others, and once more at the next look.
    """

    stamp: bytes
    again: bool = False

    def due(self, stamp: bytes, *, look: bool) -> bool:
        """Whether to tell it now; look: this is one of those that come each LOOK_S."""
        if self.stamp != stamp:
            self.stamp, self.again = stamp, True
            return True
        if look and self.again:
            self.again = False
            return True
        return False


def _logged(error: Exception) -> None:
    _log.error("look_failed", exc_info=error)


async def again_and_again(
    what: Callable[[], Awaitable[None]],
    failed: Callable[[Exception], None] = _logged,
    period_s: float = LOOK_S,
) -> None:
    """Do it each period, until cancelled; what fails is told, and done again."""
    while True:
        await asyncio.sleep(period_s)
        try:
            await what()
        except Exception as error:  # noqa: BLE001 - nobody else would do it from then on
            failed(error)
