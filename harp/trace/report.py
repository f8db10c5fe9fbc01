# SPDX-License-Identifier: Apache-2.0
"""What came of a replay. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from harp.trace.entries import base_name
from harp.trace.records import Call, FileFlag, Header

__all__ = ["MEMORY", "NOT_MADE", "Divergence", "Left", "Made", "Report", "Times", "begins_late"]

#: the kind of what is made, where that is memory
MEMORY = "memory"
#: how the reason ends of a call that names what is older than the trace
NOT_MADE = "that no call of the trace has made here"
#: what drivers answer whom nobody has initialized, or given a context
_TOO_EARLY = ("3", "201")


@dataclass(slots=True)
class Made:
    """A call that was made, or why it was not.

    Attributes:
        refused: why it was not made; empty: it was.
        asked: the request, as of now.
        transfers: host memory, by transfer.
        made, made_kind: the handle that it made, or where memory is (MEMORY).
    """

    result: int = 0
    refused: str = ""
    took_ns: int = 0
    asked: dict[str, Any] = field(default_factory=dict)
    reply: bytes = b""
    transfers: dict[int, Any] = field(default_factory=dict)
    made: int = 0
    made_kind: str = ""
    again: Callable[[], Made] | None = None


@dataclass(frozen=True, slots=True)
class Divergence:
    """What came differently.

    Attributes:
        call: its sequence in the trace.
        what: "result", a parameter that is answered, "data of transfer N, byte M", "hang", "died".
        was, now: as recorded, as of now, in words.
    """

    call: int
    function: str
    what: str
    was: str
    now: str


@dataclass(slots=True)
class Left:
    """Calls that were not made, for one reason."""

    count: int = 0
    first: int = 0
    function: str = ""  # of the first


@dataclass(slots=True)
class Times:
    """How long calls of a function took their caller."""

    calls: int = 0
    was_ns: int = 0
    now_ns: int = 0


@dataclass(slots=True)
class Report:
    """All of a replay.

    Attributes:
        calls: in the trace.
        made: that were made again; the rest is in `left_out`, by reason.
        hung: a call did not return, and the replay ended there.
        compared_bytes: of host data, that were recorded and have come again.
        unread: calls of which only the results could be compared: their answers make no sense.
    """

    calls: int = 0
    made: int = 0
    hung: bool = False
    compared_bytes: int = 0
    unread: int = 0
    divergences: list[Divergence] = field(default_factory=list)
    left_out: dict[str, Left] = field(default_factory=dict)
    times: dict[str, Times] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Whether nothing came differently, of what was made."""
        return not self.divergences

    def diverge(self, found: Divergence) -> None:
        """Note one."""
        self.divergences.append(found)

    def leave_out(self, call: Call, why: str) -> None:
        """Note a call that is not made."""
        left = self.left_out.setdefault(why, Left(0, call.sequence, call.symbol.name))
        left.count += 1

    def count(self, call: Call, took_ns: int) -> None:
        """Note one that was made, and how long it took."""
        self.made += 1
        times = self.times.setdefault(base_name(call.symbol.name), Times())
        times.calls += 1
        times.was_ns += max(call.end_ns - call.begin_ns - call.gated_ns, 0)
        times.now_ns += took_ns

    def as_json(self) -> dict[str, Any]:
        """One object."""
        return {**asdict(self), "same": self.same}

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Report:
        """What as_json made."""
        return cls(
            calls=told["calls"],
            made=told["made"],
            hung=told["hung"],
            compared_bytes=told["compared_bytes"],
            unread=told["unread"],
            divergences=[Divergence(**one) for one in told["divergences"]],
            left_out={why: Left(**one) for why, one in told["left_out"].items()},
            times={name: Times(**one) for name, one in told["times"].items()},
        )


def begins_late(header: Header, report: Report) -> str:
    """Why calls could not be made again, if it is that the trace has no beginning; else empty."""
    if FileFlag.LIVE in header.flags:
        why = "it was started while its program ran; harp run --trace records from the first call"
    elif header.lost_records:
        why = "its first records were overwritten; --trace-keep first, or more --trace-bytes"
    else:
        return ""
    late = any(reason.endswith(NOT_MADE) for reason in report.left_out) or any(
        d.what == "result" and d.was == "0" and d.now in _TOO_EARLY for d in report.divergences
    )
    return f"the trace uses what was made before it: {why}" if late else ""
