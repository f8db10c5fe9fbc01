# SPDX-License-Identifier: Apache-2.0
"""What all tenants of a device used, those that have ended as well: counters never go back. Pure.

The arbiter counts for each tenant it has. A tenant's counts go with it, and a new arbiter begins
at zero; so what was added between two pictures is added here. Three rules:
(1) What was used before the first picture is not ours to count: an arbiter outlives harpd, and a
    counter that jumps from 0 to all of it would show as a burst.
(2) A count that went back began at zero again.
(3) A tenant's number is given to another when it ends: forget() comes in between.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from harp.model import Use

__all__ = ["Total", "Totals"]


@dataclass(frozen=True, slots=True)
class Total:
    """Used on one device since harpd started."""

    used_ns: int = 0
    wait_ns: int = 0
    launches: int = 0
    denials: int = 0


def _counts(use: Use) -> tuple[int, int, int, int]:
    return use.used_ns, use.wait_ns, use.launches, use.denials


class Totals:
    """The totals, from picture to picture."""

    def __init__(self) -> None:
        #: {uuid: total}
        self.of: dict[str, Total] = {}
        #: {tenant_id: when a picture last showed that it had used something}; of tenants that live
        self.active_s: dict[int, float] = {}
        #: {(tenant_id, uuid): counts in the picture before}; of tenants that live
        self._last: dict[tuple[int, str], tuple[int, int, int, int]] = {}
        self._begun = False

    def see(
        self, tenants: Collection[int], uses: Mapping[tuple[int, str], Use], now_s: float
    ) -> None:
        """Take a picture's tenants and uses; pictures come in their order."""
        self._last = {key: counts for key, counts in self._last.items() if key[0] in tenants}
        self.active_s = {key: at for key, at in self.active_s.items() if key in tenants}
        for key, use in uses.items():
            now = _counts(use)
            last = self._last.get(key, (0, 0, 0, 0) if self._begun else now)
            if any(a < b for a, b in zip(now, last, strict=True)):
                last = (0, 0, 0, 0)
            self._last[key] = now
            if now != last:
                if now[0] != last[0] or now[2] != last[2]:  # to wait, or be refused, is no use
                    self.active_s[key[0]] = now_s
                total = self.of.get(key[1], Total())
                self.of[key[1]] = Total(
                    total.used_ns + now[0] - last[0],
                    total.wait_ns + now[1] - last[1],
                    total.launches + now[2] - last[2],
                    total.denials + now[3] - last[3],
                )
        self._begun = True

    def forget(self, tenant_id: int) -> None:
        """A tenant has ended; what it used stays."""
        self._last = {key: counts for key, counts in self._last.items() if key[0] != tenant_id}
        self.active_s.pop(tenant_id, None)
