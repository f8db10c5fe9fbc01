# SPDX-License-Identifier: Apache-2.0
"""What somebody may try who speaks to harp-worker himself: each costs his own session, at most.

Of the list in the design these are elsewhere: unknown ops, handles of another kind or generation,
a lane that is none, bulk regions that are none, random bodies (test_worker.py); images that are not
what their hash says (test_worker_images.py); images that do not end where they say, and tables
that are full (tests/native/worker_{handles,memory,images}_test.c); TLS (test_link_tls.py).
"""

from __future__ import annotations

import ctypes
import itertools
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ring_client import (
    BULK_FLAG,
    END,
    HEADER,
    NUMBERS,
    PACK,
    PAGE,
    RING,
    WANTED,
    Client,
    Worker,
    WorkerGoneError,
)
from shim_world import MIB, World, compile_c, soft_world
from worker_world import PTX, SUCCESS, alloc, start, stream, sync

from harp.wire import encode_request

HERE = Path(__file__).resolve().parent
INVALID_VALUE, OUT_OF_MEMORY, INVALID_IMAGE, INVALID_HANDLE = 1, 2, 200, 400


@pytest.fixture(scope="module")
def world(native_dir: Path) -> Iterator[World]:
    with soft_world(native_dir) as made:
        made.tenant("remote", mem=1024 * MIB)
        made.tenant("small", mem=256 * MIB)
        yield made


@pytest.fixture
def worker(world: World) -> Iterator[Worker]:
    with start(world) as made:
        made.dial().context()
        yield made


@pytest.fixture
def client(worker: Worker) -> Client:
    assert worker.client is not None
    return worker.client


#: for tests that only want it to notice nothing
beside_another = pytest.mark.usefixtures("other")


@pytest.fixture
def other(world: World) -> Iterator[Client]:
    """Another tenant's session, which must notice nothing."""
    with start(world, "small") as made:
        c = made.dial()
        c.context()
        yield c
        assert sync(c) == SUCCESS
        assert made.process.poll() is None


def ends(worker: Worker, why: str) -> None:
    assert worker.ended() == 2
    assert why in worker.words()


def rss(worker: Worker, which: str = "VmRSS") -> int:
    """Bytes; 0: it has ended."""
    text = Path(f"/proc/{worker.process.pid}/status").read_text()
    lines = [line for line in text.splitlines() if line.startswith(which)]
    return int(lines[0].split()[1]) << 10 if lines else 0


# --- records --------------------------------------------------------------------------------------


def put_raw(c: Client, size: int, name: str, seq: int, body: bytes = b"") -> None:
    """A record whose header says what it likes."""
    at = PAGE + c.tail % RING
    record = HEADER.pack(size, NUMBERS[name], WANTED, 1, seq, 0) + body
    c.map[at : at + len(record)] = record
    c.tail += len(record)
    ctypes.c_uint64.from_address(ctypes.addressof(ctypes.c_char.from_buffer(c.map))).value = c.tail
    c.wake()


