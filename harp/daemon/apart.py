# SPDX-License-Identifier: Apache-2.0
"""What may never return, in threads that nothing waits for: neither who asks nor harpd's end.

A tenant's folder may lie on a file system that does not answer. So each user's are asked apart from
all others', and of a user a few may hang; who has more of them is asked nothing more until one of
these comes back.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import structlog

__all__ = ["Apart"]

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
_PATIENCE_S = 1.0
#: of a user; each holds a thread
_HANGING = 4


class Apart:
    """Calls on behalf of users: of one user one at a time, but for those that hang."""

    def __init__(self) -> None:
        #: {uid: its last call}
        self._running: dict[int, Future[Any]] = {}
        #: {uid: calls that nobody waits for any more}
        self._hanging: dict[int, list[Future[Any]]] = {}

    async def run(self, uid: int, what: Callable[..., _T], *arguments: object) -> _T | None:
        """What it returns; None: not in time, or it failed, or too many of the user's hang."""
        left = [call for call in self._hanging.pop(uid, ()) if not call.done()]
        if left:
            self._hanging[uid] = left
        if len(left) >= _HANGING:
            return None
        call: Future[Any] | None = None
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while (call := self._running.get(uid)) is not None:
                    await self._end_of(uid, call)  # whoever began it did not stay
                call = self._running[uid] = _begun(what, arguments)
                await self._end_of(uid, call)
        except TimeoutError:
            if call is not None and self._running.get(uid) is call:
                self._hanging.setdefault(uid, []).append(self._running.pop(uid))
            _log.warning("folder_not_read", uid=uid, reason="a tenant's folder does not answer")
            return None
        found: _T | None = call.result()
        return found

    async def _end_of(self, uid: int, call: Future[Any]) -> None:
        await asyncio.shield(asyncio.wrap_future(call))
        if self._running.get(uid) is call:
            del self._running[uid]


def _begun(what: Callable[..., _T], arguments: tuple[object, ...]) -> Future[_T | None]:
    call: Future[_T | None] = Future()
    call.set_running_or_notify_cancel()

    def body() -> None:
        found = None
        try:
            found = what(*arguments)
        except Exception:  # noqa: BLE001 - one odd folder may not end harpd
            _log.exception("folder_reading_broken")
        call.set_result(found)

    try:
        # Python joins a pool's threads as it ends, but not these.
        threading.Thread(target=body, name="folders", daemon=True).start()
    except RuntimeError as error:
        _log.warning("folder_not_read", reason=str(error))
        call.set_result(None)
    return call
