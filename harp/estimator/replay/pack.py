# SPDX-License-Identifier: Apache-2.0
"""Containers of a recorded table packed onto GPUs, window by window. Pure.

Before each window a container is taken for the largest of its last three windows, and for a whole
device while it has none. The buffer of a GPU is chosen on the windows of the warm-up alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from harp.estimator.packing import Load, Packed, buffer_for, packed
from harp.estimator.replay.tables import SAMPLE_S, WHOLE_DEVICE_BYTES, WINDOW_S, Case, Sample
from harp.estimator.replay.walk import walk

__all__ = ["pack_report"]

#: sum of the containers' 95 % utilization on one GPU: they do not peak together
_UTIL_PCT = 150.0
#: of GPU-windows, that the buffer may let be exceeded on the warm-up: half of what is promised
_OVER_RATIO = 0.0025
_SLOTS = round(WINDOW_S / SAMPLE_S)
_RECENT = 3


def pack_report(
    warmup: Sequence[Sample],
    score: Sequence[Sample],
    cases: tuple[Sequence[Case], Sequence[Case]],
    device_bytes: float,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, object]:
    """Figures of the windows of `score`, beside other ways to pack them.

    Args:
        warmup: samples to learn from.
        score: later ones.
        cases: the same as cases, for the bounds of single containers.
        device_bytes: of a GPU.
        progress: told what goes on.
    """
    before, after = _windows(warmup), _windows(score)
    bounds = _bounds(*cases)
    known: dict[str, list[tuple[float, float]]] = defaultdict(list)
    early = [loads["recent"] for _, loads in _loads(before, known, {}, min_seen=_RECENT)]
    buffer = buffer_for(
        early,
        device_bytes,
        _UTIL_PCT,
        _OVER_RATIO,
        lambda at: progress(f"a buffer of {at:.0%} on {len(early)} windows of the warm-up"),
    )
    sums = {name: Packed(0, 0, 0) for name in ("recent", "no_buffer", "bounds", "oracle")}
    for _, loads in _loads(after, known, bounds):
        for name, total in sums.items():
            kind = "recent" if name == "no_buffer" else name
            free = buffer if name == "recent" else 0.0
            sums[name] = total + packed(loads[kind], device_bytes, free, _UTIL_PCT)
    return {
        **_figures(sums["recent"]),
        "buffer_ratio": buffer,
        "device_bytes": device_bytes,
        "gpu_windows": sums["recent"].gpus,
        "beside": {
            "no_buffer": _figures(sums["no_buffer"]),
            "per_job_bounds": _figures(sums["bounds"]),
            "oracle": _figures(sums["oracle"]),
        },
    }


def _figures(total: Packed) -> dict[str, object]:
    return {
        "containers_per_gpu": total.containers / total.gpus if total.gpus else None,
        "overload_ratio": total.over / total.gpus if total.gpus else None,
    }


def _windows(samples: Sequence[Sample]) -> dict[int, dict[str, dict[int, tuple[float, float]]]]:
    """{window: {container: {slot: (bytes, utilization)}}}."""
    found: dict[int, dict[str, dict[int, tuple[float, float]]]] = {}
    for sample in samples:
        if "gpu_mem_bytes" not in sample.values:
            continue
        window = int(sample.at_s // WINDOW_S)
        slot = int((sample.at_s - window * WINDOW_S) // SAMPLE_S)
        found.setdefault(window, {}).setdefault(sample.pod, {})[slot] = (
            sample.values["gpu_mem_bytes"],
            sample.values.get("gpu_util_pct", 0.0),
        )
    return dict(sorted(found.items()))


def _loads(
    windows: dict[int, dict[str, dict[int, tuple[float, float]]]],
    known: dict[str, list[tuple[float, float]]],
    bounds: dict[tuple[str, int], float],
    min_seen: int = 0,
) -> Iterator[tuple[int, dict[str, list[Load]]]]:
    for number, (window, pods) in enumerate(windows.items()):
        kinds: dict[str, list[Load]] = {"recent": [], "bounds": [], "oracle": []}
        for pod, slots in sorted(pods.items()):
            used = tuple(slots.get(at, (0.0, 0.0))[0] for at in range(_SLOTS))
            utils = sorted(util for _, util in slots.values())
            peak, util = max(used), utils[int(0.95 * len(utils))]
            recent = known[pod][-_RECENT:]
            expected = max((mem for mem, _ in recent), default=WHOLE_DEVICE_BYTES)
            busy = recent[-1][1] if recent else 100.0
            bound = bounds.get((pod, window), WHOLE_DEVICE_BYTES)
            kinds["recent"].append(Load(pod, expected, busy, used))
            kinds["bounds"].append(Load(pod, bound, busy, used))
            kinds["oracle"].append(Load(pod, peak, util, used))
            known[pod].append((peak, util))
        if number >= min_seen:
            yield window, kinds


def _bounds(warmup: Sequence[Case], score: Sequence[Case]) -> dict[tuple[str, int], float]:
    before, after = (
        [case for case in cases if case.target == "gpu_mem_bytes"] for cases in (warmup, score)
    )
    found = {}
    for one in walk(before, after):
        if one.found.grant is not None:
            found[one.case.name, round(one.case.begin_s / WINDOW_S)] = one.found.grant
    return found
