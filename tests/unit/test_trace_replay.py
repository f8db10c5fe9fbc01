# SPDX-License-Identifier: Apache-2.0
"""Replay without a driver: what stands for what, what counts as different, files that lie."""

from __future__ import annotations

import hashlib
import io
import random
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_made import HEADER, RECORDS, call, launch, written

from harp.errors import TraceError
from harp.trace import driver
from harp.trace.again import Again
from harp.trace.bare import make_bare
from harp.trace.compare import compared
from harp.trace.driver import Driver
from harp.trace.format import Reader
from harp.trace.mapping import Ranges, Unknown, World, requested
from harp.trace.records import Call, Data, FileFlag, Header, Image, Record, Symbol, Way
from harp.trace.report import MEMORY, Divergence, Made, Report, Times, begins_late
from harp.trace.tape import Tape, images_of, tape, tape_of
from harp.wire import OPS, Transfer, decode_reply, decode_request

#: for which libc's and CUDA's functions are one to call
REPLAY = """
#include <stdlib.h>
struct call { unsigned op, spare; int (*fn)(const char *); };
int harp_replay_make(struct call *call) { call->fn(getenv("SAID_TO_ALL")); return 0; }
"""
_NUMBERS = {op.name: op.number for op in OPS.values()}


class Echo:
    """A driver that answers what was recorded, and minds how it is asked."""

    def __init__(self, played: Tape) -> None:
        self.left = {}
        for one in played.calls:
            self.left.setdefault(one.symbol.op, []).append(one)
        self.asked: list[dict[str, Any]] = []

    def function(self, symbol: str) -> int:
        if symbol == "cuInit":
            raise Unknown("a function that this driver does not have")
        return 1

    def make(self, op: int, _fn: int, body: bytes, *_more: Any) -> Made:
        one: Call = self.left[op].pop(0)
        asked = decode_request(op, body, apart=True)
        self.asked.append(asked)
        new = next((str(f.kind) for f in OPS[op].fields if f.new), "")
        return Made(
            result=one.result,
            took_ns=1,
            asked=asked,
            reply=one.reply,
            made=one.made,
            made_kind=new,
        )

    def until(self, _done: Callable[[Made], bool], made: Made, _most_s: float) -> Made:
        return made

    def synchronize(self) -> int:
        return 0

    def let_go(self) -> None:
        pass


def echoed(records: list[Record] | tuple[Record, ...]) -> tuple[Report, Echo]:
    reader = Reader(io.BytesIO(written(records)))
    played = tape_of(reader.header, reader)
    driver = Echo(played)
    return Again(played, driver, 5, lambda _: None).run(), driver  # type: ignore[arg-type]


def test_a_driver_that_answers_the_same_is_the_same() -> None:
    create = {"Flags": 0, "phStream": 0x500}
    report, _ = echoed(
        [
            call(0, "cuInit", 0, 1, {"Flags": 0}),
            call(1, "cuMemAlloc_v2", 1, 2, {"bytesize": 256, "dptr": 0x1000}, size=256),
            call(2, "cuStreamCreate", 2, 3, create, made=0x500),
            call(3, "cuStreamSynchronize", 3, 4, {"hStream": 0x500}),
            call(4, "cuStreamSynchronize", 4, 5, {"hStream": 0x501}),
            launch(5, 5, 6, 0xF00),
        ]
    )
    assert report.divergences == []
    assert report.made == 3
    assert {why: left.first for why, left in report.left_out.items()} == {
        "a function that this driver does not have": 0,
        "a CUstream that no call of the trace has made here": 4,
        "a CUfunction that no call of the trace has made here": 5,
    }
    assert report.times["cuStreamSynchronize"] == Times(1, 1000, 1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 255), min_size=1, max_size=30), st.integers(0, 2**32))
def test_a_damaged_trace_is_left_out_not_believed(noise: list[int], seed: int) -> None:
    raw = bytearray(written(RECORDS))
    rng = random.Random(seed)
    for byte in noise:
        raw[rng.randrange(8192, len(raw))] = byte
    reader = Reader(io.BytesIO(bytes(raw)))
    played = tape_of(reader.header, reader)
    report = Again(played, Echo(played), 5, lambda _: None).run()  # type: ignore[arg-type]
    left = sum(one.count for one in report.left_out.values())
    assert report.made + left == report.calls == len(played.calls)


