# SPDX-License-Identifier: Apache-2.0
"""Traces of programs on the software GPU: all calls are there, whatever becomes of the program."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from shim_world import MIB, World, soft_world

from harp.errors import TraceError
from harp.trace.control import Wish, files_of, tell, untell
from harp.trace.format import Reader
from harp.trace.records import (
    Call,
    CallFlag,
    Data,
    DeviceTime,
    FileFlag,
    Image,
    Kind,
    Name,
    Note,
    Record,
    Way,
    Why,
)
from harp.wire import Transfer

PROGRAM = Path(__file__).with_name("trace_program.py")
SECRET = b"do-not-keep-this"


@pytest.fixture
def world(native_dir: Path) -> Iterator[World]:
    with soft_world(native_dir) as made:
        made.tenant("t", mem=64 * MIB)
        yield made


def traced(world: World, **wish: int | bool) -> Path:
    """The tenant's processes are traced from now on, to this file."""
    file = world.base / "t.trace"
    tell(world.base / "grants" / "t", Wish(file, **wish))  # type: ignore[arg-type]
    return file


def read(file: Path) -> tuple[Reader, list[Record]]:
    with file.open("rb") as opened:
        reader = Reader(opened)
        return reader, list(reader)


def calls_of(records: list[Record]) -> list[Call]:
    """In the order in which they began."""
    return sorted((r for r in records if isinstance(r, Call)), key=lambda call: call.sequence)


def said(output: str) -> list[tuple[str, int]]:
    """What the program called, and what was answered."""
    words = [line.split() for line in output.splitlines() if line.startswith("call ")]
    return [(name, int(result)) for _, name, result in words]


def run(world: World, *arguments: object) -> str:
    return world.run("t", sys.executable, PROGRAM, *arguments)


def test_every_call_is_there_in_order_with_its_errors(world: World) -> None:
    """And no byte of a copy; arguments, handles, streams, sizes and device times are."""
    file = traced(world)
    output = run(world, "calls")
    reader, records = read(file)
    calls = calls_of(records)
    assert reader.problems == []
    assert [(c.symbol.name, c.result) for c in calls] == said(output)
    assert [c.sequence for c in calls] == list(range(len(calls)))
    assert any(c.result for c in calls), "no call failed: no test"
    assert reader.header.why is Why.EXITED
    assert file.stat().st_mode & 0o777 == 0o600
    assert reader.header.program.startswith("python")
    assert reader.header.dropped == reader.header.lost_records == reader.header.inner_calls == 0
    assert FileFlag.DATA not in reader.header.flags
    assert SECRET not in file.read_bytes()
    assert not any(isinstance(r, Data) for r in records)
    image = next(r for r in records if isinstance(r, Image))
    assert image.total > 400
    assert image.data == b""

    assert all(a.end_ns <= b.begin_ns for a, b in itertools.pairwise(calls))
    by_name = {c.symbol.name: c for c in reversed(calls)}
    alloc, launch = by_name["cuMemAlloc_v2"], by_name["cuLaunchKernel"]
    stream = by_name["cuStreamCreate"].made
    assert alloc.size == 1024
    assert alloc.symbol.kind is Kind.ALLOC
    copy = by_name["cuMemcpyHtoDAsync_v2"]
    assert copy.arguments() == {
        "dstDevice": alloc.arguments()["dptr"],
        "srcHost": Transfer(0),
        "ByteCount": 1024,
        "hStream": stream,
    }
    assert copy.stream == stream != 0
    assert copy.transfers == 1
    assert by_name["cuMemsetD32_v2"].size == 1024
    function = by_name["cuModuleGetFunction"]
    assert function.arguments()["name"] == "harp_trace_add"
    params = launch.arguments()["kernelParams"]["data"]
    assert params == alloc.arguments()["dptr"].to_bytes(8, "little") + (256).to_bytes(4, "little")
    assert launch.arguments()["f"] == function.made != 0
    assert next(r for r in records if isinstance(r, Name)).name == "harp_trace_add"