@beside_another
@pytest.mark.parametrize("size", [RING, RING // 2, 0x7FFF_FFF8, 0xFFFF_FFF8, 4])
def test_a_record_longer_than_what_is_there(worker: Worker, client: Client, size: int) -> None:
    put_raw(client, size, "cuCtxSynchronize", client.seq + 1)
    ends(worker, "what cannot be in its ring")


@beside_another
@pytest.mark.parametrize("step", [0, -1, 2, 1 << 40])
def test_a_record_that_was_there_before_or_comes_too_early(
    worker: Worker, client: Client, step: int
) -> None:
    """Each has the number after the last one's: a call that is said again is not made again."""
    at = alloc(client)
    body = encode_request(NUMBERS["cuMemFree_v2"], {"dptr": at})
    put_raw(client, len(body), "cuMemFree_v2", client.seq + step, body)
    ends(worker, "what cannot be in its ring")


@pytest.mark.slow
@beside_another
@pytest.mark.parametrize(
    "body",
    [
        pytest.param(struct.pack("<HHIHHI", PACK, WANTED, 8, 200, 0, 0), id="a pack"),
        pytest.param(struct.pack("<HHI", 0, WANTED, 0), id="no op"),
        pytest.param(struct.pack("<HHI", 200, WANTED, 64), id="longer than its pack"),
        pytest.param(struct.pack("<HH", 200, WANTED), id="cut"),
    ],
)
def test_a_pack_in_a_pack_or_of_what_is_no_call(
    worker: Worker, client: Client, body: bytes
) -> None:
    client.put(PACK, body, flags=WANTED)
    ends(worker, "a pack that is none")


def test_more_bytes_than_a_body_has_are_not_looked_for(client: Client) -> None:
    at = alloc(client)
    honest = encode_request(
        NUMBERS["cuMemcpyHtoD_v2"], {"dstDevice": at, "srcHost": bytes(64), "ByteCount": 64}
    )
    for count in (65, 1 << 20, 1 << 40, (1 << 64) - 1):
        lie = honest.replace(struct.pack("<Q", 64), struct.pack("<Q", count))
        assert lie != honest
        seq = client.put(NUMBERS["cuMemcpyHtoD_v2"], lie, flags=WANTED)
        answer = client.until(lambda r, seq=seq: r.ack == seq).body
        assert int.from_bytes(answer, "little") == INVALID_VALUE
    assert sync(client) == SUCCESS


def test_a_handle_of_another_session_is_none(client: Client, other: Client) -> None:
    """Neither the client's ids nor the worker's own."""
    theirs = [stream(other) for _ in range(40)]
    assert sync(other) == SUCCESS
    assert client.ask("cuStreamSynchronize", hStream=theirs[-1])[0] == INVALID_HANDLE
    pool = int(other.must("cuDeviceGetMemPool", pool=1, dev=0)["pool"])
    assert pool >= 1 << 63
    assert client.ask("cuMemPoolTrimTo", pool=pool, minBytesToKeep=0)[0] == INVALID_HANDLE
    assert other.ask("cuMemPoolTrimTo", pool=pool, minBytesToKeep=0)[0] == SUCCESS


# --- taking all there is --------------------------------------------------------------------------


@pytest.mark.slow
def test_who_sends_his_hello_byte_by_byte_is_not_waited_for(world: World) -> None:
    """All of it within 5 s."""
    with start(world) as worker:
        end = time.monotonic() + 60
        while worker.process.poll() is None:
            assert time.monotonic() < end
            try:
                worker.sock.send(b"\x00")
            except (BrokenPipeError, ConnectionResetError):
                break
            time.sleep(0.5)
        assert worker.ended() == 1
        assert "no hello within 5000 ms" in worker.words()


def test_who_reads_no_answer_is_waited_for_up_to_a_bound(
    worker: Worker, client: Client, other: Client
) -> None:
    """The worker waits for room to answer; of what he says meanwhile 16 MiB are kept."""
    name = "cuMemcpyHtoD_v2"
    asked = {"dstDevice": alloc(client, 32768), "srcHost": bytes(32768), "ByteCount": 32768}
    small = encode_request(NUMBERS["cuMemGetInfo_v2"], {"free": 1, "total": 1})
    large = encode_request(NUMBERS[name], asked)
    head = client._word(64, ctypes.c_uint64)  # what has been read of our calls
    before, most, end = rss(worker), 0, time.monotonic() + 60
    for i in itertools.count():  # more small ones than there is room for answers to
        while RING - (client.tail - head.value) < 2 * len(large) and worker.process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.001)
        if worker.process.poll() is not None:
            break
        many = i < 40000
        client.put(NUMBERS["cuMemGetInfo_v2" if many else name], small if many else large, flags=2)
        if i % 500 == 0:
            assert sync(other) == SUCCESS
            most = max(most, rss(worker))
    assert most - before < 48 * MIB
    ends(worker, "more than 16 MiB of calls wait for others of their lanes")


@beside_another
def test_all_lanes_at_once_and_none_beyond(worker: Worker, client: Client) -> None:
    """64 wait for a device, and are answered; of 256 there is no 65th."""
    flag, on = alloc(client), stream(client)
    client.must("cuMemsetD32_v2", dstDevice=flag, ui=0, N=1)
    for lane in range(2, 65):
        client.send("cuCtxSetCurrent", ctx=client.current, lane=lane)
    client.send("cuStreamWaitValue32_v2", stream=on, addr=flag, value=1, flags=1)
    asked = [
        client.send("cuStreamSynchronize", hStream=on, lane=lane, how=WANTED)
        for lane in range(2, 65)
    ]
    client.must("cuMemsetD32Async", dstDevice=flag, ui=1, N=1, hStream=stream(client))
    for seq in asked:
        assert client.reply(seq, "cuStreamSynchronize", {})[0] == SUCCESS
    assert rss(worker) < 512 * MIB
    client.put(NUMBERS["cuCtxSynchronize"], b"", flags=WANTED, lane=256)
    ends(worker, "a call of no lane")


@beside_another
def test_transfers_that_no_call_names_are_bounded(worker: Worker, client: Client) -> None:
    body = struct.pack("<QQ", 0, 4096)
    for _ in range(5000):  # less than the ring has room for
        client.put(0, body, flags=BULK_FLAG | END, ack=client.new())
    with pytest.raises(WorkerGoneError):
        sync(client)
    ends(worker, "more than there is room for")


def test_links_are_bounded(client: Client) -> None:
    """Each has logs, which are the worker's memory."""
    options = {"numOptions": 3, "options": [5, 6, 2], "optionValues": [0, 65536, 0]}
    made = []
    for _ in range(1024):
        made.append(client.new())
        client.must("cuLinkCreate_v2", stateOut=made[-1], **options)
    asked = {"stateOut": client.new()} | options
    assert client.ask("cuLinkCreate_v2", **asked)[0] == OUT_OF_MEMORY
    client.must("cuLinkDestroy", state=made[0])
    client.must("cuLinkCreate_v2", stateOut=client.new(), **options)


# --- images ---------------------------------------------------------------------------------------


def entry(data: bytes, *, packed: int = 0, whole: int = 0, size: int | None = None) -> bytes:
    """Of a fat binary, for PTX."""
    padded = data + bytes(-len(data) % 8)
    head = struct.pack("<HHIQ", 1, 0x101, 64, len(padded) if size is None else size)
    head += struct.pack("<IIHHI", packed, 0, 0, 8, 70)
    head += struct.pack("<IIQQQ", 0, 0, 0x11 | (0x2000 if packed else 0), 0, whole)
    return head + padded


def fatbin(body: bytes, size: int | None = None) -> bytes:
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body) if size is None else size) + body


