# SPDX-License-Identifier: Apache-2.0
"""What comes of an estimate for a container: nothing, a word to its pod, or lower limits. Pure.

| mode, of its namespace | harp.dev/estimate | what comes of it |
|---|---|---|
| observe | - | nothing; harpd holds its estimates against what comes, whatever is said here |
| recommend | - | an event: a smaller share would do |
| any | auto | its limits are lowered to the estimate, within its share; an event says so |
| enforce | - | as auto |
| any | off | nothing |

Never above what the share and the pod's own annotations give, so what a quota counts stays what is
had. Only what was learned from runs of such a job counts: who is unknown keeps all, though others
with its image or of its user may be known. Of time the guarantee is lowered and not the limit: else
nobody could ever be seen to need more. A container that runs keeps what it started with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from device_plugin.annotations import PREFIX
from device_plugin.book import Cap, Grant
from device_plugin.identity import Pod
from harp.estimator.job import Need
from harp.estimator.keys import SIMILAR
from harp.estimator.modes import Mode, mode_of
from harp.model import Limits
from harp.units import PPM, format_percent, format_size

__all__ = ["REASON", "Estimates", "Modes", "cap_of", "capped", "word_of"]

#: of events
REASON = "HarpEstimate"
_ANNOTATION = PREFIX + "estimate"
#: memory is leased in pieces of this size
_GRANULE_BYTES = 2 << 20


class Estimates(Protocol):
    """harpd, as far as it says what a container will need."""

    def needs(self, grant: Grant) -> Mapping[str, Need]:
        """By target; `grant` has the limits that its container would have without.

        Raises:
            HarpError: harpd does not answer, or refuses.
        """
        ...


@dataclass(frozen=True, slots=True)
class Modes:
    """The modes of this node."""

    usual: Mode = Mode.OBSERVE
    #: {namespace: its own}
    others: Mapping[str, Mode] | None = None

    def of(self, pod: Pod) -> Mode:
        """What is done for a pod's containers; what it says itself comes first."""
        said = pod.annotations.get(_ANNOTATION, "")
        if said in ("auto", "off"):
            return Mode.ENFORCE if said == "auto" else Mode.OBSERVE
        return mode_of(self.usual, self.others or {}, namespace=pod.namespace)


def cap_of(limits: Limits, needs: Mapping[str, Need]) -> Cap:
    """What of these limits an estimate lowers."""
    memory, share = _bound(needs.get("gpu_mem_bytes")), _bound(needs.get("share_ratio"))
    mem_bytes = math.ceil(memory / _GRANULE_BYTES) * _GRANULE_BYTES if memory else 0
    share_ppm = math.ceil(share * PPM) if share else 0
    if not 0 < mem_bytes < limits.mem_bytes:
        mem_bytes = 0
    if not 0 < share_ppm < limits.share_ppm:
        share_ppm = 0
    if not mem_bytes and not share_ppm:
        return Cap()
    return Cap(mem_bytes, share_ppm, limits.mem_bytes, limits.share_ppm)


def _bound(need: Need | None) -> float:
    """Of what is known of jobs like it; 0: nothing is."""
    if need is None or not need.known or need.level not in SIMILAR:
        return 0.0
    return need.bound or 0.0


def capped(limits: Limits, cap: Cap) -> Limits:
    """The limits, lowered."""
    return replace(
        limits,
        mem_bytes=min(limits.mem_bytes, cap.mem_bytes or limits.mem_bytes),
        share_ppm=min(limits.share_ppm, cap.share_ppm or limits.share_ppm),
    )


def word_of(
    container: str, limits: Limits, needs: Mapping[str, Need], cap: Cap, *, done: bool
) -> str:
    """What its pod is told.

    Args:
        container: its name.
        limits: that it would have without.
        needs: what was said.
        cap: what follows.
        done: and is done.
    """
    parts = []
    if cap.mem_bytes:
        of = f"{format_size(cap.mem_bytes)} of {format_size(limits.mem_bytes)}"
        parts.append(f"{of} ({needs['gpu_mem_bytes'].reason})")
    if cap.share_ppm:
        of = f"{format_percent(cap.share_ppm)} of {format_percent(limits.share_ppm)}"
        parts.append(f"{of} ({needs['share_ratio'].reason})")
    return f"container {container} {'has' if done else 'would do with'} {' and '.join(parts)}"
