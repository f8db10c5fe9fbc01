# SPDX-License-Identifier: Apache-2.0
"""Sessions through harp-link: a program's ring here, its worker there, bytes and all ends."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import random
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from link_session import Far, Near, Pair, alive, link_program, pair, until
from link_world import Authority
from ring_client import BULK_FLAG, END, REPLY, WANTED, Client, WorkerGoneError, table_text

from harp.wire import Transfer

MIB = 1 << 20
FILL = b""".version 7.0
.target sm_70
.address_size 64
.visible .entry fill(.param .u64 at, .param .u32 value)
{
    .reg .b32 %r<6>;
    .reg .b64 %rd<4>;
    ld.param.u64 %rd1, [at];
    ld.param.u32 %r1, [value];
    mov.u32 %r2, %tid.x;
    mov.u32 %r3, %ctaid.x;
    mov.u32 %r4, %ntid.x;
    mad.lo.s32 %r5, %r3, %r4, %r2;
    mul.wide.u32 %rd2, %r5, 4;
    add.s64 %rd3, %rd1, %rd2;
    st.global.u32 [%rd3], %r1;
    ret;
}
"""


@pytest.fixture(params=["plain", "tls"])
def joined(
    request: pytest.FixtureRequest, native_dir: Path, tmp_path: Path, soft_env: dict[str, str]
) -> object:
    """A pair, with a token or by certificates."""
    far_options, near_options = [], []
    if request.param == "tls":
        authority = Authority(tmp_path)
        ca = ["--ca", str(authority.pem)]
        for options, name in ((far_options, "server"), (near_options, "client")):
            certificate, key = authority.issue(name)
            options += [*ca, "--cert", str(certificate), "--key", str(key)]
    with pair(native_dir, tmp_path, soft_env, far_options, near_options) as both:
        yield both


@pytest.fixture
def plain(native_dir: Path, tmp_path: Path, soft_env: dict[str, str]) -> object:
    """A pair with a token."""
    with pair(native_dir, tmp_path, soft_env) as both:
        yield both


def alloc(client: Client, size: int) -> int:
    """Device memory."""
    return int(client.must("cuMemAlloc_v2", dptr=1, bytesize=size)["dptr"])


def to_device(client: Client, at: int, data: bytes) -> None:
    """Through a region, or in the body."""
    if len(data) <= 64 << 10:
        client.must("cuMemcpyHtoD_v2", dstDevice=at, srcHost=data, ByteCount=len(data))
        return
    transfer, _ = client.announce(len(data), data)
    client.must("cuMemcpyHtoD_v2", dstDevice=at, srcHost=transfer, ByteCount=len(data))
    client.done(transfer)


def from_device(client: Client, at: int, size: int) -> bytes:
    """The same way back."""
    if size <= 64 << 10:
        answer = client.must("cuMemcpyDtoH_v2", dstHost=1, srcDevice=at, ByteCount=size)
        return bytes(answer["dstHost"])
    transfer, offset = client.announce(size)
    client.must("cuMemcpyDtoH_v2", dstHost=transfer, srcDevice=at, ByteCount=size)
    client.done(transfer)
    return client.bulk(offset, size)


def ended(pair: Pair) -> None:
    """Worker and both sessions are gone."""
    until("an end of the session's process", lambda: not _sessions(pair.near))
    assert pair.far.ends() == 0, pair.far.log.read_text()


def _sessions(near: Near) -> list[int]:
    path = Path(f"/proc/{near.process.pid}/task/{near.process.pid}/children")
    return [int(pid) for pid in path.read_text().split() if alive(int(pid))]


def test_calls_copies_and_kernels(joined: Pair) -> None:
    client = joined.client
    client.context()
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    at = alloc(client, 4 * MIB)
    for size in (1, 4096, 64 << 10, (64 << 10) + 1, 256 << 10, (256 << 10) + 8, MIB, 4 * MIB):
        data = random.Random(seed + size).randbytes(size)
        to_device(client, at, data)
        assert from_device(client, at, size) == data
    fill = client.function(FILL, "fill")
    client.launch(fill, struct.pack("<QI4x", at, 0xABCD1234), blocks=256, threads=1024)
    assert from_device(client, at, MIB) == struct.pack("<I", 0xABCD1234) * (MIB // 4)
    client.close()
    ended(joined)
    assert joined.near.log.read_text() == joined.far.log.read_text() == ""


def test_many_calls_and_their_order(plain: Pair) -> None:
    client = plain.client
    client.context()
    sent: dict[int, list[int]] = {1: [], 2: [], 3: []}
    back: dict[int, list[int]] = {1: [], 2: [], 3: []}
    for n in range(6000):  # replies are more than the ring of answers holds
        lane = 1 + n % 3
        seq = client.send("cuDeviceGetName", how=WANTED, lane=lane, name=1, len=700, dev=0)
        sent[lane].append(seq)
    for _ in range(6000):
        record = client.until(lambda r: r.flags & REPLY)  # the first there is
        assert record.name == "cuDeviceGetName"
        back[record.lane].append(record.ack)
    assert back == sent
    assert not any(r.flags & REPLY for r in client.got)


def test_a_program_that_takes_nothing_holds_its_worker_back(plain: Pair) -> None:
    client = plain.client
    client.context()
    at, size, count = alloc(client, 60_000), 60_000, 2000
    data = random.Random(1).randbytes(size)
    to_device(client, at, data)
    session, far = plain.near.session(), plain.far.process.pid

    def most_kib() -> list[int]:
        texts = (Path(f"/proc/{pid}/status").read_text() for pid in (session, far))
        return [int(text.split("VmHWM:")[1].split()[0]) for text in texts]

    idle, before = most_kib(), [0, 0]
    seqs = [
        client.send("cuMemcpyDtoH_v2", how=WANTED, dstHost=1, srcDevice=at, ByteCount=size)
        for _ in range(count)
    ]
    # 120 MB want to come, and nobody takes them: more than the ring waits here, and no more comes.
    until("replies", lambda: most_kib()[0] - idle[0] > 2 << 10)
    while before != (now := most_kib()):
        before = now
        time.sleep(0.5)
    assert now[0] - idle[0] < 32 << 10
    assert now[1] - idle[1] < 32 << 10
    for seq in seqs:
        record = client.until(lambda r: r.flags & REPLY)
        assert record.ack == seq
        assert record.body.endswith(data)


def test_asynchronous_copies_share_the_area(plain: Pair) -> None:
    client = plain.client
    client.context()
    at, size = alloc(client, 4 * MIB), 2 * MIB
    transfers: list[Transfer] = []
    for n in range(60):
        if len(transfers) == 4:  # regions are used in turn
            client.done(transfers.pop(0))
        transfer, _ = client.announce(size, bytes([n]) * size)
        client.send(
            "cuMemcpyHtoDAsync_v2", dstDevice=at, srcHost=transfer, ByteCount=size, hStream=0
        )
        transfers.append(transfer)
    for transfer in transfers:
        client.done(transfer)
    back, offset = client.announce(size)
    client.send("cuMemcpyDtoHAsync_v2", dstHost=back, srcDevice=at, ByteCount=size, hStream=0)
    client.must("cuStreamSynchronize", hStream=0)
    client.done(back)
    assert client.bulk(offset, size) == bytes([59]) * size


def test_an_image_in_parts(plain: Pair) -> None:
    client = plain.client
    client.context()
    image = FILL + b"// " + os.urandom(3 * MIB).hex().encode() + b"\n"
    transfer, part = Transfer(client.new()), 4 * MIB
    for at in range(0, len(image), part):
        piece, offset = image[at : at + part], client.region(part)
        start = 4096 + 2 * MIB + offset
        client.map[start : start + len(piece)] = piece
        end = END if at + part >= len(image) else 0
        region = struct.pack("<QQ", offset, len(piece))
        client.put(0, region, flags=BULK_FLAG | end, lane=1, ack=transfer.id)
        told = client.until(lambda r: r.flags & BULK_FLAG and not r.flags & END)
        assert (told.ack, told.body) == (transfer.id, region)
    digest = hashlib.sha256(image).digest()
    name = {"sha256": digest, "bytes": len(image)}
    client.must("harpImagePut", image=name, data=transfer, bytes=len(image))
    client.done(transfer)
    assert client.must("harpImageFind", image=name, found=1)["found"] == 1


def test_what_no_call_names_is_given_back(plain: Pair) -> None:
    client = plain.client
    client.context()
    at = alloc(client, MIB)
    unused, _ = client.announce(MIB, bytes(MIB))
    client.must("cuCtxSynchronize")
    client.done(unused)
    # Of a call that fails, too: nothing there to copy to.
    failing, _ = client.announce(MIB, bytes(MIB))
    result, _ = client.ask(
        "cuMemcpyHtoD_v2", dstDevice=at + (1 << 40), srcHost=failing, ByteCount=MIB
    )
    assert result == 1
    client.done(failing)
    to_device(client, at, b"x" * MIB)
    assert from_device(client, at, MIB) == b"x" * MIB


def test_host_functions_come_back(plain: Pair) -> None:
    client = plain.client
    client.context()
    ran: list[int] = []
    for ticket in range(1, 21):
        client.functions[ticket] = lambda asked: ran.append(asked["ticket"])
        client.send("cuLaunchHostFunc", hStream=0, fn=ticket, userData=0)
    client.must("cuStreamSynchronize", hStream=0)
    assert ran == list(range(1, 21))


def hung_up(client: Client) -> bool:
    try:
        client.look()
    except WorkerGoneError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["program", "near", "far", "worker", "stopped worker"])
def test_any_of_the_four_dies(plain: Pair, victim: str) -> None:
    client, far, near = plain.client, plain.far, plain.near
    client.context()
    alloc(client, MIB)
    session, worker = near.session(), far.worker()
    if victim == "program":
        client.close()
    elif victim == "stopped worker":  # which sees nothing of its program's end
        os.kill(worker, signal.SIGSTOP)
        client.close()
    else:
        pid = {"near": session, "far": far.process.pid, "worker": worker}[victim]
        os.kill(pid, signal.SIGKILL)
    far.process.wait(timeout=20)
    until("the worker's end", lambda: not alive(worker))
    until("the session's end", lambda: not alive(session))
    if victim in ("near", "far", "worker"):
        # Its first thread may have ended before the one that lets go of the socket.
        until("its end of the socket", lambda: hung_up(client))
    if victim == "worker":
        assert "UNAVAILABLE: the worker has ended; remedy" in near.log.read_text()


@pytest.mark.slow
def test_a_program_leaves_while_nothing_has_room(plain: Pair) -> None:
    client, far = plain.client, plain.far
    client.context()
    at, data = alloc(client, MIB), bytes(60_000)
    session, worker = plain.near.session(), far.worker()
    os.kill(worker, signal.SIGSTOP)
    client.timeout_s = 2

    def fill() -> None:
        for _ in range(4000):  # 240 MB
            client.send("cuMemcpyHtoD_v2", dstDevice=at, srcHost=data, ByteCount=len(data))

    with pytest.raises(AssertionError, match="no room"):
        fill()
    client.close()
    until("the session's end", lambda: not alive(session))
    far.process.wait(timeout=20)
    until("the worker's end", lambda: not alive(worker))


def spoil_region(client: Client) -> None:
    client.put(0, struct.pack("<QQ", 1 << 50, 4096), flags=BULK_FLAG | END, lane=1, ack=9)


def spoil_body(client: Client) -> None:
    client.put(0, b"short", flags=BULK_FLAG | END, lane=1, ack=9)


def spoil_indices(client: Client) -> None:
    client._word(0, ctypes.c_uint64).value = 1 << 40  # more than a ring holds
    client.wake()


@pytest.mark.parametrize("spoil", [spoil_region, spoil_body, spoil_indices])
def test_nonsense_costs_its_own_session(plain: Pair, spoil: Callable[[Client], None]) -> None:
    client = plain.client
    client.context()
    spoil(client)
    with pytest.raises(WorkerGoneError):
        client.until(lambda record: record.op == "none", 10)
    plain.far.process.wait(timeout=20)
    assert plain.near.process.poll() is None
    assert "nonsense in the ring" in plain.near.log.read_text()


def test_refusals(native_dir: Path, tmp_path: Path, soft_env: dict[str, str]) -> None:
    with pair(native_dir, tmp_path, soft_env) as both:
        both.client.must("harpSession", devices=1, driver_version=1, loading_mode=1)
        with pytest.raises(ConnectionRefusedError, match="in use; remedy"):
            both.near.dial()
        with pytest.raises(ConnectionRefusedError, match=r"HARP 9\.8\.7.*remedy"):
            both.near.dial(table_text(digest="0" * 64, version="9.8.7"))
        (tmp_path / "wrong").write_text("wrong\n")
        folder = tmp_path / "other"
        folder.mkdir()
        for options, session, says in (
            (["--token-file", str(tmp_path / "wrong")], "session-1", "token is not"),
            ([], "session-1", "no token"),
            (["--token-file", str(both.far.token)], "session-2", "harp-session"),
        ):
            other = Near(native_dir, folder, both.far.address, *options, session=session)
            try:
                with pytest.raises(ConnectionRefusedError, match=says):
                    other.dial()
            finally:
                other.close()
        both.client.must("harpSession", devices=1, driver_version=1, loading_mode=1)


def test_no_driver_and_nobody(native_dir: Path, tmp_path: Path, soft_env: dict[str, str]) -> None:
    with contextlib.closing(
        Far(native_dir, tmp_path, soft_env, driver=tmp_path / "nothing.so")
    ) as far:
        options = ("--token-file", str(far.token))
        with contextlib.closing(Near(native_dir, tmp_path, far.address, *options)) as near:
            with pytest.raises(ConnectionRefusedError, match=r"nothing\.so"):
                near.dial()
            assert far.ends() == 0
            with pytest.raises(ConnectionRefusedError, match="refused; remedy"):
                near.dial()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["far", "--listen", "127.0.0.1:0", "--session", "s", "--", "/bin/true"], "anybody"),
        (["far", "--listen", "0.0.0.0:0", "--session", "s", "--token-file", "{t}", "--", "x"],
         "unencrypted"),
        (["near", "--socket", "{d}/s", "--to", "192.0.2.1:1", "--session", "s"], "unencrypted"),
        (["near", "--socket", "{d}/" + "s" * 120, "--to", "127.0.0.1:1", "--session", "s"],
         "longer than"),
        (["near", "--to", "127.0.0.1:1", "--session", "s"], "usage"),
        (["near", "--socket", "{d}/s", "--to", "127.0.0.1:1", "--session", "s", "--token-file",
          "{d}/none"], "No such file"),
        (["far", "--listen", "127.0.0.1:0", "--session", "s", "--resume", "x", "--token-file",
          "{t}", "--", "x"], "usage"),
        (["sideways"], "usage"),
    ],
)  # fmt: skip
def test_what_cannot_be_started(
    native_dir: Path, tmp_path: Path, arguments: list[str], says: str
) -> None:
    (tmp_path / "t").write_text("token\n")
    words = [word.format(t=tmp_path / "t", d=tmp_path) for word in arguments]
    done = subprocess.run(
        [link_program(native_dir), *words], capture_output=True, text=True, check=False, timeout=20
    )
    assert done.returncode != 0
    assert says in done.stderr
