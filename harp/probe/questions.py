# SPDX-License-Identifier: Apache-2.0
"""The questions that `harp doctor --probe` puts to a driver, and answers from what was seen. Pure.

A question belongs to one probe, a process of its own. What a probe does not say, or cannot find
out, is unknown and has a reason: nothing is filled in from tables or from other drivers.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

__all__ = ["PROBES", "Answer", "Question", "Value", "answers", "as_json", "ending", "read_said"]

Value = bool | int | float | str
#: a probe that ended well and did not speak of one of its questions
_SILENT = "the probe said nothing of it"


@dataclass(frozen=True, slots=True)
class Question:
    """One question; its answer is one value."""

    key: str
    text: str
    unit: str  #: "": a word, or yes and no
    how: str  #: how the answer is found


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found out."""

    question: Question
    value: Value | None = None  #: None: unknown
    unknown: str = ""  #: why it is


def _q(key: str, text: str, unit: str, how: str) -> Question:
    return Question(key, text, unit, how)


_CALLS = "host clock, median of 9 rounds; Python's and cuda-python's own cost is in it"
_STEPS = "lock, checkpoint, restore and unlock of a child; it compares what its memory held"
_COPY = "median of 5 copies of 256 MiB to and from page-locked memory, host clock"
_PART = "256 MiB, host clock, median of 5"
_TWO = "two processes with one long kernel each, which notes gaps in the device's clock"

#: {probe: its questions, in the order in which it answers them}
PROBES: dict[str, tuple[Question, ...]] = {
    "driver": (
        _q("cuda", "What CUDA version does the driver have?", "", "cuDriverGetVersion"),
        _q("library", "What library is it?", "", "the only libcuda in /proc/self/maps"),
        _q("bindings", "What cuda-python asked it?", "", "version of cuda.bindings"),
        _q("vmm", "Does it manage virtual memory?", "", "device attribute 102"),
        _q("pools", "Has it memory pools?", "", "device attribute 115"),
        _q("managed_together", "May host and device use managed memory at once?", "",
           "device attribute 89"),
        _q("preemption", "Can it preempt a kernel?", "", "device attribute 90"),
        _q("priorities", "How many stream priorities has it?", "", "cuCtxGetStreamPriorityRange"),
    ),
    "pointers": (
        _q("same", "cuGetProcAddress gives dlsym's pointer", "functions",
           "each function that cuda-python knows, both default-stream modes, against dlsym"),
        _q("differ", "... gives another pointer", "functions", "the same"),
        _q("hidden", "... gives one of a function that is not exported", "functions", "the same"),
        _q("refused", "... refuses", "functions", "the same"),
        _q("different_names", "Which differ, or are not exported?", "", "the first 20 of them"),
    ),
    "events": (
        _q("call", "What does the smallest call cost?", "us", f"cuDriverGetVersion; {_CALLS}"),
        _q("launch", "What does a launch cost?", "us", f"an empty kernel; {_CALLS}"),
        _q("event_pair", "What does a pair of events cost?", "us",
           f"8 launches with a pair round them less 8 without; {_CALLS}"),
        _q("event_pair_device", "... and until the device is done?", "us",
           "the same with a wait for the device at the end of each round of 100"),
        _q("event_step", "What is the smallest step between two events?", "us",
           "least time above 0 between events round one empty kernel, of 500"),
        _q("empty_kernel", "How long does an empty kernel keep the device?", "us",
           "500 of them between one pair of events"),
    ),
    "queue": (
        _q("queue", "How many launches are taken behind a kernel that runs?", "launches",
           "empty kernels on one stream behind one of 1 s, until a launch waits for over 0.2 s"),
        _q("queue_full", "Does a full queue make the program wait?", "", "the same, 5000 at most"),
    ),
    "context": (
        _q("context", "What does a context cost the device?", "bytes",
           "NVML before, with and after a process that makes one and nothing else"),
        _q("context_unlisted", "... of which NVML does not list under the process", "bytes",
           "the same"),
    ),
    "slices": (
        _q("slice", "How long does a process have the device when two want it?", "us",
           f"{_TWO}; median"),
        _q("slice_most", "... at most", "us", "the same; longest"),
        _q("switch", "What does a switch to the other cost?", "us",
           "median gap of one less median slice of the other"),
    ),
    "memory": (
        _q("granularity", "In what pieces is device memory mapped?", "bytes",
           "cuMemGetAllocationGranularity, least"),
        _q("map", "Reserve, create, map and allow", "us", _PART),
        _q("unmap", "Unmap, release and free", "us", _PART),
        _q("to_host", "Copy to the host", "bytes/s", _COPY),
        _q("to_device", "Copy to the device", "bytes/s", _COPY),
        _q("evict", "Put memory away: copy, unmap, release", "bytes/s", "from the figures above"),
        _q("restore", "Bring it back: create, map, copy", "bytes/s", "from the figures above"),
    ),
    "managed": (
        _q("managed_in", "Managed memory to the device by its faults", "bytes/s",
           "64 MiB, written by the host, then read by a kernel; less the same again; median of 5"),
        _q("managed_out", "... and back by the host's", "bytes/s",
           "written by the device, one byte of each page read by the host; likewise"),
        _q("managed_prefetch", "... to the device by prefetch", "bytes/s",
           "cuMemPrefetchAsync; less the same again; median of 5"),
    ),
    "checkpoint": (
        *(
            _q(f"checkpoint_{kind}", f"Checkpoint of a process with {text}", "", _STEPS)
            for kind, text in (
                ("plain", "plain memory"),
                ("pool", "a memory pool"),
                ("graph", "a graph that it launches again"),
                ("vmm", "mapped memory (VMM)"),
                ("managed", "managed memory"),
            )
        ),
        _q("checkpoint_away", "... plain memory: away", "bytes/s", "256 MiB by the call's time"),
        _q("checkpoint_back", "... plain memory: back", "bytes/s", "256 MiB by the call's time"),
    ),
    "tables": (
        _q("cudart_table", "Does it have the private table of libcudart?", "",
           "cuGetExportTable for its identifier; nothing in it is called"),
        _q("tables_asked", "Which private tables do libcudart, cuBLAS and CUPTI ask for?", "",
           "needs programs that use them, and a library in between that notes what they ask"),
    ),
}  # fmt: skip


