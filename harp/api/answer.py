# SPDX-License-Identifier: Apache-2.0
"""How a service answers: with a reply, or with an error that the other side can rebuild."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc.aio
import structlog

from harp.api.status import code_of, trailers_of
from harp.errors import DaemonError, HarpError

__all__ = ["Context", "answer", "refuse"]

_log = structlog.get_logger(__name__)
Context = grpc.aio.ServicerContext[Any, Any]
_Reply = TypeVar("_Reply")


async def answer(work: Callable[[], Awaitable[_Reply]], context: Context, hint: str = "") -> _Reply:
    """The reply of `work`; what it raises ends the call.

    Args:
        work: what is asked for, who asks included.
        context: of the call.
        hint: what to do about a fault of ours.
    """
    try:
        return await work()
    except HarpError as error:
        await refuse(context, error)
    except Exception as error:  # noqa: BLE001 - a fault of ours must not look like the caller's
        _log.exception("call_broken")
        await refuse(context, DaemonError(f"harpd failed: {type(error).__name__}: {error}", hint))


async def refuse(context: Context, error: HarpError) -> NoReturn:
    """End the call with the error."""
    _log.info("call_refused", error=type(error).__name__, message=error.message)
    await context.abort(code_of(error), error.message, trailers_of(error))
    raise AssertionError("abort() raises")
