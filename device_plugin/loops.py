# SPDX-License-Identifier: Apache-2.0
"""Threads of a plugin that do the same again and again, whatever becomes of one time."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from device_plugin.metrics import Counts, Part
from harp.errors import HarpError

__all__ = ["again_and_again"]

_log = structlog.get_logger(__name__)


def again_and_again(
    work: Callable[[], None],
    stop: threading.Event,
    period_s: float,
    part: Part,
    counts: Counts,
    *,
    at_once: bool = False,
) -> None:
    """Do `work` until `stop`; what fails is counted and logged, and ends nothing.

    Args:
        work: once.
        stop: ends it.
        period_s: from one end to the next begin.
        part: of the plugin, for count and log.
        counts: of the plugin.
        at_once: the first time without waiting.
    """
    pause_s = 0.0 if at_once else period_s
    while not stop.wait(pause_s):
        pause_s = period_s
        try:
            work()
        except HarpError as error:
            counts.failed(part)
            _log.warning(f"{part.value}_failed", reason=error.message)
        except Exception:  # noqa: BLE001 - one odd grant or pod may not end the look at all
            counts.failed(part)
            _log.exception(f"{part.value}_broken")
