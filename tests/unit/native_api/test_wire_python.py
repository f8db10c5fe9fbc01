# SPDX-License-Identifier: Apache-2.0
"""The Python codec reads and writes what the C one does: every op, calls made up by the C tests."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import pytest

from harp import wire
from harp.api.v1 import session_pb2
from harp.wire import _tables

ROOT = Path(__file__).resolve().parents[3]
SOURCES = (
    "tests/native/wire_codec_test.c",
    "tests/native/wire_fill.c",
    "native/generated/wire_ops.c",
    *map(str, sorted((ROOT / "native/src/wire").glob("*.c"))),
)
Vector = tuple[int, bytes, bytes]


@pytest.fixture(scope="session")
def vectors(cc: str, tmp_path_factory: pytest.TempPathFactory) -> list[Vector]:
    """(op, request, reply), eight of each op."""
    program = tmp_path_factory.mktemp("wire") / "vectors"
    flags = ("-std=gnu17", "-D_GNU_SOURCE", "-O1", "-w", "-Inative", "-Inative/include")
    subprocess.run([cc, *flags, *SOURCES, "-o", str(program)], cwd=ROOT, check=True)
    done = subprocess.run([str(program), "8"], capture_output=True, text=True, check=True)
    out = []
    for line in done.stdout.splitlines():
        op, request, reply = line.split(" ")
        out.append((int(op), bytes.fromhex(request), bytes.fromhex(reply)))
    return out


def test_every_op_is_in_the_vectors(vectors: list[Vector]) -> None:
    assert {op for op, _, _ in vectors} == set(wire.OPS)
    assert len(vectors) == 8 * len(wire.OPS)


def test_requests_and_replies_of_the_c_codec_come_out_the_same(vectors: list[Vector]) -> None:
    for op, request, reply in vectors:
        asked = wire.decode_request(op, request)
        assert wire.encode_request(op, asked) == request, wire.OPS[op].name
        result, values = wire.decode_reply(op, asked, reply)
        assert wire.encode_reply(op, asked, result, values) == reply, wire.OPS[op].name


def test_what_is_accepted_encodes_to_the_same_bytes(vectors: list[Vector]) -> None:
    rng = random.Random(7)
    accepted = refused = 0
    for op, request, _ in vectors:
        for _ in range(4):
            body = bytearray(request)
            if body:
                body[rng.randrange(len(body))] = rng.randrange(256)
            try:
                values = wire.decode_request(op, bytes(body))
            except wire.WireError:
                refused += 1
                continue
            accepted += 1
            assert wire.encode_request(op, values) == body, wire.OPS[op].name
    assert accepted > 1000
    assert refused > 1000


def test_every_prefix_is_refused(vectors: list[Vector]) -> None:
    for op, request, _ in vectors[::8]:
        for size in range(min(len(request), 200)):
            with pytest.raises(wire.WireError):
                wire.decode_request(op, request[:size])


def test_a_launch_reads_like_one() -> None:
    op = next(o for o in wire.OPS.values() if o.name == "cuLaunchKernel")
    values = dict.fromkeys(
        ("gridDimX", "gridDimY", "gridDimZ", "blockDimX", "blockDimY", "blockDimZ"), 1
    )
    values |= {"f": 4711, "sharedMemBytes": 0, "hStream": 2}
    values |= {"kernelParams": {"bytes": 5, "data": b"12345"}}
    body = wire.encode_request(op.number, values)
    assert wire.decode_request(op.number, body) == values
    with pytest.raises(wire.WireError, match="bytes are left over"):
        wire.decode_request(op.number, body + bytes(4))
    with pytest.raises(wire.WireError, match="not the values of this op"):
        wire.encode_request(op.number, {"f": 4711})
    with pytest.raises(wire.WireError, match="no op has the number 63"):
        wire.decode_request(63, b"")


def test_frames_of_the_c_code_are_those_of_protobuf(cc: str, tmp_path: Path) -> None:
    flags = ("-std=gnu17", "-D_GNU_SOURCE", "-w", "-Inative", "-Inative/include")
    sources = ("tests/native/wire_frame_test.c", "native/src/wire/frame.c")
    subprocess.run([cc, *flags, *sources, "-o", str(tmp_path / "frames")], cwd=ROOT, check=True)
    done = subprocess.run(
        [str(tmp_path / "frames"), "vectors"], capture_output=True, text=True, check=True
    )
    for line in done.stdout.splitlines():
        *numbers, header = line.split()
        seq, ack, at, of, op, flag, lane, size = map(int, numbers)
        frame = session_pb2.Frame(seq=seq, ack=ack, at=at, of=of, op=op, flags=flag, lane=lane)
        frame.body = bytes(size)
        assert frame.SerializeToString() == bytes.fromhex(header) + frame.body
    assert len(done.stdout.splitlines()) == 4


def test_flags_of_frames_are_the_same_on_both_sides() -> None:
    text = (ROOT / "native" / "src" / "wire" / "frame.h").read_text()
    ours = {
        name: 1 << int(bit) for name, bit in re.findall(r"HARP_FRAME_(\w+) = 1u\s*<< (\d)", text)
    }
    theirs = {n.removeprefix("FRAME_FLAG_"): v for n, v in session_pb2.FrameFlag.items() if v}
    assert ours == theirs
    assert len(ours) == 6


def test_both_codecs_are_of_one_table() -> None:
    text = (ROOT / "native" / "generated" / "wire_ops.h").read_text()
    hashed = "".join(
        part.strip()[2:4]
        for part in text.split("TABLE_HASH")[1]
        .split("}")[0]
        .replace("\\", "")
        .replace("{", "")
        .split(",")
    )
    assert hashed == _tables.TABLE_HASH
