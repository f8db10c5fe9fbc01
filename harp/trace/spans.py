# SPDX-License-Identifier: Apache-2.0
"""Sets of moments: spans of time, united, cut out of each other, measured. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

__all__ = ["Span", "clip", "inside_ns", "length_ns", "minus", "union"]

#: [start, end), in ns
Span = tuple[int, int]


def union(spans: Iterable[Span]) -> list[Span]:
    """Those moments that are in any of them, in order, without overlaps."""
    out: list[Span] = []
    for start, end in sorted(spans):
        if end <= start:
            continue
        if out and start <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], end))
        else:
            out.append((start, end))
    return out


def minus(left: list[Span], right: list[Span]) -> list[Span]:
    """Moments of one united set that are not in another."""
    out: list[Span] = []
    at = 0
    for span_start, end in left:
        start = span_start
        while at < len(right) and right[at][1] <= start:
            at += 1
        look = at
        while look < len(right) and right[look][0] < end:
            if right[look][0] > start:
                out.append((start, right[look][0]))
            start = max(start, right[look][1])
            look += 1
        if start < end:
            out.append((start, end))
    return out


def clip(left: list[Span], right: list[Span]) -> list[Span]:
    """Moments that are in both united sets."""
    return minus(left, minus(left, right))


def length_ns(spans: Iterable[Span]) -> int:
    """How long a united set is."""
    return sum(end - start for start, end in spans)


def inside_ns(span: Span, spans: list[Span]) -> int:
    """How much of a span is in a united set."""
    start, end = span
    at = max(bisect_right(spans, (start, start)) - 1, 0)
    total = 0
    while at < len(spans) and spans[at][0] < end:
        total += max(min(end, spans[at][1]) - max(start, spans[at][0]), 0)
        at += 1
    return total
