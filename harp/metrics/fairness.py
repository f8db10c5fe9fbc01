# SPDX-License-Identifier: Apache-2.0
"""Does a tenant that wants the GPU get its part of it? What was achieved, less what was due. Pure.

While a tenant is backlogged, weighted fair queueing owes it at least its weight's part g of the
device: W(t1, t2) >= g (t2 - t1) - c (generalised processor sharing: Parekh & Gallager, "A
generalized processor sharing approach to flow control", IEEE/ACM Trans. Networking 1(3), 1993). So
over a window

    error = (used(t2) - used(t1)) / (t2 - t1) - g

with g the mean of the weights that the arbiter said in the window's pictures: its share; for who
has none, what the shares of those that are active leave; less where shares add up to more than the
whole. Below 0 it got less than was due, above 0 more, as it may where others do not want. It says
something only of who wanted all the time: used and waited together fill BACKLOGGED of the window.
Who left the GPU idle is owed nothing, and there is no value.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from harp.model import Use

__all__ = ["BACKLOGGED", "WINDOW_S", "Fairness", "Point", "share_error"]

#: that is judged: longer than the usual time between two scrapes, much longer than a turn
WINDOW_S = 30.0
#: of the window that has to be known; of it, that the tenant has to have run or waited
_KNOWN = 0.5
BACKLOGGED = 0.9
#: pictures come as often as somebody asks; so many seconds lie between those that are kept
_STEP_S = 2.0


@dataclass(frozen=True, slots=True)
class Point:
    """What a picture said of a tenant on a device."""

    at_s: float  #: monotonic
    used_ns: int
    wait_ns: int
    weight_ratio: float


def share_error(points: list[Point], limit_ratio: float = 1.0) -> float | None:
    """Achieved less due, of the device's time; None: it did not want all the time, or unknown.

    Args:
        points: of the window, in their order.
        limit_ratio: the most it may have: no more than that is due.
    """
    if len(points) < 2:
        return None
    first, last = points[0], points[-1]
    window_s = last.at_s - first.at_s
    if window_s < _KNOWN * WINDOW_S:
        return None
    used = (last.used_ns - first.used_ns) / 1e9 / window_s
    waited = (last.wait_ns - first.wait_ns) / 1e9 / window_s
    if used + waited < BACKLOGGED:
        return None
    # A picture's weight holds until the next one.
    due = sum(a.weight_ratio * (b.at_s - a.at_s) for a, b in itertools.pairwise(points))
    return used - min(due / window_s, limit_ratio)


class Fairness:
    """The points of the last window, from picture to picture."""

    def __init__(self) -> None:
        #: {(tenant_id, uuid): points, oldest first}; of tenants in the last picture
        self._points: dict[tuple[int, str], list[Point]] = {}

    def see(self, uses: Mapping[tuple[int, str], Use], now_s: float) -> None:
        """Take a picture's uses; pictures come in their order."""
        kept: dict[tuple[int, str], list[Point]] = {}
        for key, use in uses.items():
            if use.standing is None or use.standing.weight_ratio is None:
                continue
            points = self._points.get(key, [])
            now = Point(now_s, use.used_ns, use.wait_ns, use.standing.weight_ratio)
            if points and (
                now.used_ns < points[-1].used_ns or now.wait_ns < points[-1].wait_ns
            ):  # another arbiter
                points = []
            if len(points) > 1 and points[-1].at_s - points[-2].at_s < _STEP_S:
                points.pop()
            points.append(now)
            while len(points) > 2 and points[1].at_s <= now_s - WINDOW_S:
                points.pop(0)
            kept[key] = points
        self._points = kept

    def forget(self, tenant_id: int) -> None:
        """A tenant has ended: its number may be another's."""
        self._points = {key: of for key, of in self._points.items() if key[0] != tenant_id}

    def error(self, tenant_id: int, uuid: str, limit_ratio: float = 1.0) -> float | None:
        """See share_error()."""
        return share_error(self._points.get((tenant_id, uuid), []), limit_ratio)