ELF = b"\x7fELF\x02\x01"
#: LZ4: a literal, and then a match as long as its bytes of 255 say
BOMB = b"\x1f.\x01\x00" + b"\xff" * 60000 + b"\x00"


@pytest.mark.slow
@beside_another
@pytest.mark.parametrize(
    "image",
    [
        pytest.param(
            fatbin(entry(BOMB, packed=len(BOMB), whole=1 << 40)), id="a TiB when unpacked, it says"
        ),
        pytest.param(
            fatbin(entry(BOMB, packed=len(BOMB), whole=300 * MIB)),
            id="more than all images may have",
        ),
        pytest.param(fatbin(entry(PTX), size=1 << 30), id="a container longer than the image"),
        pytest.param(fatbin(entry(PTX, size=1 << 30)), id="an entry longer than its container"),
        pytest.param(
            fatbin(entry(BOMB, packed=1 << 30, whole=4096)), id="packed bytes beyond the entry"
        ),
        pytest.param(ELF + bytes(34) + b"\xff" * 24, id="machine code without its sections"),
        pytest.param(ELF, id="machine code of six bytes"),
        pytest.param(
            struct.pack("<IIQQ", 0x466243B1, 1, 0x10000, 0), id="where a container is in memory"
        ),
    ],
)
def test_an_image_that_says_more_than_it_is(worker: Worker, client: Client, image: bytes) -> None:
    before = rss(worker, "VmHWM")
    asked = {"module": client.new(), "image": client.image(image)}
    assert client.ask("cuModuleLoadData", **asked)[0] == INVALID_IMAGE
    assert rss(worker, "VmHWM") - before < 64 * MIB
    client.must("cuModuleLoadData", module=client.new(), image=client.image(PTX))


# --- files, and memory of the host ----------------------------------------------------------------


def test_no_call_names_a_file_or_memory_of_the_host() -> None:
    """They have no number to be said by: who has a file sends its bytes."""
    never = {
        *("cuModuleLoad", "cuLibraryLoadFromFile", "cuLinkAddFile", "cuLinkAddFile_v2"),
        *("cuGraphDebugDotPrint", "cuCoredumpSetAttribute", "cuCoredumpSetAttributeGlobal"),
        *("cuLogsDumpToFile", "cuProfilerInitialize", "cuMemHostRegister_v2", "cuMemHostAlloc"),
        *("cuMemAllocHost_v2", "cuMemFreeHost", "cuMemHostGetDevicePointer_v2", "cuGetExportTable"),
        *("cuMemExportToShareableHandle", "cuMemImportFromShareableHandle", "cuIpcGetMemHandle"),
        *("cuIpcOpenMemHandle_v2", "cuCheckpointProcessLock", "cuGetProcAddress_v2"),
    }
    assert never & set(NUMBERS) == set()


@pytest.mark.parametrize("size", [64, MIB], ids=["in a body", "in the bulk area"])
def test_host_memory_that_is_captured_after_all_ends_the_session(
    world: World, tmp_path: Path, size: int
) -> None:
    """By another thread, after the look at the stream: each launch would use it again."""
    more = ["-shared", "-fPIC", "-Wl,--no-as-needed", str(world.cuda)]
    more.append(f"-Wl,-rpath,{world.cuda.parent}")
    driver = compile_c(HERE / "worker_begins.c", tmp_path / "libbegins.so", *more)
    with Worker(world.native, driver, world.bare_env()) as worker:
        c = worker.dial()
        c.context()
        to = {"dstDevice": alloc(c, size), "ByteCount": size, "hStream": stream(c)}
        data = c.announce(size, bytes(size))[0] if size == MIB else bytes(size)
        c.send("cuMemcpyHtoDAsync_v2", srcHost=data, **to)
        ends(worker, "host memory in a capture")


@pytest.mark.parametrize("after", [lambda c: c.image(PTX), stream, alloc])
def test_a_session_opens_no_file_that_stays(
    worker: Worker, client: Client, after: Callable[[Client], object]
) -> None:
    """Nothing that is done again and again costs a descriptor."""
    folder = Path(f"/proc/{worker.process.pid}/fd")
    after(client)
    sync(client)
    before = len(list(folder.iterdir()))
    for _ in range(20):
        after(client)
    sync(client)
    assert len(list(folder.iterdir())) <= before
