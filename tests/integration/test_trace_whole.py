# SPDX-License-Identifier: Apache-2.0
"""From a program to its trace and back: recorded, summed up, exported, made again."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from machine import Machine, machine
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace

from harp.trace.format import Reader, Writer
from harp.trace.records import Call, Data, Record

PROGRAM = Path(__file__).with_name("trace_whole_program.py")
TURNS, N = 5, 4000


@dataclass
class Recorded:
    """A trace, and what its program said."""

    box: Machine
    path: Path

    def json(self, *arguments: str) -> dict[str, Any]:
        return self.box.harp_json("trace", *arguments)


@pytest.fixture(scope="module")
def recorded(native_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    path = tmp_path_factory.mktemp("trace") / "program.trace"
    with machine(native_dir) as box:
        child = box.tenant(
            *("--name", "recorded", "--trace", str(path), "--trace-data", "1MiB"),
            command=[sys.executable, str(PROGRAM), str(TURNS)],
        )
        said, complaints = child.communicate(timeout=120)
        assert child.returncode == 0, complaints
        wanted = sum(2 * (turn + i) + 1 for turn in range(TURNS) for i in range(N))
        assert int(said.split()[-1]) == wanted
        yield Recorded(box, path)


def _rewritten(path: Path, out: Path, change: Any) -> None:
    """The same trace, each record as `change` has it."""
    with path.open("rb") as file:
        reader = Reader(file)
        records: list[Record] = list(reader)
    with out.open("wb") as into:
        writer = Writer(into, reader.header)
        for record in records:
            writer.write(change(record))
        writer.close()


def _calls(path: Path) -> list[Call]:
    with path.open("rb") as file:
        return [r for r in Reader(file) if isinstance(r, Call)]


def test_the_summary_names_the_kernels(recorded: Recorded) -> None:
    found = recorded.json("summary", str(recorded.path))
    launches = {k["name"]: k["launches"] for k in found["kernels"]}
    assert launches == {"twice": TURNS, "next": TURNS + 2}
    assert all(k["measured"] and k["device_ns"] > 0 for k in found["kernels"])
    copies = {c["what"]: (c["count"], c["size_bytes"]) for c in found["copies"]}
    assert copies == {
        "HtoD": (TURNS, TURNS * 4 * N),
        "DtoH": (TURNS, TURNS * 4 * N),
        "memset": (1, 4 * N),
    }
    assert found["errors"] == [{"function": "cuMemAlloc", "result": 2, "count": 1}]
    assert (found["threads"], found["lost"], found["problems"]) == (2, 0, [])
    assert found["unfinished"] is False
    assert sum(found["idle_ns"].values()) + found["busy_ns"] == found["wall_ns"]
    said = recorded.box.harp("trace", "summary", str(recorded.path)).stdout
    assert "twice" in said
    assert "GB/s" in said


@pytest.mark.alone
def test_why_a_job_is_slow_is_seen(recorded: Recorded, native_dir: Path, tmp_path: Path) -> None:
    idle = {}
    for limit in ("none", "20%"):
        path = tmp_path / f"{limit}.trace"
        busy = [str(native_dir / "harp-bench-busy"), "--mode", "sync", "--kernel-us", "2000"]
        child = recorded.box.tenant(
            *("--limit", limit, "--trace", str(path)), command=[*busy, "--seconds", "3"]
        )
        child.communicate(timeout=60)
        assert child.returncode == 0
        found = recorded.json("summary", str(path))
        assert found["software"]
        idle[limit] = found["idle_ns"]["gated"] / found["wall_ns"]
        (kernel,) = found["kernels"]
        assert kernel["measured"] > kernel["launches"] * 0.9
    # a fifth of the time is the program's: for the rest its calls are held at the gate
    assert idle["none"] < 0.1
    assert 0.5 < idle["20%"] < 0.9


def test_both_exports_have_all_of_it(recorded: Recorded, tmp_path: Path) -> None:
    calls = _calls(recorded.path)
    for kind in ("perfetto", "chrome"):
        out = tmp_path / kind
        told = recorded.json("export", str(recorded.path), "--to", kind, "-o", str(out))
        assert (told["calls"], told["bytes"]) == (len(calls), out.stat().st_size)
    events = json.loads((tmp_path / "chrome").read_text())["traceEvents"]
    chrome = Counter(e["name"] for e in events if e["ph"] == "X")
    trace = Trace()
    trace.ParseFromString((tmp_path / "perfetto").read_bytes())
    names = Counter(
        p.track_event.name
        for p in trace.packet
        if p.track_event.type == p.track_event.TYPE_SLICE_BEGIN
    )
    assert chrome == names
    assert (names["cuLaunchKernel"], names["twice"], names["next"]) == (
        2 * TURNS + 2,
        TURNS,
        TURNS + 2,
    )


def test_made_again_it_is_the_same(recorded: Recorded) -> None:
    told = recorded.json("replay", str(recorded.path), "--backend", "soft")
    assert told["divergences"] == []
    assert told["left_out"] == {}
    assert told["made"] == told["calls"] == len(_calls(recorded.path))
    assert told["times"]["cuLaunchKernel"]["calls"] == 2 * TURNS + 2
    assert told["compared_bytes"] == TURNS * 4 * N


def test_a_changed_result_is_named_at_its_very_call(recorded: Recorded, tmp_path: Path) -> None:
    launches = [c for c in _calls(recorded.path) if c.symbol.name.startswith("cuLaunchKernel")]
    victim = launches[3].sequence
    other = tmp_path / "changed.trace"

    def changed(record: Record) -> Record:
        if isinstance(record, Call) and record.sequence == victim:
            return replace(record, result=719)
        return record

    _rewritten(recorded.path, other, changed)
    done = recorded.box.harp("trace", "replay", str(other), "--backend", "soft")
    assert done.returncode == 1
    name = launches[3].symbol.name
    assert f"call {victim} {name}: result: recorded 719, came 0" in done.stdout.splitlines()
    told = recorded.json("replay", str(other), "--backend", "soft")
    assert [d["call"] for d in told["divergences"]] == [victim]


def test_a_changed_byte_is_named_at_its_very_call(recorded: Recorded, tmp_path: Path) -> None:
    downs = [c for c in _calls(recorded.path) if c.symbol.name.startswith("cuMemcpyDtoH")]
    victim = downs[2].sequence
    other = tmp_path / "changed.trace"

    def changed(record: Record) -> Record:
        if isinstance(record, Data) and record.sequence == victim and record.offset == 0:
            return replace(record, data=record.data[:-1] + bytes([record.data[-1] ^ 1]))
        return record

    _rewritten(recorded.path, other, changed)
    (found,) = recorded.json("replay", str(other), "--backend", "soft")["divergences"]
    assert (found["call"], found["function"]) == (victim, downs[2].symbol.name)
    assert found["what"] == f"data of transfer 0, byte {4 * N - 1}"


def test_without_data_it_says_what_it_cannot_make(recorded: Recorded, tmp_path: Path) -> None:
    path = tmp_path / "bare.trace"
    child = recorded.box.tenant("--trace", str(path), command=[sys.executable, str(PROGRAM), "1"])
    assert child.communicate(timeout=120)
    assert child.returncode == 0
    assert path.stat().st_size < 8 << 20
    done = recorded.box.harp("trace", "replay", str(path), "--backend", "soft")
    assert "--trace-data" in done.stderr
    assert "an image (PTX or cubin) that is not in the trace" in done.stdout
    assert done.returncode == 0, done.stdout
