# SPDX-License-Identifier: Apache-2.0
"""libharp before arbiters of version 1, 2 and later, and before one that is replaced by another."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Self

import pytest
from shim_script import UUID, client
from shim_world import MIB

from harp.lease_wire import MSG_BYTES, VERSION, Msg, Op

PROGRAM = """
import ctypes as C
cuda = C.CDLL("libcuda.so.1")
ctx, stream, pointer = C.c_void_p(), C.c_void_p(), C.c_uint64()
assert cuda.cuInit(0) == 0
assert cuda.cuCtxCreate_v2(C.byref(ctx), 0, 0) == 0
print("context", flush=True)
input()
print(cuda.cuMemAlloc_v2(C.byref(pointer), C.c_size_t(32 << 20)), flush=True)
assert cuda.cuLaunchKernel(None, 1, 1, 1, 1, 1, 1, 0, None, None, None) == 0
print(cuda.cuMemFree_v2(pointer), flush=True)
input()
"""


class Arbiter:
    """One connection of a scripted arbiter that speaks `version`, and all it heard."""

    def __init__(self, listener: socket.socket, version: int) -> None:
        self.version = version
        listener.settimeout(20)
        self.link, _ = listener.accept()
        self.link.settimeout(20)
        #: (version, message) of everything heard
        self.heard: list[tuple[int, Msg]] = []
        assert self.hear().op == Op.HELLO
        self.say(Msg(op=Op.WELCOME, a=1, b=2, client=1, text="t"))
        uuid = UUID[:-1] + b"1"
        self.say(
            Msg(
                op=Op.DEVICE,
                uuid=uuid,
                limit_bytes=64 * MIB,
                capacity_bytes=1 << 30,
                overhead_bytes=2 * MIB,
            )
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.link.close()

    def say(self, msg: Msg) -> None:
        self.link.send(msg.pack(self.version))

    def hear(self) -> Msg:
        packed = self.link.recv(MSG_BYTES)
        assert packed, "it hung up"
        said = int.from_bytes(packed[:2], sys.byteorder)
        self.heard.append((said, Msg.unpack(packed)))
        return self.heard[-1][1]

    def serve(self, until: Op, cls: int = 0) -> Msg:
        """Grant all memory and open all gates until that is heard."""
        while True:
            msg = self.hear()
            if msg.op == until and msg.cls == cls:
                return msg
            self.answer(msg)

    def answer(self, msg: Msg) -> None:
        if msg.op == Op.LEASE_MEM:
            self.say(Msg(op=Op.MEM_GRANT, seq=msg.seq, cls=msg.cls, amount_bytes=msg.amount_bytes))
        elif msg.op == Op.WANT_TIME:
            self.say(Msg(op=Op.OPEN_GATE, cls=msg.cls, epoch=1))
        elif msg.op == Op.MEM_INFO:
            self.say(Msg(op=Op.MEM_STATE, seq=msg.seq, limit_bytes=64 * MIB))


def line(process_out: object) -> str:
    return process_out.readline().strip()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("version", [1, VERSION])
def test_it_begins_in_the_oldest_and_goes_on_in_what_was_agreed(
    native_dir: Path, tmp_path: Path, version: int
) -> None:
    with (
        client(native_dir, tmp_path, sys.executable, "-c", PROGRAM) as made,
        Arbiter(made.listener, version) as arbiter,
    ):
        arbiter.answer(arbiter.serve(Op.LEASE_MEM, cls=1))
        assert line(made.process.stdout) == "context"
        made.go()
        arbiter.answer(arbiter.serve(Op.LEASE_MEM))
        assert line(made.process.stdout) == "0"
        arbiter.answer(arbiter.serve(Op.WANT_TIME))
        assert line(made.process.stdout) == "0"
        (began, hello), *rest = arbiter.heard
        assert (began, hello.c) == (1, VERSION)
        assert {said for said, _ in rest} == {version}


def test_what_a_later_arbiter_says_is_ignored_and_logged_once(
    native_dir: Path, tmp_path: Path
) -> None:
    with (
        client(native_dir, tmp_path, sys.executable, "-c", PROGRAM) as made,
        Arbiter(made.listener, VERSION) as arbiter,
    ):
        for op in (60, 61, 60):
            arbiter.say(Msg(op=op))
        arbiter.answer(arbiter.serve(Op.LEASE_MEM, cls=1))
        assert line(made.process.stdout) == "context"
        made.go()
        arbiter.answer(arbiter.serve(Op.LEASE_MEM))
        assert line(made.process.stdout) == "0"
        assert made.log.read_text().count("unknown_message") == 1


def test_a_question_to_an_arbiter_that_goes_is_asked_again(
    native_dir: Path, tmp_path: Path
) -> None:
    """The next connection has the old one's descriptor number, and is another one all the same."""
    with client(native_dir, tmp_path, sys.executable, "-c", PROGRAM) as made:
        with Arbiter(made.listener, VERSION) as first:
            first.answer(first.serve(Op.LEASE_MEM, cls=1))
            assert line(made.process.stdout) == "context"
            made.go()
            first.serve(Op.LEASE_MEM)
        with Arbiter(made.listener, 1) as second:
            second.answer(second.serve(Op.LEASE_MEM))
            assert line(made.process.stdout) == "0", "it waited for an answer that cannot come"