def test_a_call_of_another_function_is_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`system` is found by dlsym: libc is a dependency of every libcuda."""
    marker = tmp_path / "run"
    monkeypatch.setenv("SAID_TO_ALL", f"touch {marker}")
    library = tmp_path / "libcuda.so.1"
    (tmp_path / "cuda.c").write_text(
        "int cuCtxSynchronize(void) { return 0; }"
        "int cuInit(unsigned flags) { return 0; }"
        "int cuStrange(void) { return 0; }"
    )
    compiler = ["gcc", "-shared", "-fPIC", "-Wl,--no-as-needed", "-o"]
    subprocess.run([*compiler, library, tmp_path / "cuda.c"], check=True)
    (tmp_path / "replay.c").write_text(REPLAY)
    subprocess.run([*compiler, tmp_path / "libharp-replay.so", tmp_path / "replay.c"], check=True)
    monkeypatch.setattr(driver, "native_dir", lambda: tmp_path)
    init = _NUMBERS["cuInit"]
    odd = [Symbol("system", init), Symbol("cuStrange", init), Symbol("cuCtxSynchronize", init)]
    odd += [Symbol("cuInit"), Symbol("system"), Symbol("cuMemFreeHost_v2")]
    calls: list[Record] = [
        replace(call(n, "cuInit", n, n + 1, {"Flags": 0}), symbol=s) for n, s in enumerate(odd)
    ]
    calls += [
        replace(call(n, "cuMemHostAlloc", n, n + 1, slots=(1,)), symbol=s)
        for n, s in enumerate(odd, len(odd))
    ]
    calls.append(call(90, "cuInit", 90, 91, {"Flags": 0}))
    report = Again(tape_of(HEADER, calls), Driver(library), 5, lambda _: None).run()
    assert not marker.exists()
    assert {why: (left.count, left.function) for why, left in report.left_out.items()} == {
        "its name and its op are not of one function": (4, "cuCtxSynchronize"),
        "no function of CUDA's driver API": (8, "system"),
    }
    assert report.made == 1
    monkeypatch.setattr(driver, "SYMBOLS", {"system": init})
    assert Driver(library).function("system")  # what is refused would be found


# --- what stands for what ---


def test_handles_addresses_and_parameters_are_moved() -> None:
    world = World(handles={("CUkernel", 0xF00): 0xAB, ("CUstream", 0x500): 0xCD})
    world.memory.add(0x7000_0000, 0x100, 0x9000_0000)
    words = [0x7000_0010, 0x7000_0100, 0x7000_0101, 5]
    packed = {"bytes": 36, "data": b"".join(w.to_bytes(8, "little") for w in words) + b"\1\2\3\4"}
    grid = {"gridDimX": 1, "gridDimY": 1, "gridDimZ": 1, "sharedMemBytes": 0}
    block = {"blockDimX": 1, "blockDimY": 1, "blockDimZ": 1, "hStream": 0x500}
    asked = {"f": 0xF00, **grid, **block, "kernelParams": packed}
    found = requested(_NUMBERS["cuLaunchKernel"], asked, world)
    assert (found["f"], found["hStream"], found["gridDimX"]) == (0xAB, 0xCD, 1)
    data = found["kernelParams"]["data"]
    moved = [int.from_bytes(data[i : i + 8], "little") for i in range(0, 32, 8)]
    # inside, at the end, beyond it, a number; what is shorter than an address is none
    assert moved == [0x9000_0010, 0x9000_0100, 0x7000_0101, 5]
    assert data[32:] == b"\1\2\3\4"
    assert asked["kernelParams"] is packed  # what was recorded stays
    assert packed["data"][:8] == (0x7000_0010).to_bytes(8, "little")

    attributes = {"id": 7, "value": {"programmaticEvent.event": 0xE00}}
    attributes["value"] |= {"programmaticEvent.flags": 0}
    attributes["value"] |= {"programmaticEvent.triggerAtBlockStart": 0}
    config = {**grid, **block, "numAttrs": 1, "attrs": [attributes]}
    extended = {"f": 0xF00, "config": config, "kernelParams": None}
    with pytest.raises(Unknown, match="CUevent"):
        requested(_NUMBERS["cuLaunchKernelEx"], extended, world)
    world.handles["CUevent", 0xE00] = 0x33
    found = requested(_NUMBERS["cuLaunchKernelEx"], extended, world)
    assert found["config"]["hStream"] == 0xCD
    assert found["config"]["attrs"][0]["value"]["programmaticEvent.event"] == 0x33


_COPIES = {
    "cuMemcpyHtoD_v2": {"dstDevice": 0x1000, "ByteCount": 4, "srcHost": Transfer(0)},
    "cuMemcpyDtoH_v2": {"srcDevice": 0x1000, "ByteCount": 4, "dstHost": Transfer(0)},
    "cuMemcpyDtoD_v2": {"dstDevice": 0x7000, "srcDevice": 0x1000, "ByteCount": 4},
    "cuMemcpy": {"dst": 0x7000, "src": 0x1000, "ByteCount": 4},
    "cuMemsetD8_v2": {"dstDevice": 0x1000, "uc": 1, "N": 4},
    "cuStreamWriteValue32_v2": {"stream": 0, "addr": 0x1000, "value": 1, "flags": 0},
    "cuMemFree_v2": {"dptr": 0x1000},
}


@pytest.mark.parametrize("name", _COPIES)
def test_an_address_of_the_recorded_process_reaches_no_driver(name: str) -> None:
    world = World()
    world.memory.add(0x7000, 0x100, 0x9000)
    with pytest.raises(Unknown, match="memory that no call of the trace has made here"):
        requested(_NUMBERS[name], _COPIES[name], world)
    nulls = {k: 0 if v == 0x1000 else v for k, v in _COPIES[name].items()}
    assert requested(_NUMBERS[name], nulls, world)  # a driver says of NULL what it is
    world.memory.add(0x1000, 0x100, 0x5000)
    assert 0x5000 in requested(_NUMBERS[name], _COPIES[name], world).values()


def test_as_much_host_memory_is_registered_as_there_is() -> None:
    world = World()
    of = replace(call(0, "cuMemHostAlloc", 0, 1, slots=(0x8000, 1 << 20, 0)), size=1)
    make_bare(1, "onn", of, world)
    assert world.memory.left(0x8000) == 1 << 20


def test_a_device_pointer_of_host_memory_is_all_of_it() -> None:
    for was, now in ((0x8000, 0x5000), (0x2_0000, 0x6000)):  # the same address, and another
        world = World()
        alloc = call(0, "cuMemHostAlloc", 0, 1, slots=(1, 0x100, 0), size=0x100, made=0x8000)
        list(compared(alloc, Made(made=0x5000, made_kind=MEMORY), None, None, world))
        asked = call(1, "cuMemHostGetDevicePointer_v2", 1, 2, slots=(1, 0x8000, 0), made=was)
        list(compared(asked, Made(made=now, made_kind=MEMORY), None, None, world))
        assert (world.address(was + 0x80), world.address(0x8080)) == (now + 0x80, 0x5080)


def test_streams_that_are_none_stand_for_themselves() -> None:
    world = World()
    for stream in (0, 1, 2):
        asked = {"hStream": stream}
        assert requested(_NUMBERS["cuStreamSynchronize"], asked, world) == asked


class Naive:
    """Ranges as a list of every byte."""

    def __init__(self) -> None:
        self.bytes: dict[int, tuple[int, int]] = {}  # address: (which, now)

    def add(self, which: int, was: int, size: int, now: int) -> None:
        gone = {self.bytes[a][0] for a in range(was, was + size) if a in self.bytes}
        self.bytes = {a: v for a, v in self.bytes.items() if v[0] not in gone}
        self.bytes |= {was + i: (which, now + i) for i in range(size)}

    def find(self, was: int) -> int | None:
        if was in self.bytes:
            return self.bytes[was][1]
        before = self.bytes.get(was - 1)
        return None if before is None else before[1] + 1


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 60), st.integers(1, 12), st.integers(1000, 9000)),
        max_size=25,
    )
)
def test_ranges_are_what_a_list_of_bytes_is(steps: list[tuple[bool, int, int, int]]) -> None:
    ranges, naive = Ranges(), Naive()
    for which, (adds, was, size, now) in enumerate(steps):
        if adds:
            ranges.add(was, size, now)
            naive.add(which, was, size, now)
        else:
            ranges.remove(was)
            first = naive.bytes.get(was)
            if first is not None and naive.bytes.get(was - 1, (None,))[0] != first[0]:
                naive.bytes = {a: v for a, v in naive.bytes.items() if v[0] != first[0]}
        for address in range(80):
            assert ranges.find(address) == naive.find(address), address


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (replace(HEADER, flags=FileFlag.LIVE), "harp run --trace"),
        (replace(HEADER, lost_records=9), "--trace-keep first"),
        (HEADER, ""),
    ],
)
def test_a_trace_without_its_beginning_says_so(header: Header, says: str) -> None:
    alloc = call(0, "cuMemAlloc_v2", 1, 2, {"bytesize": 256, "dptr": 0x1000}, size=256)
    handle, _ = echoed([launch(5, 5, 6, 0xF00)])
    memory, _ = echoed([call(0, "cuMemsetD8_v2", 0, 1, {"dstDevice": 0x1000, "uc": 1, "N": 4})])
    context = Report(divergences=[Divergence(0, "cuMemAlloc_v2", "result", "0", "201")])
    for report in (handle, memory, context):
        told = begins_late(header, report)
        assert says in told
        assert bool(told) == bool(says)
    fine, _ = echoed([alloc])
    other = Report(divergences=[Divergence(0, "cuMemAlloc_v2", "result", "0", "2")])
    assert begins_late(header, fine) == begins_late(header, other) == ""


# --- what counts as different ---


def differs(was: Call, made: Mapping[str, Any], world: World | None = None) -> list[Divergence]:
    """The call as recorded, beside one that answered `made`, or a result alone."""
    op = was.symbol.op
    asked = decode_request(op, was.request, apart=True)
    before = decode_reply(op, asked, was.reply, apart=True)[1]
    now = {**before, **made}
    one = Made(result=was.result, asked=asked)
    return list(compared(was, one, before, now, world or World()))


def test_addresses_are_learnt_and_then_held_to_it() -> None:
    world = World()
    alloc = call(0, "cuMemAlloc_v2", 0, 1, {"bytesize": 256, "dptr": 0x1000}, size=256)
    assert differs(alloc, {"dptr": 0x5000}, world) == []
    assert world.address(0x1010) == 0x5010
    # the same address once more is other memory
    assert differs(alloc, {"dptr": 0x6000}, world) == []
    assert world.address(0x1010) == 0x6010
    # rows of a pitched one lie as far apart as is answered
    pitched = {"WidthInBytes": 100, "Height": 7, "ElementSizeBytes": 4}
    pitched |= {"dptr": 0x8000, "pPitch": 512}
    assert differs(call(2, "cuMemAllocPitch_v2", 1, 2, pitched), {"dptr": 0x9000}, world) == []
    assert world.address(0x8000 + 6 * 512) == 0x9000 + 6 * 512
    free = call(1, "cuMemFree_v2", 2, 3, {"dptr": 0x1000})
    assert differs(free, {}, world) == []
    with pytest.raises(Unknown):
        world.address(0x1010)


def test_what_varies_is_no_difference_and_the_rest_is() -> None:
    memory = call(3, "cuMemGetInfo_v2", 0, 1, {"free": 5, "total": 9})
    assert differs(memory, {"free": 6}) == []
    assert differs(memory, {"total": 8}) == [Divergence(3, "cuMemGetInfo_v2", "total", "9", "8")]
    alloc = call(4, "cuMemAlloc_v2", 0, 1, {"bytesize": 256, "dptr": 0x1000}, size=256)
    assert differs(alloc, {"dptr": 0}) == [
        Divergence(4, "cuMemAlloc_v2", "dptr", "4096", "0"),
    ]


@pytest.mark.parametrize(
    ("was", "now", "same"),
    [(0, 0, True), (600, 0, True), (600, 600, True), (0, 600, False), (400, 0, False)],
)
def test_polls(was: int, now: int, same: bool) -> None:
    asked = call(0, "cuEventQuery", 0, 1, {"hEvent": 1}, result=was)
    found = list(compared(asked, Made(result=now), None, None, World()))
    assert (found == []) is same


# --- tapes ---


def test_pieces_are_put_together_and_images_are_what_they_say() -> None:
    image = bytes(range(200))
    sha256 = hashlib.sha256(image).digest()
    records = [
        call(0, "cuMemcpyHtoD_v2", 0, 1, {"dstDevice": 1, "ByteCount": 6, "srcHost": Transfer(0)}),
        Data(0, 0, Way.SEND, 4, 6, b"ef"),
        Data(0, 0, Way.SEND, 0, 6, b"abcd"),
        Data(0, 1, Way.SEND, 8, 16, b"the first bytes are not there"),
        Image(sha256, 100, 200, image[100:]),
        Image(sha256, 0, 200, image[:100]),
        Image(b"x" * 32, 0, 4, b"lies"),
        Image(b"y" * 32, 0, 4),
    ]
    played = tape_of(HEADER, records)
    assert played.data_of(0) == {(0, Way.SEND): b"abcdef", (1, Way.SEND): b""}
    assert played.images == {sha256: image}
    assert played.missing == {b"x" * 32, b"y" * 32}
    more = tape_of(HEADER, records, images={b"y" * 32: b"here", b"z" * 32: b"not asked for"})
    assert more.images == {sha256: image, b"y" * 32: b"here"}


def test_another_harps_tables_are_refused(tmp_path: Any) -> None:
    path = tmp_path / "old.trace"
    path.write_bytes(written(RECORDS, replace(HEADER, table_hash=bytes(32))))
    with pytest.raises(TraceError) as caught:
        tape(path)
    assert "summary and export work with any" in caught.value.hint
    with pytest.raises(TraceError, match="No such file"):
        images_of(tmp_path / "nowhere")
