# SPDX-License-Identifier: Apache-2.0
"""What a pod says of itself, within its share. Pure.

| annotation | value | effect |
|---|---|---|
| harp.dev/memory | quantity, "18Gi" | a lower memory limit, per GPU |
| harp.dev/compute | percent of a GPU, "30" | a lower share of its time |
| harp.dev/compute-burst | "true" | may use time that nobody else wants |
| harp.dev/class | latency, standard, best-effort | scheduling class |
| harp.dev/oversubscribe | "true" | its memory may leave the GPU while others have it |
| harp.dev/estimate | "auto", "off" | lowered to what it will need, or never (estimates.py) |
| harp.dev/remote | "required" | none here: for shares elsewhere (remote_share.py) |

The share was paid for with a resource that quotas count; an annotation was not. So it may lower
what the share gives, never raise it: what is above is cut to the share, and said as an event.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from harp.errors import UnitError
from harp.model import Limits, TenantClass
from harp.units import format_percent, format_size, parse_percent

__all__ = ["PREFIX", "Problem", "parse_quantity", "refine"]

PREFIX = "harp.dev/"
#: memory is leased in pieces of this size
_GRANULE_BYTES = 2 << 20
_FACTORS = {
    "": 1,
    "k": 10**3,
    "M": 10**6,
    "G": 10**9,
    "T": 10**12,
    "P": 10**15,
    "E": 10**18,
    "Ki": 1 << 10,
    "Mi": 1 << 20,
    "Gi": 1 << 30,
    "Ti": 1 << 40,
    "Pi": 1 << 50,
    "Ei": 1 << 60,
}
_QUANTITY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?)(?:[eE]([0-9]{1,2})|([kMGTPE]|[KMGTPE]i)?)")
_ANSWERS = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class Problem:
    """An annotation that is not done as it says."""

    annotation: str
    message: str


def refine(share: Limits, annotations: Mapping[str, str]) -> tuple[Limits, tuple[Problem, ...]]:
    """What a pod's containers get: their share, as the pod's annotations lower it.

    Args:
        share: what the ids alone say.
        annotations: all of the pod's; others' are not looked at.

    Returns:
        The limits, none of them above the share's; what could not be done as it was said.
    """
    limits, problems = share, []
    # By name: "compute" comes before "compute-burst".
    for name in sorted(n for n in annotations if n.startswith(PREFIX)):
        key = name.removeprefix(PREFIX)
        if key in _ELSEWHERE:
            continue
        if key not in _TAKEN:
            near = difflib.get_close_matches(key, _TAKEN, n=1)
            meant = f"; did you mean {PREFIX}{near[0]}?" if near else ""
            problems.append(Problem(name, f"unknown annotation {name}{meant}"))
            continue
        try:
            limits, problem = _TAKEN[key](limits, share, annotations[name])
        except UnitError as error:
            problem = f"{error.message}; {error.hint}; it is ignored"
        if problem:
            problems.append(Problem(name, f"{name}: {problem}"))
    return limits, tuple(problems)


def parse_quantity(text: str) -> int:
    """Bytes of a Kubernetes quantity, rounded down.

    Source: kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity. Negative
    numbers and parts of a byte are not taken.

    Raises:
        UnitError: none.
    """
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        raise UnitError(f"{text!r} is no quantity of memory", 'write "18Gi" or "500Mi"')
    power = 10 ** int(match[2]) if match[2] else _FACTORS[match[3] or ""]
    return int(Decimal(match[1]) * power)


def _memory(limits: Limits, share: Limits, text: str) -> tuple[Limits, str]:
    asked = parse_quantity(text) // _GRANULE_BYTES * _GRANULE_BYTES
    if asked < _GRANULE_BYTES:
        # 0 would be no limit at all.
        raise UnitError(f"{text!r} is below {format_size(_GRANULE_BYTES)}", "ask for more")
    if asked > share.mem_bytes:
        problem = (
            f"{text} is more than the share has, {format_size(share.mem_bytes)}; it gets that."
            " Ask for a larger harp.dev/gpu-share"
        )
        return limits, problem
    return replace(limits, mem_bytes=asked), ""


def _compute(limits: Limits, share: Limits, text: str) -> tuple[Limits, str]:
    asked = parse_percent(text)
    if asked > share.share_ppm:
        problem = (
            f"{text} is more than the share has, {format_percent(share.share_ppm)}; it gets that."
            " Ask for a larger harp.dev/gpu-share"
        )
        return limits, problem
    return replace(limits, share_ppm=asked, limit_ppm=asked), ""  # a burst comes after this


def _burst(limits: Limits, _share: Limits, text: str) -> tuple[Limits, str]:
    if not _answer(text):
        return limits, ""
    return replace(limits, limit_ppm=0), ""


def _class(limits: Limits, _share: Limits, text: str) -> tuple[Limits, str]:
    try:
        return replace(limits, tenant_class=TenantClass.of(text)), ""
    except KeyError as error:
        labels = ", ".join(one.label for one in TenantClass)
        raise UnitError(f"{text!r} is no class", f"one of {labels}") from error


def _oversubscribe(limits: Limits, _share: Limits, text: str) -> tuple[Limits, str]:
    return replace(limits, oversubscribe=_answer(text)), ""


def _estimate(limits: Limits, _share: Limits, text: str) -> tuple[Limits, str]:
    if text not in ("auto", "off"):
        raise UnitError(f"{text!r} is neither auto nor off", 'write "auto"')
    return limits, ""


def _remote(limits: Limits, _share: Limits, text: str) -> tuple[Limits, str]:
    problem = (
        f"{text!r}, but the pod asks for {PREFIX}gpu-share and has a part of its own node's GPU;"
        f" for one elsewhere ask for {PREFIX}remote-gpu-share"
    )
    return limits, problem


def _answer(text: str) -> bool:
    if text not in _ANSWERS:
        raise UnitError(f"{text!r} is neither true nor false", 'write "true"')
    return _ANSWERS[text]


#: {annotation: (limits so far, share, its text) -> limits, problem}
_TAKEN: dict[str, Callable[[Limits, Limits, str], tuple[Limits, str]]] = {
    "memory": _memory,
    "compute": _compute,
    "compute-burst": _burst,
    "class": _class,
    "oversubscribe": _oversubscribe,
    "estimate": _estimate,
    "remote": _remote,
}
#: read by other parts of HARP
_ELSEWHERE = {"gpu"}
