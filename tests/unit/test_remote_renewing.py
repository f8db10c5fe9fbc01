# SPDX-License-Identifier: Apache-2.0
"""Certificates that are renewed in their place while who shows them runs."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog.testing
from remote_world import client, node, now, pool, serving

from harp.api.v1 import remote_pb2 as pb
from harp.api.v1 import remote_pb2_grpc
from harp.errors import CertificateError, UnknownLease
from harp.remote import authority, hold
from harp.remote.certificate import Kind
from harp.remote.renewing import Renewing, Told, again_and_again
from harp.remote.taking import Held, Taker, Taking
from harp.remote.trust import Callers, Identity, explain, load
from harp.remote.who import Who

LEASE = pb.LeaseRequest(share_ppm=100_000)
DAY = dt.timedelta(days=1)


def run_out(base: Path, kind: Kind, name: str) -> Identity:
    """One whose time is over, as it was read when it was good."""
    then = now() - 3 * DAY
    hosts = ["127.0.0.1"] if kind is Kind.NODE else []
    authority.issue(base, kind, name, hosts=hosts, now=then, days=1)
    return load(base / f"{kind.value}-{name}", kind, then)


def put(source: Path, folder: Path) -> None:
    """As a Secret's files are renewed."""
    for name in ("ca.crt", "tls.crt", "tls.key"):
        (fresh := folder / f".{name}").write_bytes((source / name).read_bytes())
        fresh.chmod(0o600)
        fresh.replace(folder / name)


@pytest.mark.parametrize("callers", list(Callers))
def test_a_server_shows_the_certificate_of_now(tmp_path: Path, callers: Callers) -> None:
    """The one it began with has run out meanwhile."""
    base = pool(tmp_path / "p", now() - 3 * DAY)
    shown = [run_out(base, Kind.NODE, "old")]
    me = client(base) if callers is Callers.CERTIFICATE else None
    pem = client(base).authority_pem

    async def main() -> None:
        async with serving(shown[0], callers, now=lambda: shown[-1]) as world:
            with pytest.raises(grpc.RpcError) as refused:
                await world.stub(me, pem).Leases(pb.LeasesRequest(), timeout=10)
            assert "has run out" in explain(refused.value, world.endpoint).message
            shown.append(node(base))
            for _ in range(2):
                # Of who has no certificate a token is wanted: he is inside.
                with pytest.raises(grpc.RpcError) if me is None else contextlib.nullcontext():
                    await world.stub(me, pem).Leases(pb.LeasesRequest(), timeout=10)
                assert world.channels[-1].get_state() is grpc.ChannelConnectivity.READY

    asyncio.run(main())


def test_a_server_takes_callers_of_the_authority_of_now(tmp_path: Path) -> None:
    """A pool was made anew; who is connected already goes on."""
    ours, new = pool(tmp_path / "a"), pool(tmp_path / "b")
    shown = [node(ours)]

    async def main() -> None:
        async with serving(shown[0], now=lambda: shown[-1]) as world:
            before = world.stub(client(ours))
            await before.Lease(LEASE, timeout=10)
            shown.append(node(new))
            await world.stub(client(new)).Lease(LEASE, timeout=10)
            await before.Lease(LEASE, timeout=10)
            mixed = client(ours)
            mixed = Identity(
                mixed.certificate, mixed.chain_pem, mixed.key_pem, client(new).authority_pem, ""
            )
            with pytest.raises(grpc.RpcError) as refused:
                await world.stub(mixed).Lease(LEASE, timeout=10)
            assert "ended the handshake" in explain(refused.value, world.endpoint).message

    asyncio.run(main())


def test_what_is_there_is_taken_and_what_cannot_be_used_is_not(tmp_path: Path) -> None:
    base = pool(tmp_path / "p")
    folder = base / "client-ann"
    authority.issue(base, Kind.CLIENT, "next", hosts=[], now=now())
    said: list[str] = []
    mine = Renewing(lambda: load(folder, Kind.CLIENT, now()), said.append)
    before, stamp = mine.now, mine.stamp
    assert not mine.look()
    key = (folder / "tls.key").read_bytes()
    (folder / "tls.key").unlink()
    for _ in range(3):
        assert not mine.look()
    assert mine.now is before
    (once,) = said
    assert "tls.key" in once
    assert f"The certificate of before is used, until {before.certificate.ends:%Y-%m-%dT}" in once
    (folder / "tls.key").write_bytes(key)
    (folder / "tls.key").chmod(0o600)
    assert not mine.look()
    put(base / "client-next", folder)
    assert mine.look()
    assert mine.now.certificate.name == "next"
    assert mine.stamp != stamp
    (folder / "tls.crt").write_text("half")
    assert not mine.look()
    assert len(said) == 2, "another time, another reason"


