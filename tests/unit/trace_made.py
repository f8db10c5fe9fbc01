# SPDX-License-Identifier: Apache-2.0
"""A trace made by hand: two kernels, copies, a fill, an error, each reason to be idle once."""

from __future__ import annotations

import io
from collections.abc import Iterable

from harp.trace.format import Writer
from harp.trace.records import (
    Call,
    CallFlag,
    DeviceTime,
    Header,
    Kind,
    Name,
    Record,
    Symbol,
    Why,
)
from harp.wire import OPS, Transfer, encode_reply, encode_request

__all__ = ["HEADER", "RECORDS", "SYMBOLS", "US", "call", "symbol", "written"]

US = 1000
_KINDS = {
    "cuInit": Kind.OTHER,
    "cuCtxCreate_v2": Kind.CONTEXT,
    "cuMemAlloc_v2": Kind.ALLOC,
    "cuMemAllocPitch_v2": Kind.ALLOC,
    "cuMemFree_v2": Kind.FREE,
    "cuMemcpyHtoD_v2": Kind.COPY,
    "cuMemcpyHtoDAsync_v2": Kind.COPY,
    "cuMemcpyDtoH_v2": Kind.COPY,
    "cuMemsetD8_v2": Kind.FILL,
    "cuLaunchKernel": Kind.LAUNCH,
    "cuStreamSynchronize": Kind.SYNC,
    "cuModuleLoadData": Kind.OTHER,
    "cuModuleGetFunction": Kind.OTHER,
    "cuStreamCreate": Kind.OTHER,
    "cuEventQuery": Kind.QUERY,
    "cuMemGetInfo_v2": Kind.QUERY,
    "cuDeviceGetAttribute": Kind.QUERY,
}
_NUMBERS = {op.name: op.number for op in OPS.values()}
SYMBOLS = (
    *(Symbol(name, _NUMBERS[name], kind) for name, kind in _KINDS.items()),
    Symbol("cuGetExportTable", 0, Kind.QUERY, parameters=2),
    Symbol("cuCtxPushCurrent_v2", 0, Kind.CONTEXT, parameters=1),
    Symbol("cuMemHostAlloc", 0, Kind.ALLOC, parameters=3),
    Symbol("cuMemHostGetDevicePointer_v2", 0, Kind.QUERY, parameters=3),
)
HEADER = Header(
    segments=4,
    symbols=SYMBOLS,
    program="train",
    pid=4711,
    why=Why.TOLD,
    ended_ns=10**6,
    about={"devices": [{"name": "Soft 9", "software": True}, "nonsense"]},
)


def symbol(name: str) -> Symbol:
    """A symbol of the made traces."""
    return next(s for s in SYMBOLS if s.name == name)


def call(
    sequence: int,
    name: str,
    begin_us: float,
    end_us: float,
    args: dict[str, object] | None = None,
    *,
    result: int = 0,
    gated_us: float = 0,
    thread: int = 4711,
    stream: int = 0,
    size: int = 0,
    made: int = 0,
    flags: CallFlag = CallFlag(0),  # noqa: B008 - a constant
    slots: tuple[int, ...] = (),
) -> Call:
    """A call's record; `args` have what was asked and what was answered."""
    of = symbol(name)
    request = reply = b""
    if args is not None:
        asked = dict(args)
        request = encode_request(of.op, asked, apart=True)
        reply = encode_reply(of.op, asked, result, asked, apart=True)
    elif slots:
        request = b"".join(slot.to_bytes(8, "little") for slot in slots)
        flags |= CallFlag.RAW
    begin_ns = int(begin_us * US)
    return Call(
        sequence=sequence,
        symbol=of,
        begin_ns=begin_ns,
        end_ns=int(end_us * US),
        entered_ns=begin_ns + int(gated_us * US),
        result=result,
        thread=thread,
        stream=stream,
        size=size,
        made=made,
        flags=flags,
        request=request,
        reply=reply,
    )


def launch(sequence: int, begin_us: float, end_us: float, f: int, **more: object) -> Call:
    """A launch of 64 blocks of 256 with one parameter."""
    grid = {"gridDimX": 64, "gridDimY": 1, "gridDimZ": 1}
    block = {"blockDimX": 256, "blockDimY": 1, "blockDimZ": 1, "sharedMemBytes": 0, "hStream": 0}
    packed = {"bytes": 8, "data": (0x7000_0000).to_bytes(8, "little")}
    args = {"f": f, **grid, **block, "kernelParams": packed}
    return call(sequence, "cuLaunchKernel", begin_us, end_us, args, **more)  # type: ignore[arg-type]


def device(sequence: int, begin_us: float, took_us: float) -> DeviceTime:
    """How long the device was at a call."""
    return DeviceTime(sequence, int(begin_us * US), int(took_us * US))


def _up(size: int) -> dict[str, object]:
    return {"dstDevice": 0x7000_0000, "ByteCount": size, "srcHost": Transfer(0)}


def _down(size: int) -> dict[str, object]:
    return {"srcDevice": 0x7000_0000, "ByteCount": size, "dstHost": Transfer(0)}


#: times in µs; the device works from 130 to 160, 200 to 300, 400 to 500, 510 to 530, 900 to 1000
RECORDS: tuple[Record, ...] = (
    call(0, "cuInit", 0, 50, {"Flags": 0}),
    call(1, "cuMemAlloc_v2", 60, 70, {"bytesize": 1 << 20, "dptr": 0x7000_0000}, size=1 << 20),
    call(2, "cuMemAlloc_v2", 70, 80, {"bytesize": 1 << 40, "dptr": 0}, result=2, size=1 << 40),
    call(3, "cuMemcpyHtoD_v2", 120, 165, _up(300_000), size=300_000),
    device(3, 130, 30),
    Name(0xF00, 4, "gemm"),
    Name(0xF08, 4, "relu"),
    launch(4, 170, 190, 0xF00),
    device(4, 200, 100),
    launch(5, 310, 390, 0xF00, gated_us=75),
    device(5, 400, 100),
    launch(6, 391, 395, 0xF08),
    device(6, 510, 20),
    call(7, "cuStreamSynchronize", 396, 540, {"hStream": 0}),
    # the program computes from 540 to 880
    launch(8, 880, 890, 0xF08, stream=0xABC0),
    device(8, 900, 100),
    call(9, "cuMemcpyDtoH_v2", 1001, 1101, _down(1_000_000), size=1_000_000),
    call(10, "cuLaunchKernel", 1102, 1103, None, result=400, slots=(0xBAD,) * 11),
    call(11, "cuLaunchKernel", 1104, 1105, None, slots=(0xF08,) + (1,) * 10),
)


def written(records: Iterable[Record], header: Header = HEADER) -> bytes:
    """The file."""
    file = io.BytesIO()
    writer = Writer(file, header)
    for record in records:
        writer.write(record)
    writer.close()
    return file.getvalue()
