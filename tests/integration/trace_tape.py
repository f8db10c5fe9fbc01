# SPDX-License-Identifier: Apache-2.0
"""A program for the software GPU as a trace of elsewhere: handles and addresses are made up."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

from trace_whole_program import TWICE

from harp.trace.records import Call, CallFlag, Data, Header, Image, Kind, Name, Record, Symbol, Way
from harp.wire import OPS, Transfer, encode_reply, encode_request

__all__ = ["PTX", "Tapes"]

PTX = TWICE + b"\0"
_NUMBERS = {op.name: op.number for op in OPS.values()}
_KINDS = {
    "cuMemAlloc_v2": Kind.ALLOC,
    "cuMemFree_v2": Kind.FREE,
    "cuMemcpyHtoD_v2": Kind.COPY,
    "cuMemcpyDtoH_v2": Kind.COPY,
    "cuMemcpyDtoHAsync_v2": Kind.COPY,
    "cuLaunchKernel": Kind.LAUNCH,
    "cuCtxSynchronize": Kind.SYNC,
    "cuMemHostAlloc": Kind.ALLOC,
}
CTX, MODULE, KERNEL, STREAM, EVENT = 0xC000, 0x3000, 0xF000, 0x5000, 0xE000
IN, OUT = 0x7F00_0000_0000, 0x7F00_0001_0000
N = 1000


class Tapes:
    """Writes calls down, one after the other, 10 µs each."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.number = 0

    def call(
        self,
        name: str,
        args: dict[str, Any] | None = None,
        *,
        slots: tuple[int, ...] = (),
        result: int = 0,
        thread: int = 1,
        begin_us: int | None = None,
        took_us: int = 5,
        data: dict[tuple[int, Way], bytes] | None = None,
        **fixed: Any,
    ) -> int:
        """One call; its number."""
        number, self.number = self.number, self.number + 1
        op = _NUMBERS.get(name, 0)
        request = reply = b""
        flags = CallFlag(0)
        if args is None:
            flags = CallFlag.RAW
            request = b"".join(slot.to_bytes(8, "little") for slot in slots)
        else:
            request = encode_request(op, dict(args), apart=True)
            reply = encode_reply(op, dict(args), result, dict(args), apart=True)
        begin_ns = (10 * number if begin_us is None else begin_us) * 1000
        self.records.append(
            Call(
                sequence=number,
                symbol=Symbol(name, op, _KINDS.get(name, Kind.OTHER), parameters=len(slots)),
                begin_ns=begin_ns,
                end_ns=begin_ns + took_us * 1000,
                entered_ns=begin_ns,
                result=result,
                thread=thread,
                flags=flags,
                request=request,
                reply=reply,
                **fixed,
            )
        )
        for (transfer, way), host in (data or {}).items():
            self.records.append(Data(number, transfer, way, 0, len(host), host))
        return number

    def begin(self) -> None:
        """Up to a kernel, and memory with numbers in it."""
        sha256 = hashlib.sha256(PTX).digest()
        image = {"sha256": sha256, "bytes": len(PTX)}
        self.call("cuInit", {"Flags": 0})
        self.call("cuDeviceGet", {"ordinal": 0, "device": 0})
        self.call("cuCtxCreate_v2", {"flags": 0, "dev": 0, "pctx": CTX}, made=CTX)
        self.records.append(Image(sha256, 0, len(PTX), PTX))
        self.call("cuModuleLoadData", {"module": MODULE, "image": image}, made=MODULE)
        function = {"hmod": MODULE, "hfunc": KERNEL, "name": "twice"}
        self.call("cuModuleGetFunction", function, made=KERNEL)
        self.records.append(Name(KERNEL, 4, "twice"))
        for address in (IN, OUT):
            self.call("cuMemAlloc_v2", {"bytesize": 4 * N, "dptr": address}, size=4 * N)
        self.up(struct.pack(f"<{N}I", *range(N)))

    def up(self, numbers: bytes) -> int:
        """To the device."""
        args = {"dstDevice": IN, "ByteCount": len(numbers), "srcHost": Transfer(0)}
        data = {(0, Way.SEND): numbers}
        return self.call("cuMemcpyHtoD_v2", args, size=len(numbers), data=data)

    def launch(self, **more: Any) -> int:
        """The kernel, on all numbers."""
        grid = {"gridDimX": 4, "gridDimY": 1, "gridDimZ": 1, "sharedMemBytes": 0}
        block = {"blockDimX": 256, "blockDimY": 1, "blockDimZ": 1, "hStream": 0}
        packed = {"bytes": 20, "data": struct.pack("<QQI", IN, OUT, N)}
        args = {"f": KERNEL, **grid, **block, "kernelParams": packed}
        return self.call("cuLaunchKernel", args, **more)

    def down(self, numbers: bytes, **more: Any) -> int:
        """From the device: what should come."""
        args = {"srcDevice": OUT, "ByteCount": len(numbers), "dstHost": Transfer(0)}
        data = {(0, Way.FETCH): numbers}
        return self.call("cuMemcpyDtoH_v2", args, size=len(numbers), data=data, **more)

    def header(self) -> Header:
        """Of a file with all of them."""
        symbols = tuple({c.symbol: None for c in self.records if isinstance(c, Call)})
        return Header(segments=8, symbols=symbols, program="twice", pid=99)