def test_a_file_of_another_version_is_another_stamp(tmp_path: Path) -> None:
    """Read between two of three files, what comes next must be seen."""
    base = pool(tmp_path / "p")
    one = client(base)
    stamps = set()
    for part in ("chain_pem", "key_pem", "authority_pem"):
        words = {p: getattr(one, p) for p in ("chain_pem", "key_pem", "authority_pem")}
        words[part] += b"\n"
        another = Identity(one.certificate, **words, warning="")
        stamps.add(Renewing(functools.partial(_same, another), print).stamp)
    stamps.add(Renewing(functools.partial(_same, one), print).stamp)
    assert len(stamps) == 4


def _same(identity: Identity) -> Identity:
    return identity


def test_who_could_not_read_it_is_told_once_more() -> None:
    told = Told(b"a")
    assert [told.due(b"a", look=look) for look in (False, True)] == [False, False]
    assert told.due(b"b", look=False)
    assert [told.due(b"b", look=look) for look in (False, False, True, True)] == [0, 0, 1, 0]
    assert told.due(b"c", look=True)
    assert told.due(b"c", look=True)
    assert not told.due(b"c", look=True)


def test_a_look_that_fails_is_logged_and_the_next_one_comes() -> None:
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise KeyError("odd")

    async def main() -> None:
        task = asyncio.create_task(again_and_again(look, period_s=0.001))
        async with asyncio.timeout(10):
            while looks < 3:  # noqa: ASYNC110 - what is awaited has no event
                await asyncio.sleep(0.001)
        task.cancel()

    with structlog.testing.capture_logs() as logs:
        asyncio.run(main())
    (line,) = logs
    assert (line["event"], line["log_level"]) == ("look_failed", "error")


def test_a_client_connects_as_who_it_is_by_now(tmp_path: Path) -> None:
    base = pool(tmp_path / "p", now() - 3 * DAY)
    found = [run_out(base, Kind.CLIENT, "old")]
    who = Who(lambda: found[-1], "", print)

    async def main() -> None:
        async with serving(node(base)) as world:
            world.channels.append(channel := who.connect(world.endpoint))
            with pytest.raises(grpc.RpcError):
                await _leases(channel)
            found.append(client(base))
            assert who.look()
            world.channels.append(channel := who.connect(world.endpoint))
            await _leases(channel)

    asyncio.run(main())


def test_a_lease_goes_on_over_a_connection_of_now_if_it_is_ours_there(tmp_path: Path) -> None:
    base = pool(tmp_path / "p")
    found = [client(base)]
    who = Who(lambda: found[-1], "", print)

    async def main() -> None:
        async with serving(node(base)) as world:
            taker = Taker(LEASE, [world.endpoint], who.connect)
            world.channels.append(first := who.connect(world.endpoint))
            stub: Any = remote_pb2_grpc.RemoteStub(first)
            reply = await stub.Lease(LEASE, timeout=10)
            held = Held(Taking("n1", world.endpoint, reply), hold.held(60, 0, 0), first, stub)
            found.append(client(base, "bob"))
            assert who.look()
            with pytest.raises(UnknownLease):
                await taker.reconnected(held)
            found.append(client(base))
            assert who.look()
            channel, stub = await taker.reconnected(held)
            await first.close()
            assert len((await stub.Leases(pb.LeasesRequest(), timeout=10)).leases) == 1
            await channel.close()

    asyncio.run(main())


async def _leases(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary(
        "/harp.api.v1.Remote/Leases",
        request_serializer=pb.LeasesRequest.SerializeToString,
        response_deserializer=pb.LeasesReply.FromString,
    )
    await call(pb.LeasesRequest(), timeout=10)


def test_what_cannot_be_read_at_first_is_no_identity(tmp_path: Path) -> None:
    with pytest.raises(CertificateError):
        Renewing(lambda: load(tmp_path, Kind.CLIENT, now()), print)