def test_device_times_are_of_launches_and_copies(world: World) -> None:
    """One for each, within the program's own time, one after the other on one stream."""
    file = traced(world)
    run(world, "calls")
    _, records = read(file)
    calls = {c.sequence: c for c in calls_of(records)}
    times = {r.sequence: r for r in records if isinstance(r, DeviceTime)}
    kinds = (Kind.LAUNCH, Kind.COPY, Kind.FILL)
    assert set(times) == {s for s, c in calls.items() if c.symbol.kind in kinds}
    for sequence, took in times.items():
        call = calls[sequence]
        assert CallFlag.TIMED in call.flags
        assert call.entered_ns >= call.begin_ns
        assert took.duration_ns > 0
        assert took.begin_ns >= call.begin_ns
    stream = next(c.stream for c in calls.values() if c.symbol.name == "cuLaunchKernel")
    on_it = [times[s] for s, c in sorted(calls.items()) if c.stream == stream and s in times]
    for first, second in itertools.pairwise(on_it):
        assert second.begin_ns >= first.begin_ns + first.duration_ns - 1000  # a float of ms


def test_times_are_known_of_contexts_that_end_at_once(world: World) -> None:
    """Their events end with them: who asks a moment later is told nothing."""
    file = traced(world)
    assert run(world, "contexts", 20).count("current True") == 20
    _, records = read(file)
    launches = {c.sequence for c in calls_of(records) if c.symbol.kind is Kind.LAUNCH}
    assert len(launches) == 20
    assert launches == {r.sequence for r in records if isinstance(r, DeviceTime)} & launches


def test_host_bytes_and_images_are_kept_where_told(world: World) -> None:
    """Up to the bound; what comes after the call has ended is not."""
    file = traced(world, data_bytes=512)
    run(world, "calls")
    reader, records = read(file)
    names = {c.sequence: c for c in calls_of(records)}
    kept = {names[r.sequence].symbol.name: r for r in records if isinstance(r, Data)}
    assert FileFlag.DATA in reader.header.flags
    assert kept["cuMemcpyHtoD_v2"].data == SECRET * 32
    assert kept["cuMemcpyHtoD_v2"].total == 1024
    assert kept["cuMemcpyHtoD_v2"].way is Way.SEND
    assert kept["cuMemcpyDtoH_v2"].data == SECRET * 32
    assert kept["cuMemcpyDtoH_v2"].way is Way.FETCH
    assert "cuMemcpyDtoHAsync_v2" not in kept
    for name in ("cuMemcpyHtoD_v2", "cuMemcpyDtoHAsync_v2"):
        assert CallFlag.CUT in next(c for c in names.values() if c.symbol.name == name).flags
    image = b"".join(r.data for r in records if isinstance(r, Image))
    assert b".visible .entry harp_trace_add" in image


def test_what_was_recorded_outlives_a_kill(world: World) -> None:
    """All calls that the program had said before it was killed, and nothing that makes no sense."""
    file = traced(world)
    process = world.start("t", sys.executable, PROGRAM, "loop", 60)
    assert process.stdout is not None
    did = 0
    while did < 400:
        line = process.stdout.readline()
        assert line, process.communicate()
        did = int(line.split()[1]) if line.startswith("did") else did
    assert file.stat().st_mode & 0o777 == 0o400  # nobody truncates it by mistake
    process.kill()
    process.wait()
    reader, records = read(file)
    calls = calls_of(records)
    assert reader.problems == []
    assert reader.header.why is Why.RUNNING
    assert [c.sequence for c in calls] == list(range(len(calls)))
    loop = [c for c in calls if c.symbol.name in ("cuLaunchKernel", "cuStreamSynchronize")]
    assert len(loop) >= did


