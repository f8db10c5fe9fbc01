# SPDX-License-Identifier: Apache-2.0
"""A driver that a replay calls, through libharp-replay.so: one call at a time and thread."""

from __future__ import annotations

import ctypes
import errno
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harp.errors import TraceError, WireError
from harp.native import NativeDir, native_dir
from harp.trace.mapping import Unknown
from harp.trace.report import Made
from harp.wire import OPS, SYMBOLS, decode_request

__all__ = ["Driver"]

_ARENA_BYTES = 4 << 20
_LINK_ARENA_BYTES = 256 << 10  # kept by the driver, for as long as the link is
_BODY_BYTES = 1 << 20
_SEND, _FETCH, _LEND = range(3)
_FN = ctypes.CFUNCTYPE(None)
_TRANSFER = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_uint64,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_uint64),
)
_IMAGE = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint8), ctypes.c_uint64)


class _Call(ctypes.Structure):
    """struct harp_replay_call of native/src/replay/replay.h."""

    _fields_ = (
        ("op", ctypes.c_uint32),
        ("spare", ctypes.c_uint32),
        ("fn", ctypes.c_void_p),
        ("launch_ex", ctypes.c_void_p),
        ("request", ctypes.c_void_p),
        ("request_bytes", ctypes.c_uint64),
        ("arena", ctypes.c_void_p),
        ("arena_bytes", ctypes.c_uint64),
        ("transfer", _TRANSFER),
        ("image", _IMAGE),
        ("reply", ctypes.c_void_p),
        ("reply_room", ctypes.c_uint64),
        ("reply_bytes", ctypes.c_uint64),
        ("made", ctypes.c_uint64),
        ("took_ns", ctypes.c_uint64),
        ("result", ctypes.c_uint32),
        ("spare2", ctypes.c_uint32),
    )


class Driver:
    """The library, its functions, and memory that it may still use.

    Args:
        library: path of a libcuda.

    Raises:
        TraceError: it cannot be loaded.
        BuildMissing: libharp-replay.so is not there.
    """

    def __init__(self, library: Path) -> None:
        try:
            self._cuda = ctypes.CDLL(str(library), mode=ctypes.RTLD_LOCAL)
        except OSError as error:
            raise TraceError(
                f"{library} cannot be loaded: {error}", "--backend soft, driver, or a libcuda.so.1"
            ) from error
        path = NativeDir(native_dir()).file("libharp-replay.so")
        self._make = ctypes.CDLL(str(path)).harp_replay_make
        self._make.argtypes = (ctypes.POINTER(_Call),)
        self._mine = threading.local()
        self._held: list[Any] = []  # what a copy or a link still uses
        self._kept: list[Any] = []  # for good
        self._images: dict[bytes, Any] = {}

    def function(self, symbol: str) -> int:
        """Address of one of CUDA's functions. Raises Unknown.

        No other is looked for: names are a file's, and libcuda's dependencies have `system`.
        """
        if symbol not in SYMBOLS:
            raise Unknown("no function of CUDA's driver API")
        try:
            address = ctypes.cast(self._cuda[symbol], ctypes.c_void_p).value
        except AttributeError:
            address = None
        if address is None:
            raise Unknown("a function that this driver does not have")
        return address

    def make(
        self,
        op: int,
        fn: int,
        body: bytes,
        sent: Mapping[int, bytes],
        images: Mapping[bytes, bytes],
    ) -> Made:
        """Make a call, in this thread."""
        transfers: dict[int, Any] = {}

        def transfer(way: int, size: int, data: Any, number: Any) -> int:
            if way == _LEND:
                number[0] = 0
                return 0
            if size > 1 << 34:
                return -errno.ENOMEM
            buffer = (ctypes.c_char * max(size, 1))()
            known = sent.get(number[0], b"") if way == _SEND else b""
            ctypes.memmove(buffer, known, min(len(known), size))
            transfers[number[0]] = buffer
            self._held.append(buffer)
            data[0] = ctypes.addressof(buffer)
            return 0

        def image(sha256: Any, _size: int) -> int | None:
            key = bytes(sha256[:32])
            if key not in self._images and key in images:
                self._images[key] = ctypes.create_string_buffer(images[key], len(images[key]) + 1)
            found = self._images.get(key)
            return ctypes.addressof(found) if found is not None else None

        if not hasattr(self._mine, "arena"):
            self._mine.arena = ctypes.create_string_buffer(_ARENA_BYTES)
            self._mine.reply = ctypes.create_string_buffer(_BODY_BYTES)
        name = OPS[op].name
        arena = self._mine.arena
        if name.startswith("cuLinkCreate"):
            arena = ctypes.create_string_buffer(_LINK_ARENA_BYTES)
            self._kept.append(arena)
        request = ctypes.create_string_buffer(body, len(body) + 1)
        self._held.append(request)
        hooks = (_TRANSFER(transfer), _IMAGE(image))
        told = _Call(
            op=op,
            fn=fn,
            launch_ex=self._launch_ex() if "Cooperative" in name else None,
            request=ctypes.addressof(request),
            request_bytes=len(body),
            arena=ctypes.addressof(arena),
            arena_bytes=len(arena),
            transfer=hooks[0],
            image=hooks[1],
            reply=ctypes.addressof(self._mine.reply),
            reply_room=_BODY_BYTES,
        )
        failed = self._make(ctypes.byref(told))
        if failed not in (0, -errno.ENOTSUP) or (failed and not told.took_ns):
            return Made(refused=f"it cannot be made of what was recorded ({_errno(failed)})")
        return Made(
            result=told.result,
            took_ns=told.took_ns,
            asked=_asked(op, body),
            reply=bytes(self._mine.reply[: told.reply_bytes]),
            transfers=transfers,
            made=told.made,
            made_kind=next((str(f.kind) for f in OPS[op].fields if f.new), ""),
            again=lambda: self.make(op, fn, body, sent, images),
        )

    def until(self, done: Callable[[Made], bool], made: Made, most_s: float) -> Made:
        """Make a call again and again until it answers what it should, or for so long."""
        end_s = time.monotonic() + most_s
        spent_ns = made.took_ns
        while not done(made) and made.again and time.monotonic() < end_s:
            time.sleep(0.0002)
            made = made.again()
            spent_ns += made.took_ns
        made.took_ns = spent_ns
        return made

    def synchronize(self) -> int:
        """Wait for this thread's context; without one there is nothing to wait for."""
        result: int = self._cuda.cuCtxSynchronize()
        return result

    def let_go(self) -> None:
        """The device has come to an end: nothing uses host memory any more."""
        self._held.clear()

    def _launch_ex(self) -> int | None:
        try:
            return self.function("cuLaunchKernelEx")
        except Unknown:
            return None


def _asked(op: int, body: bytes) -> dict[str, Any]:
    try:
        return decode_request(op, body, apart=True)
    except WireError:
        return {}


def _errno(failed: int) -> str:
    return errno.errorcode.get(-failed, str(failed))
