# SPDX-License-Identifier: Apache-2.0
"""The Python mirror of lease.h, and the admin client against a fake arbiter."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harp import lease_wire
from harp.errors import ArbiterError
from harp.lease_admin import AdminClient, ArbiterRefused
from harp.lease_wire import (
    ALIASES,
    Deny,
    Gate,
    Kind,
    MemClass,
    Msg,
    Op,
)

HEADER = (
    Path(__file__).resolve().parents[2] / "native" / "include" / "harp" / "lease.h"
).read_text()


def _enum(name: str) -> dict[str, int]:
    """{member: value} of a C enum, comments removed, implicit values counted."""
    body = re.search(rf"enum {name} \{{(.*?)\}};", HEADER, re.DOTALL)
    assert body, name
    text = re.sub(r"/\*.*?\*/", "", body[1], flags=re.DOTALL)
    values, value = {}, -1
    for item in text.split(","):
        words = item.replace("=", " ").split()
        if words:
            value = int(words[1], 0) if len(words) > 1 else value + 1
            values[words[0]] = value
    return values


@pytest.mark.parametrize(
    ("c_name", "prefix", "ours"),
    [
        ("harp_op", "HARP_", Op),
        ("harp_kind", "HARP_KIND_", Kind),
        ("harp_deny", "HARP_DENY_", Deny),
        ("harp_gate", "HARP_GATE_", Gate),
    ],
)
def test_enums_are_the_headers(c_name: str, prefix: str, ours: type[Op]) -> None:
    assert {prefix + m.name: m.value for m in ours} == _enum(c_name)


def test_memory_classes_are_the_headers() -> None:
    theirs = _enum("harp_mem_class")
    assert theirs.pop("HARP_MEM_CLASSES") == len(MemClass)
    assert {f"HARP_MEM_{m.name}": m.value for m in MemClass} == theirs


def test_fields_are_the_headers_in_its_order() -> None:
    body = re.search(r"struct harp_msg \{(.*?)\n\};", HEADER, re.DOTALL)
    assert body
    text = re.sub(r"/\*.*?\*/", "", body[1], flags=re.DOTALL)
    names = re.findall(r"(\w+)(?:\[\w+\])?\s*[,;]", text)
    ours = ["version", *_order()]
    names = [n for n in names if n not in ALIASES]
    assert [n.replace("amount_bytes", "bytes") for n in ours] == names


def _order() -> list[str]:
    return list(Msg._fields)


def test_constants_are_the_headers() -> None:
    assert f"HARP_LEASE_VERSION {lease_wire.VERSION}u" in HEADER
    assert f"HARP_ANY_UID      {lease_wire.ANY_UID:#x}u" in HEADER
    assert re.search(rf"HARP_MSG_BYTES\s+{lease_wire.MSG_BYTES}u", HEADER)
    assert re.search(rf"HARP_NAME_BYTES\s+{lease_wire.NAME_BYTES}u", HEADER)
    assert re.search(rf"HARP_TOGETHER\s+{lease_wire.TOGETHER}u", HEADER)
    assert len(Msg(op=Op.HELLO).pack()) == lease_wire.MSG_BYTES


messages = st.fixed_dictionaries(
    {
        "op": st.sampled_from(list(Op)),
        "pid": st.integers(-(1 << 31), (1 << 31) - 1),
        "d": st.integers(0, (1 << 32) - 1),
        "amount_bytes": st.integers(0, (1 << 64) - 1),
        "denials": st.integers(0, (1 << 64) - 1),
        "uuid": st.binary(min_size=16, max_size=16),
        "text": st.text(
            st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=15
        ),
    }
).map(lambda given: Msg(**given))  # type: ignore[arg-type]


@given(messages)
def test_a_message_reads_back_as_packed(message: Msg) -> None:
    assert Msg.unpack(message.pack()) == message


def test_a_long_text_is_cut_at_a_character() -> None:
    back = Msg.unpack(Msg(op=Op.HELLO, text="ü" * 40).pack())
    assert back.text == "ü" * 31


def test_a_wrong_datagram_is_an_error() -> None:
    with pytest.raises(ArbiterError, match="instead of 256"):
        Msg.unpack(b"x" * 10)
    with pytest.raises(ArbiterError, match="protocol 513"):
        Msg.unpack(b"\x01\x02" + bytes(254))


Answers = Callable[[Msg, list[int]], list[Msg]]


@contextlib.asynccontextmanager
async def _fake_arbiter(
    tmp_path: Path,
    answers: Answers,
    version: int = lease_wire.VERSION,
    timeout_s: float = 20,
) -> AsyncIterator[AdminClient]:
    """An arbiter that answers as `answers` says, and a client with a running pump."""
    path = tmp_path / "admin.sock"
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(path))
        listening.listen()
        listening.setblocking(False)
        connecting = asyncio.create_task(AdminClient.connect(path, timeout_s))
        connection, _ = await loop.sock_accept(listening)
        hello = Msg.unpack(await loop.sock_recv(connection, 256))
        assert (hello.op, hello.a, hello.c) == (Op.SUBSCRIBE, 0, lease_wire.VERSION)
        connection.send(Msg(op=Op.OK).pack(version))
        client = await connecting
        assert client.version == version

        def serve() -> None:
            data, fds, _, _ = socket.recv_fds(connection, 256, 4)
            if not data:
                loop.remove_reader(connection)
                return
            question = Msg.unpack(data)
            for answer in answers(question, fds):
                connection.send(answer.pack(version))

        loop.add_reader(connection, serve)
        pump = asyncio.create_task(client.pump())
        try:
            yield client
        finally:
            loop.remove_reader(connection)
            connection.close()
            await asyncio.wait_for(pump, 1)


def test_answers_find_their_questions_whatever_their_order(tmp_path: Path) -> None:
    held: list[Msg] = []

    def answers(question: Msg, _fds: list[int]) -> list[Msg]:
        held.append(question)
        if len(held) < 3:
            return []
        return [Msg(op=Op.OK, seq=q.seq, dev=q.dev) for q in reversed(held)]

    async def scenario() -> None:
        async with _fake_arbiter(tmp_path, answers) as client:
            asked = [client.request(Msg(op=Op.ADD_DEVICE, dev=n)) for n in range(3)]
            assert [a.dev for a in await asyncio.gather(*asked)] == [0, 1, 2]

    asyncio.run(scenario())


def test_a_refusal_carries_the_arbiters_words(tmp_path: Path) -> None:
    def answers(question: Msg, _fds: list[int]) -> list[Msg]:
        return [Msg(op=Op.ERR, seq=question.seq, a=16, text="held by pid 7; stop it")]

    async def scenario() -> None:
        async with _fake_arbiter(tmp_path, answers) as client:
            with pytest.raises(ArbiterRefused, match="held by pid 7") as caught:
                await client.request(Msg(op=Op.ADD_DEVICE))
            assert caught.value.answer.a == 16

    asyncio.run(scenario())


def test_a_snapshot_gathers_its_messages_and_events_go_their_own_way(tmp_path: Path) -> None:
    def answers(question: Msg, _fds: list[int]) -> list[Msg]:
        return [
            Msg(op=Op.SNAP_TENANT, tenant=1),
            Msg(op=Op.EVENT_CLIENT, client=9),
            Msg(op=Op.SNAP_CLIENT, client=2),
            Msg(op=Op.OK, seq=question.seq),
        ]

    async def scenario() -> None:
        async with _fake_arbiter(tmp_path, answers) as client:
            events: list[int] = []
            client.on_event = lambda message: events.append(message.client)
            for _ in range(2):
                found = await client.snapshot()
                assert [m.op for m in found] == [Op.SNAP_TENANT, Op.SNAP_CLIENT]
            assert events == [9, 9]

    asyncio.run(scenario())


def test_a_descriptor_travels(tmp_path: Path) -> None:
    seen: list[int] = []

    def answers(question: Msg, fds: list[int]) -> list[Msg]:
        seen.extend(os.fstat(fd).st_ino for fd in fds)
        for fd in fds:
            os.close(fd)
        return [Msg(op=Op.OK, seq=question.seq)]

    async def scenario() -> None:
        async with _fake_arbiter(tmp_path, answers) as client:
            with (tmp_path / "x").open("w") as file:
                await client.request(Msg(op=Op.ADD_TENANT), [file.fileno()])
                assert seen == [os.fstat(file.fileno()).st_ino]

    asyncio.run(scenario())


def test_an_arbiter_of_version_1_is_spoken_to_in_it(tmp_path: Path) -> None:
    def answers(question: Msg, _fds: list[int]) -> list[Msg]:
        assert (question.op, question.a) in {(Op.SNAPSHOT, 0), (Op.SHUTDOWN, 0)}
        rows = [Msg(op=Op.SNAP_TENANT, tenant=1)] if question.op == Op.SNAPSHOT else []
        return [*rows, Msg(op=Op.OK, seq=question.seq)]

    async def scenario() -> None:
        async with _fake_arbiter(tmp_path, answers, version=1) as client:
            with pytest.raises(ArbiterError, match="protocol 1, which has no EXPECT") as caught:
                await client.request(Msg(op=Op.EXPECT))
            assert caught.value.hint == "harp daemon --upgrade"
            assert await client.sockets() == ({}, {})
            assert [m.op for m in await client.hand_over()] == [Op.SNAP_TENANT]

    asyncio.run(scenario())


def _open_copies(path: Path) -> int:
    count = 0
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            count += link.samefile(path)
    return count


@pytest.mark.parametrize("version", [2, lease_wire.VERSION])
def test_listening_sockets_and_pages_come_along_and_are_ours(tmp_path: Path, version: int) -> None:
    path = tmp_path / "admin.sock"
    heard = asyncio.Event()

    async def arbiter(listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(listening)
        with connection, (tmp_path / "x").open("w") as file, (tmp_path / "p").open("w") as page:
            await loop.sock_recv(connection, 256)
            connection.send(Msg(op=Op.OK).pack(version))
            asked = Msg.unpack(await loop.sock_recv(connection, 256))
            assert (asked.op, asked.a) == (Op.SNAPSHOT, 3 if version > 2 else 1)
            for tenant in (1, 2, 1):  # said twice: the later counts, and none is left open
                row = Msg(op=Op.SNAP_TENANT, tenant=tenant, b=1)
                socket.send_fds(connection, [row.pack(version)], [file.fileno()])
            for b, fds in ((3, [file, page]), (3, [file, page]), (2, [page]), (3, [file])):
                row = Msg(op=Op.SNAP_TENANT, tenant=3 if len(fds) > 1 else 4 + b, b=b)
                there = [f.fileno() for f in fds]
                socket.send_fds(connection, [row.pack(version)], there)
            for op, b in ((Op.SNAP_TENANT, 0), (Op.SNAP_USE, 3)):  # nobody says what these are
                there = [file.fileno(), page.fileno()]
                socket.send_fds(connection, [Msg(op=op, tenant=9, b=b).pack(version)], there)
            connection.send(Msg(op=Op.OK, seq=asked.seq).pack())
            await heard.wait()

    async def scenario() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.setblocking(False)
            listening.bind(str(path))
            listening.listen()
            serving = asyncio.create_task(arbiter(listening))
            client = await AdminClient.connect(path, timeout_s=2)
            pump = asyncio.create_task(client.pump())
            found, pages = await client.sockets()
            assert sorted(found) == [1, 2, 3, 7]
            assert sorted(pages) == [3, 6]
            heard.set()
            await serving
            await pump
            assert _open_copies(tmp_path / "x") == 4, "the one that was said first is left open"
            assert _open_copies(tmp_path / "p") == 2
            assert all(
                os.fstat(fd).st_ino == (tmp_path / "p").stat().st_ino for fd in pages.values()
            )
            for fd in (*found.values(), *pages.values()):
                assert not os.get_inheritable(fd)
                os.close(fd)

    asyncio.run(scenario())


def test_what_has_come_is_taken_in_one_go(tmp_path: Path) -> None:
    """Three events come with each program that starts; a round of the loop for each adds up."""

    async def scenario() -> None:
        taken: list[int] = []
        many = [Msg(op=Op.EVENT_CLIENT, client=i) for i in range(1, 65)]
        answers = [*many, Msg(op=Op.OK, seq=1)]
        async with _fake_arbiter(tmp_path, lambda _q, _f: answers) as client:
            rounds = 0

            def count() -> None:
                nonlocal rounds
                rounds += 1
                if len(taken) < len(many):
                    asyncio.get_running_loop().call_soon(count)

            client.on_event = lambda message: taken.append(message.client)
            await asyncio.sleep(0)  # the pump begins
            asking = asyncio.create_task(client.request(Msg(op=Op.SNAPSHOT)))
            count()
            await asking
        assert taken == [message.client for message in many]
        assert rounds < 10

    asyncio.run(scenario())


def test_who_closes_ends_the_reading(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with _fake_arbiter(tmp_path, lambda _q, _f: []) as client:
            await asyncio.sleep(0)  # the pump begins
            client.close()
            with pytest.raises(ArbiterError, match="gone"):
                await client.request(Msg(op=Op.SNAPSHOT))

    asyncio.run(scenario())


def test_silence_and_death_are_errors_not_hangs(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with _fake_arbiter(tmp_path, lambda _q, _f: [], timeout_s=0.5) as client:
            with pytest.raises(ArbiterError, match=r"no answer to SNAPSHOT within 0\.5 s"):
                await client.snapshot()
            waiting = asyncio.create_task(client.request(Msg(op=Op.SHUTDOWN)))
            await asyncio.sleep(0)
        with pytest.raises(ArbiterError, match=r"gone|ended"):
            await waiting
        assert client.lost.is_set()

    asyncio.run(scenario())


def test_no_arbiter_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArbiterError, match="no arbiter answers"):
        asyncio.run(AdminClient.connect(tmp_path / "none.sock", 0.5))