def read_said(lines: Iterable[str]) -> tuple[dict[str, Value], dict[str, str]]:
    """What a probe said, line by line: values, and reasons for what is unknown, by key.

    Anything else on its output is somebody else's and left out, half a line too.
    """
    found: dict[str, Value] = {}
    unknown: dict[str, str] = {}
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if not isinstance(said, dict) or not isinstance(key := said.get("key"), str):
            continue
        if isinstance(value := said.get("value"), bool | int | float | str):
            found[key] = value
        elif isinstance(reason := said.get("unknown"), str):
            unknown[key] = reason
    return found, unknown


def ending(status: int | None, patience_s: float, last_line: str = "") -> str:
    """How a probe's process ended, if not well; "" if it did.

    Args:
        status: as subprocess says it; None: it took too long and was ended.
        patience_s: how long it had.
        last_line: the last one that it wrote to its error output.
    """
    if status is None:
        return f"the probe took more than {patience_s:g} s"
    if status == 0:
        return ""
    said = f": {last_line}" if last_line else ""
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        return f"the probe was ended by {name}{said}"
    return f"the probe ended with status {status}{said}"


def answers(
    probe: str, found: Mapping[str, Value], unknown: Mapping[str, str], ended: str
) -> tuple[Answer, ...]:
    """A probe's answers: each of its questions has one.

    Args:
        probe: which of PROBES.
        found: what it said, by key; what it said before it ended badly counts.
        unknown: reasons that it gave, by key.
        ended: see ending().
    """
    return tuple(
        Answer(q, found[q.key])
        if q.key in found
        else Answer(q, unknown=unknown.get(q.key) or ended or _SILENT)
        for q in PROBES[probe]
    )


def as_json(probe: str, answer: Answer) -> dict[str, object]:
    """An answer for `--json`."""
    q = answer.question
    shape: dict[str, object] = {"probe": probe, "key": q.key, "question": q.text}
    shape |= {"answer": answer.value, "unit": q.unit, "how": q.how}
    return shape | ({"unknown": answer.unknown} if answer.value is None else {})