@pytest.mark.parametrize("keep_first", [False, True])
def test_a_file_has_its_bound(world: World, *, keep_first: bool) -> None:
    """The last calls are there, or the first, and the others are counted."""
    file = traced(world, size_bytes=2 * MIB, keep_first=keep_first)
    run(world, "many", 60_000)
    reader, records = read(file)
    calls = calls_of(records)
    assert reader.problems == []
    assert file.stat().st_size < 2 * MIB + 256 * 1024
    assert len(calls) < 60_000 + 4
    missing = 60_000 + 4 - len(calls)
    assert calls[0].sequence == (0 if keep_first else missing)
    assert [c.sequence for c in calls] == list(
        range(calls[0].sequence, calls[0].sequence + len(calls))
    )
    lost, dropped = reader.header.lost_records, reader.header.dropped
    assert (lost == 0 and dropped >= missing) if keep_first else (lost >= missing and dropped == 0)
    assert reader.header.why in (Why.EXITED, Why.FULL)


def test_a_child_has_a_file_of_its_own(world: World) -> None:
    """And writes nothing into its parent's."""
    file = traced(world)
    output = run(world, "fork")
    child = int(output.split("child ")[1].split()[0])
    assert files_of(file) == [file, file.with_name(f"{file.name}.{child}")]
    mine, records = read(file)
    theirs, inherited = read(files_of(file)[1])
    assert theirs.header.pid == child
    assert theirs.header.parent == mine.header.pid
    assert [c.symbol.name for c in calls_of(inherited)] == ["cuDriverGetVersion", "cuCtxGetCurrent"]
    assert any(isinstance(r, Note) and r.text == f"fork of={mine.header.pid}" for r in inherited)
    names = [c.symbol.name for c in calls_of(records)]
    assert names[-1] == "cuCtxSynchronize"
    assert "cuDriverGetVersion" not in names
    assert {c.thread for c in calls_of(inherited)} == {child}


def test_threads_write_side_by_side(world: World) -> None:
    """Each one's calls follow each other; each has a number of its own."""
    file = traced(world)
    run(world, "threads", 3000)
    reader, records = read(file)
    calls = calls_of(records)
    assert reader.problems == []
    assert [c.sequence for c in calls] == list(range(len(calls)))
    counted = [c for c in calls if c.symbol.name == "cuDriverGetVersion"]
    by_thread = {t: [c for c in counted if c.thread == t] for t in {c.thread for c in counted}}
    assert sorted(len(mine) for mine in by_thread.values()) == [3000, 3000]
    for mine in by_thread.values():
        assert all(a.end_ns <= b.begin_ns for a, b in itertools.pairwise(mine))


