# SPDX-License-Identifier: Apache-2.0
"""Host bytes and module images, by what SESSION.md says."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from ring_client import (
    BULK_FLAG,
    Client,
)
from shim_world import World
from worker_world import (
    FILE_NOT_FOUND,
    INVALID_IMAGE,
    INVALID_VALUE,
    NOT_SUPPORTED,
    PTX,
    SUCCESS,
    alloc,
    fill,
    number,
    read,
    session,
    stream,
    sync,
    tenants,
    zero,
)

from harp.wire import decode_request


@pytest.fixture(scope="module")
def world(native_dir: Path) -> Iterator[World]:
    with tenants(native_dir) as made:
        yield made


@pytest.fixture
def client(world: World) -> Iterator[Client]:
    with session(world) as made:
        yield made


# --- host bytes -----------------------------------------------------------------------------------


def test_large_copies_go_through_the_bulk_area(client: Client) -> None:
    size = 3 << 20
    at, data = alloc(client, size), os.urandom(size)
    transfer, _ = client.announce(size, data)
    client.must("cuMemcpyHtoD_v2", dstDevice=at, srcHost=transfer, ByteCount=size)
    client.done(transfer)
    transfer, offset = client.announce(size)
    client.must("cuMemcpyDtoH_v2", dstHost=transfer, srcDevice=at, ByteCount=size)
    assert client.bulk(offset, size) == data


def test_async_copies_are_done_when_their_stream_has_passed(client: Client) -> None:
    size, on = 1 << 20, stream(client)
    at, flag, data = alloc(client, size), zero(client), os.urandom(size)
    client.send("cuStreamWaitValue32_v2", stream=on, addr=flag, value=1, flags=1)
    there, _ = client.announce(size, data)
    client.send("cuMemcpyHtoDAsync_v2", dstDevice=at, srcHost=there, ByteCount=size, hStream=on)
    back, offset = client.announce(size)
    client.send("cuMemcpyDtoHAsync_v2", dstHost=back, srcDevice=at, ByteCount=size, hStream=on)
    few, few_at = client.announce(4)
    client.send("cuMemcpyDtoHAsync_v2", dstHost=few, srcDevice=at, ByteCount=4, hStream=on)
    client.must("cuMemGetInfo_v2", free=1, total=1)
    assert not [r for r in client.got if r.flags & BULK_FLAG]  # their stream waits
    other = stream(client)
    fill(client, flag, 1, other)
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    done = [r.ack for r in client.got if r.flags & BULK_FLAG]  # before the reply
    assert done == [there.id, back.id, few.id]
    assert client.bulk(offset, size) == data
    assert client.bulk(few_at, 4) == data[:4]


def test_regions_come_back_whatever_becomes_of_the_call(client: Client) -> None:
    size = 1 << 17
    at = alloc(client, size)
    for name, values in (
        ("cuMemcpyHtoD_v2", {"dstDevice": 4096}),  # is not made
        ("cuMemcpyHtoD_v2", {"dstDevice": at, "ByteCount": size - 4}),  # says something else
        ("cuMemcpyHtoD_v2", {"dstDevice": at + size}),  # fails
    ):
        transfer, _ = client.announce(size, bytes(8))
        asked = {"srcHost": transfer, "ByteCount": size} | values
        assert client.ask(name, **asked)[0] == INVALID_VALUE
        client.done(transfer)
    transfer, _ = client.announce(size)
    sync(client)  # another call than the one it was for
    client.done(transfer)
    asked = {"dstDevice": at, "srcHost": transfer, "ByteCount": size}
    assert client.ask("cuMemcpyHtoD_v2", **asked)[0] == INVALID_VALUE  # it is over


def test_a_captured_copy_of_host_memory_is_not_made(client: Client) -> None:
    at, on, graph = alloc(client), stream(client), client.new()
    client.must("cuStreamBeginCapture_v2", hStream=on, mode=2)
    copy = {"dstDevice": at, "srcHost": b"1234", "ByteCount": 4, "hStream": on}
    assert client.ask("cuMemcpyHtoDAsync_v2", **copy)[0] == NOT_SUPPORTED
    fill(client, at, 7, on)
    client.must("cuStreamEndCapture", hStream=on, phGraph=graph)
    assert client.ask("cuMemcpyHtoDAsync_v2", **copy)[0] == SUCCESS
    assert client.ask("cuStreamSynchronize", hStream=on)[0] == SUCCESS
    assert read(client, at) == b"1234"


# --- images ---------------------------------------------------------------------------------------


def test_an_image_is_put_once_and_is_what_it_says(client: Client) -> None:
    image = client.image(PTX)
    before = client.seq
    assert client.image(PTX) == image
    assert client.seq == before + 1  # found: not put again
    wrong = image | {"sha256": bytes(32)}
    put = {"image": wrong, "data": PTX, "bytes": len(PTX)}
    assert client.ask("harpImagePut", **put)[0] == INVALID_IMAGE
    assert client.must("harpImageFind", image=wrong, found=1)["found"] == 0
    assert client.ask("cuModuleLoadData", module=client.new(), image=wrong)[0] == FILE_NOT_FOUND
    client.must("cuModuleLoadData", module=client.new(), image=image)


def test_a_library_whose_binary_is_preserved_is_loaded(client: Client) -> None:
    """That it is, is the client's to say and of no use here: images of the worker's may go."""
    none = {"jitOptions": None, "jitOptionsValues": None, "numJitOptions": 0}
    told = {"libraryOptions": [1], "libraryOptionValues": [1], "numLibraryOptions": 1}
    library, kernel, at = client.new(), client.new(), zero(client)
    asked = {"library": library, "code": client.image(PTX)} | none | told
    answer = client.must("cuLibraryLoadData", **asked)
    assert answer["libraryOptionValues"] == [1]
    client.must("cuLibraryGetKernel", pKernel=kernel, library=library, name="twice")
    client.send("cuMemsetD32_v2", dstDevice=at, ui=4, N=1)
    client.launch(kernel, struct.pack("<Q", at), blocks=1, threads=1)
    assert number(client, at) == 8


def test_an_image_in_parts_is_gathered(client: Client) -> None:
    ptx = PTX + b"// " + b"x" * (300 << 10) + b"\n"
    image = {"sha256": hashlib.sha256(ptx).digest(), "bytes": len(ptx)}
    transfer = client.parts(ptx, 128 << 10)
    client.must("harpImagePut", image=image, data=transfer, bytes=len(ptx))
    client.must("cuModuleLoadData", module=client.new(), image=image)


def test_logs_of_the_compiler_come_before_the_reply(client: Client) -> None:
    image = client.image(
        b".version 7.0\n.target sm_70\n.address_size 64\n.entry x() { nonsense; }\0"
    )
    result, answer = client.ask(
        "cuModuleLoadDataEx",
        module=client.new(),
        image=image,
        numOptions=2,
        options=[5, 6],
        optionValues=[0, 4096],
    )
    assert result not in (SUCCESS, NOT_SUPPORTED)
    log = next(r for r in client.got if r.name == "harpJitLog")
    told = decode_request(log.op, log.body)
    assert told["which"] == 1
    assert "nonsense" in told["text"]
    assert answer["optionValues"][1] in (4096, len(told["text"]), len(told["text"]) + 1)


def test_a_link_is_made_and_tells_what_it_changes(client: Client) -> None:
    def create() -> int:
        state = client.new()
        options = {"numOptions": 3, "options": [5, 6, 2], "optionValues": [0, 4096, 0]}
        client.must("cuLinkCreate_v2", stateOut=state, **options)
        return state

    def add(state: int, data: bytes, size: int) -> int:
        none = {"name": None, "numOptions": 0, "options": None, "optionValues": None}
        image = client.image(data)
        asked = {"state": state, "type": 1, "data": image, "size": size} | none
        return client.ask("cuLinkAddData_v2", **asked)[0]

    link, many = create(), PTX
    for i in range(600):  # more than a reply has room for
        many += PTX[PTX.index(b".visible .entry twice") :].replace(b"twice", b"twice%d" % i)
    assert add(link, many, len(many) + 1) == INVALID_VALUE  # more than there is
    assert add(link, many, len(many)) == SUCCESS
    made = client.must("cuLinkComplete", state=link, cubinOut=1, sizeOut=1)
    lent = [r.body for r in client.got if r.ack == made["cubinOut"].id]
    assert [len(part) for part in lent[:-1]] == [64 << 10] * (len(lent) - 1)
    assert made["sizeOut"] == len(b"".join(lent))
    image = client.image(b"".join(lent))
    client.send("cuLinkDestroy", state=link)
    module, twice, at = client.new(), client.new(), zero(client)
    client.must("cuModuleLoadData", module=module, image=image)
    client.must("cuModuleGetFunction", hfunc=twice, hmod=module, name="twice")
    client.send("cuMemsetD32_v2", dstDevice=at, ui=4, N=1)
    client.launch(twice, struct.pack("<Q", at), blocks=1, threads=1)
    assert number(client, at) == 8

    link = create()
    client.got.clear()
    bad = b".version 7.0\n.target sm_70\n.address_size 64\n.entry x() { nonsense; }\0"
    result = add(link, bad, len(bad))
    assert result or client.ask("cuLinkComplete", state=link, cubinOut=1, sizeOut=1)[0]
    told = {r.name: decode_request(r.op, r.body) for r in client.got}
    assert "nonsense" in told["harpJitLog"]["text"]
    assert told["harpLinkValues"]["state"] == link
    assert told["harpLinkValues"]["values"][0] == 0  # an address of the worker's
    client.must("cuLinkDestroy", state=link)
