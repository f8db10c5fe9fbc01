# SPDX-License-Identifier: Apache-2.0
"""A trace made again on the software GPU: what is the same, what is not and at which call."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trace_tape import EVENT, IN, OUT, PTX, STREAM, N, Tapes

from harp.errors import TraceError
from harp.trace.apart import replay_apart
from harp.trace.format import Writer
from harp.trace.records import FileFlag, Image, Way
from harp.trace.report import Divergence, Report
from harp.trace.tape import tape_of
from harp.wire import Transfer

ROOT = Path(__file__).resolve().parents[2]
TWICE = struct.pack(f"<{N}I", *range(0, 2 * N, 2))


@pytest.fixture
def again(native_dir: Path, soft_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HARP_NATIVE_DIR", str(native_dir))
    monkeypatch.setenv("HARP_SOFT_DIR", str(soft_dir))

    def run(tapes: Tapes, hang_s: float = 60) -> Report:
        played = tape_of(tapes.header(), tapes.records)
        return replay_apart(played, native_dir / "soft" / "libcuda.so.1", hang_s=hang_s)

    return run


def test_numbers_go_through_the_kernel_again(again: Any) -> None:
    tapes = Tapes()
    tapes.begin()
    tapes.launch()
    tapes.down(TWICE)
    report = again(tapes)
    assert (report.divergences, report.left_out) == ([], {})
    assert report.made == report.calls == 10
    assert report.compared_bytes == 4 * N
    assert report.times["cuMemAlloc"].calls == 2
    assert report.times["cuLaunchKernel"].was_ns == 5000
    assert report.times["cuLaunchKernel"].now_ns > 0


def test_a_result_that_was_another_is_named_at_its_call(again: Any) -> None:
    tapes = Tapes()
    tapes.begin()
    launch = tapes.launch(result=719)
    tapes.down(TWICE)
    report = again(tapes)
    assert report.divergences == [Divergence(launch, "cuLaunchKernel", "result", "719", "0")]


def test_data_that_was_another_is_named_with_its_first_byte(again: Any) -> None:
    tapes = Tapes()
    tapes.begin()
    tapes.launch()
    wrong = bytearray(TWICE)
    wrong[41] ^= 0xFF
    tapes.down(TWICE)
    down = tapes.down(bytes(wrong))
    (found,) = again(tapes).divergences
    assert (found.call, found.function) == (down, "cuMemcpyDtoH_v2")
    assert found.what == "data of transfer 0, byte 41"
    assert found.was.startswith("ff ")
    assert found.now.startswith("00 ")


def test_data_of_an_asynchronous_copy_is_looked_at_when_it_has_come(again: Any) -> None:
    tapes = Tapes()
    tapes.begin()
    tapes.call("cuStreamCreate", {"Flags": 1, "phStream": STREAM}, made=STREAM)
    tapes.call("cuCtxSynchronize", {})
    tapes.launch()
    args = {"srcDevice": OUT, "ByteCount": 4 * N, "hStream": 0, "dstHost": Transfer(0)}
    for numbers in (TWICE, bytes(4 * N)):
        data = {(0, Way.FETCH): numbers}
        last = tapes.call("cuMemcpyDtoHAsync_v2", args, size=4 * N, data=data)
    (found,) = again(tapes).divergences
    assert (found.call, found.what) == (last, "data of transfer 0, byte 4")


def test_an_answer_that_was_another_is_named(again: Any) -> None:
    tapes = Tapes()
    tapes.begin()
    attribute = {"attrib": 10, "dev": 0, "pi": 31}  # a warp of 31
    number = tapes.call("cuDeviceGetAttribute", attribute)
    tapes.call("cuMemGetInfo_v2", {"free": 5, "total": 7})  # what is free may differ
    first, second = again(tapes).divergences
    assert first == Divergence(number, "cuDeviceGetAttribute", "pi", "31", "32")
    assert (second.function, second.what, second.was) == ("cuMemGetInfo_v2", "total", "7")


def test_what_cannot_be_made_is_left_out_and_why(again: Any) -> None:
    tapes = Tapes()
    tapes.begin()
    tapes.records = [r for r in tapes.records if not isinstance(r, Image)]
    launch = tapes.launch()
    tapes.call("cuGetExportTable", slots=(1, 2))
    tapes.call("cuPointerGetAttribute", slots=(1, 2, 3))
    tapes.call("cuStreamSynchronize", {"hStream": 0xDEAD})
    report = again(tapes)
    assert report.divergences == []
    left = {why: (one.count, one.function) for why, one in report.left_out.items()}
    assert left == {
        "an image (PTX or cubin) that is not in the trace": (1, "cuModuleLoadData"),
        "a CUmodule that no call of the trace has made here": (1, "cuModuleGetFunction"),
        "a CUfunction that no call of the trace has made here": (1, "cuLaunchKernel"),
        "a CUstream that no call of the trace has made here": (1, "cuStreamSynchronize"),
        "a look-up of functions or texts, with which nothing happens": (1, "cuGetExportTable"),
        "not described by rows of the wire: its arguments are bare": (1, "cuPointerGetAttribute"),
    }
    assert report.left_out["a CUfunction that no call of the trace has made here"].first == launch
    assert report.made == report.calls - 6


def test_a_handle_that_was_used_again_is_the_new_one(again: Any) -> None:
    tapes = Tapes()
    tapes.begin()
    event = {"Flags": 0, "phEvent": EVENT}
    for _ in range(2):
        tapes.call("cuEventCreate", event, made=EVENT)
        tapes.call("cuEventRecord", {"hEvent": EVENT, "hStream": 0})
        tapes.call("cuEventSynchronize", {"hEvent": EVENT})
        tapes.call("cuEventDestroy_v2", {"hEvent": EVENT})
    tapes.call("cuEventQuery", {"hEvent": EVENT}, result=400)
    report = again(tapes)
    assert report.divergences == []
    (left,) = report.left_out.values()
    assert left.function == "cuEventQuery"


def test_a_poll_goes_on_until_it_is_answered(again: Any) -> None:
    tapes = _two_threads(overlap=True, wait="cuStreamQuery")
    tapes.call("cuStreamQuery", {"hStream": STREAM}, begin_us=2000, result=600)  # has come anyhow
    report = again(tapes)
    assert (report.divergences, report.left_out) == ([], {})


def test_host_memory_of_the_programs_own_is_made_anew(again: Any) -> None:
    tapes = Tapes()
    tapes.begin()
    host = 0x7E00_0000_0000
    tapes.call("cuMemHostAlloc", slots=(0x1234, 4 * N, 0), made=host, size=4 * N)
    tapes.call("cuCtxGetCurrent", slots=(0x1234,), made=0xC000)
    tapes.call("cuCtxPushCurrent_v2", slots=(0xC000,))
    tapes.call("cuCtxPopCurrent_v2", slots=(0x1234,), made=0xC000)
    # a copy between addresses: from the device to that memory, and on from it
    tapes.launch()
    tapes.call("cuMemcpy", {"dst": host, "src": OUT, "ByteCount": 4 * N})
    tapes.call("cuMemcpy", {"dst": OUT, "src": IN, "ByteCount": 4 * N})
    tapes.call("cuMemcpy", {"dst": OUT, "src": host, "ByteCount": 4 * N})
    tapes.down(TWICE)
    tapes.call("cuMemFreeHost", slots=(host,))
    report = again(tapes)
    assert (report.divergences, report.left_out) == ([], {})


def _two_threads(*, overlap: bool, wait: str = "cuStreamSynchronize") -> Tapes:
    """One thread's stream waits for a word that another thread's call writes."""
    tapes = Tapes()
    tapes.begin()
    tapes.call("cuStreamCreate", {"Flags": 1, "phStream": STREAM}, made=STREAM)
    tapes.call("cuMemsetD8_v2", {"dstDevice": OUT, "uc": 0, "N": 4})
    word = {"addr": OUT, "value": 1, "flags": 0}
    tapes.call("cuCtxSetCurrent", {"ctx": 0xC000}, thread=2)
    tapes.call("cuStreamWaitValue32_v2", {"stream": STREAM, **word})
    at_us = 10 * tapes.number
    took_us = 100 if overlap else 5
    tapes.call(wait, {"hStream": STREAM}, begin_us=at_us, took_us=took_us)
    tapes.call("cuStreamCreate", {"Flags": 1, "phStream": 0x5008}, made=0x5008, thread=2)
    tapes.call("cuStreamWriteValue32_v2", {"stream": 0x5008, **word}, thread=2)
    return tapes


def test_what_overlapped_may_overlap(again: Any) -> None:
    report = again(_two_threads(overlap=True))
    assert (report.divergences, report.left_out) == ([], {})


def test_a_call_that_does_not_return_ends_it_and_is_named(again: Any) -> None:
    tapes = _two_threads(overlap=False)  # the wait had ended before the write began
    report = again(tapes, hang_s=1)
    (found,) = report.divergences
    assert (found.function, found.what) == ("cuStreamSynchronize", "hang")
    assert report.hung


DYING = """
int cuInit(unsigned flags) { return 0; }
int cuDeviceGet(int *device, int ordinal) { *(volatile int *)8 = 1; return 0; }
int cuCtxSynchronize(void) { return 0; }
"""


def test_a_driver_that_crashes_is_named_with_the_call(
    native_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARP_NATIVE_DIR", str(native_dir))
    (tmp_path / "dying.c").write_text(DYING)
    library = tmp_path / "libcuda.so.1"
    compiler = ["gcc", "-O0", "-shared", "-fPIC", "-o", library, tmp_path / "dying.c"]
    subprocess.run(compiler, check=True)
    tapes = Tapes()
    tapes.begin()
    report = replay_apart(tape_of(tapes.header(), tapes.records), library)
    died = Divergence(1, "cuDeviceGet", "died", "returned 0", "process: SIGSEGV")
    assert report.divergences == [died]
    with pytest.raises(TraceError, match="cannot be loaded"):
        replay_apart(tape_of(tapes.header(), tapes.records), tmp_path / "dying.c")


def _file(tapes: Tapes, path: Path, flags: FileFlag = FileFlag.DATA) -> Path:
    with path.open("wb") as file:
        writer = Writer(file, replace(tapes.header(), flags=flags))
        for record in tapes.records:
            writer.write(record)
        writer.close()
    return path


def harp(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harp", "trace", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_command(native_dir: Path, soft_dir: Path, tmp_path: Path) -> None:
    env = {"HARP_NATIVE_DIR": str(native_dir), "HARP_SOFT_DIR": str(soft_dir)}
    tapes = Tapes()
    tapes.begin()
    launch = tapes.launch()
    tapes.down(TWICE)
    good = _file(tapes, tmp_path / "good.trace")
    done = harp("replay", good, "--backend", "soft", **env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 of 10 calls made" in done.stdout
    assert "the same results and answers, 3.9KiB of data" in done.stdout

    number = tapes.call("cuCtxSynchronize", {}, result=700)
    bad = _file(tapes, tmp_path / "bad.trace")
    done = harp("replay", bad, "--backend", "soft", **env)
    assert done.returncode == 1
    line = f"call {number} cuCtxSynchronize: result: recorded 700, came 0"
    assert line in done.stdout.splitlines()
    told = json.loads(harp("replay", bad, "--backend", "soft", "--json", **env).stdout)
    assert [d["call"] for d in told["divergences"]] == [number]
    assert told["same"] is False

    # without the image nothing is launched, and with a folder that has it it is
    tapes.records = [
        Image(r.sha256, 0, r.total) if isinstance(r, Image) else r for r in tapes.records
    ]
    bare = _file(tapes, tmp_path / "bare.trace")
    done = harp("replay", bare, "--backend", "soft", **env)
    assert "1 image not in the trace; remedy: record with --trace-data" in done.stderr
    assert f"first {launch} cuLaunchKernel" in done.stdout
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "twice.ptx").write_bytes(PTX[:-1])
    done = harp("replay", bare, "--backend", "soft", "--images", tmp_path / "images", **env)
    assert "11 of 11 calls made" in done.stdout, done.stdout
    assert line in done.stdout.splitlines()


def test_a_trace_that_was_started_live_says_what_it_lacks(
    native_dir: Path, soft_dir: Path, tmp_path: Path
) -> None:
    env = {"HARP_NATIVE_DIR": str(native_dir), "HARP_SOFT_DIR": str(soft_dir)}
    tapes = Tapes()
    tapes.begin()
    tapes.launch()
    whole = _file(tapes, tmp_path / "whole.trace", FileFlag.LIVE)
    assert "hint" not in harp("replay", whole, "--backend", "soft", **env).stderr
    tapes.records = tapes.records[-1:]
    late = _file(tapes, tmp_path / "late.trace", FileFlag.LIVE)
    done = harp("replay", late, "--backend", "soft", "--json", **env)
    hints = [line for line in done.stderr.splitlines() if line.startswith("harp: hint: ")]
    assert len(hints) == 1
    assert "started while its program ran; harp run --trace records from" in hints[0]


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no trace\n" * 1000)
    for arguments, status, text in (
        (("replay", tmp_path / "none"), 1, "No such file"),
        (("summary", tmp_path / "text"), 1, "this is no trace of HARP"),
        (("replay", tmp_path / "text", "--backend", "soft"), 1, "this is no trace of HARP"),
        (("replay", tmp_path / "text", "--backend", "/nope"), 1, "--backend /nope: no such file"),
        (("export", tmp_path / "text", "-o", "x"), 2, "--to"),
    ):
        done = harp(*arguments)
        assert done.returncode == status, done.stderr
        assert text in done.stderr
        assert "Traceback" not in done.stderr
        assert status == 2 or "hint: " in done.stderr