def test_a_running_program_is_traced_and_let_go(world: World) -> None:
    """By names that it got before, whichever way; what it did before and after is not there."""
    grant = world.base / "grants" / "t"
    process = world.start("t", sys.executable, PROGRAM, "live")
    assert process.stdin is not None
    assert process.stdout is not None

    def line(of: str) -> None:
        while process.stdout.readline().strip() != of:  # type: ignore[union-attr]
            assert process.poll() is None, process.communicate()

    def step() -> None:
        process.stdin.write("go\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        line("done")

    line("ready")
    for _ in range(3):
        step()
    file = traced(world)
    world.set_tenant("t")  # what `harp trace start` has harpd do
    begun(file)
    for _ in range(5):
        step()
    assert untell(grant)
    world.set_tenant("t")
    ended(file)
    for _ in range(7):
        step()
    reader, records = read(file)
    names = [c.symbol.name for c in calls_of(records)]
    assert names == ["cuLaunchKernel", "cuCtxSynchronize"] * 5
    assert FileFlag.LIVE in reader.header.flags
    assert reader.header.why is Why.TOLD
    assert next(r for r in records if isinstance(r, Name)).name == "harp_trace_add"
    # Once more, to another file: an ended trace is no obstacle.
    again = file.with_name("again.trace")
    tell(grant, Wish(again))
    world.set_tenant("t")
    begun(again)
    step()
    process.stdin.close()
    assert process.wait(timeout=20) == 0
    assert len(calls_of(read(again)[1])) == 2


def begun(file: Path, timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not (file.exists() and any(isinstance(r, Note) for r in so_far(file))):
        assert time.monotonic() < end, f"{file} does not come"
        time.sleep(0.01)
    time.sleep(0.05)  # the entries are changed after the first note


def so_far(file: Path) -> list[Record]:
    """None while the file's head is being written."""
    try:
        return read(file)[1]
    except TraceError:
        return []


def ended(file: Path, timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while read(file)[0].header.why is Why.RUNNING:
        assert time.monotonic() < end, f"{file} does not end"
        time.sleep(0.01)


def measured(file: Path) -> int:
    """Nanoseconds of all calls whose time on the device is told."""
    return sum(r.duration_ns for r in so_far(file) if isinstance(r, DeviceTime))


def test_use_is_metered_while_all_is_measured(world: World) -> None:
    """Of a program that always has work queued: events for the trace keep none from being taken."""
    file = traced(world)
    process = world.start("t", sys.executable, PROGRAM, "ahead", 60)
    assert process.stdout is not None
    while process.stdout.readline() != "ready\n":
        assert process.poll() is None, process.communicate()
    while measured(file) < 500_000_000:
        assert process.poll() is None, process.communicate()
        time.sleep(0.2)
    used_ns = world.usage("t").used_ns
    process.kill()
    process.wait()
    measured_ns = measured(file)
    assert measured_ns > 500_000_000
    assert used_ns > measured_ns / 3


def limited(world: World, limit: int) -> None:
    """Files end there, as on a disk that is full."""
    code = (
        "import resource, runpy, sys;"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        "sys.argv = sys.argv[1:];"
        "runpy.run_path(sys.argv[0])"
    )
    world.run("t", sys.executable, "-c", code, PROGRAM, "many", 30_000)


def test_kernels_have_names_in_what_is_left_of_a_ring(world: World) -> None:
    """A name is told once, and is overwritten with what was first."""
    file = traced(world, size_bytes=4 * MIB)
    run(world, "launches", 40_000)
    reader, records = read(file)
    assert reader.header.lost_records > 1000
    assert {r.name for r in records if isinstance(r, Name)} == {"harp_trace_add"}


def test_a_disk_without_room_for_the_first_segment(world: World) -> None:
    """Nothing is recorded, measured or said again, and the program goes on."""
    traced(world)
    limited(world, 1_000_000)
    log = world.log("t")
    assert (log.count("trace_not_started"), log.count("trace_started")) == (1, 0)


def test_a_full_disk_ends_the_trace_alone(world: World) -> None:
    """The program goes on, and the log says it once."""
    file = traced(world)
    limited(world, 1_500_000)  # no more than one segment
    reader, records = read(file)
    assert reader.header.why is Why.DISK_FULL
    assert 1000 < len(calls_of(records)) < 30_000
    assert world.log("t").count("trace_stopped") == 1


def test_a_trace_that_cannot_be_made_is_said_once(world: World) -> None:
    """And the program runs as ever."""
    tell(world.base / "grants" / "t", Wish(world.base / "nowhere" / "t.trace"))
    assert ("cuInit", 0) in said(run(world, "calls"))
    assert world.log("t").count("trace_not_started") == 1


def test_without_a_grant_the_environment_tells(world: World) -> None:
    """By HARP_TRACE alone: names that cuGetProcAddress answers are met as well."""
    file = world.base / "bare.trace"
    env = world.env("t", HARP_TRACE=str(file))
    del env["HARP_GRANT"]
    process = world.start(None, sys.executable, PROGRAM, "live", **env)
    out, err = process.communicate("go\ngo\n", timeout=60)
    assert process.returncode == 0, (out, err)
    names = [c.symbol.name for c in calls_of(read(file)[1])]
    assert names[-4:] == ["cuLaunchKernel", "cuCtxSynchronize"] * 2
