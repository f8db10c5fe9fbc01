# SPDX-License-Identifier: Apache-2.0
"""Real connections over loopback: who is let in, who is not, and what each is told."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
from remote_world import TABLE, World, client, node, now, pool, serving

from harp.api.v1 import remote_pb2 as pb
from harp.errors import ConfigError, HarpError, NodeUnreachable, NotOwner, Unauthenticated
from harp.remote import authority
from harp.remote.callers import LOOPBACK, caller
from harp.remote.certificate import Kind
from harp.remote.events import Caller
from harp.remote.floor import CIPHERS, tls13_only
from harp.remote.trust import Callers, Identity, bearer, channel, explain, listen, load

ROOT = Path(__file__).resolve().parents[2]
LEASE = pb.LeaseRequest(share_ppm=100_000)
Ask = Callable[[World], Awaitable[object]]


def told(ask: Ask, identity: Identity | None, callers: Callers = Callers.CERTIFICATE) -> HarpError:
    """What a refused call means to who made it."""

    async def main() -> HarpError:
        async with serving(identity, callers) as world:
            with pytest.raises(grpc.RpcError) as refused:
                await ask(world)
            assert world.sessions.said == []
            return explain(refused.value, f"127.0.0.1:{world.port}")

    return asyncio.run(main())


def took(ask: Ask, identity: Identity | None, callers: Callers = Callers.CERTIFICATE) -> object:
    async def main() -> object:
        async with serving(identity, callers) as world:
            return await ask(world)

    return asyncio.run(main())


def lease(identity: Identity | None, pem: bytes = b"", host: str = "127.0.0.1") -> Ask:
    return lambda world: world.stub(identity, pem, host=host).Lease(LEASE, timeout=10)


def test_a_client_of_the_pool_is_let_in(tmp_path: Path) -> None:
    base = pool(tmp_path / "p")
    reply = took(lease(client(base)), node(base))
    assert isinstance(reply, pb.LeaseReply)
    assert reply.token.startswith(f"{reply.lease_id}.")
    assert (reply.ttl_s, reply.endpoint, reply.table) == (2.0, "n1:7443", TABLE)
    assert [d.software for d in reply.devices] == [True]


def test_a_client_of_another_pool_is_not(tmp_path: Path) -> None:
    ours, theirs = pool(tmp_path / "a"), pool(tmp_path / "b")
    # It trusts our node, as an attacker would, but what it shows is its own pool's.
    stranger = client(theirs)
    mixed = Identity(
        stranger.certificate,
        stranger.chain_pem,
        stranger.key_pem,
        client(ours).authority_pem,
        "",
    )
    error = told(lease(mixed), node(ours))
    assert isinstance(error, NodeUnreachable)
    assert "ended the handshake" in error.message
    assert "its own pool" in error.hint


def test_a_node_of_another_pool_is_not_believed(tmp_path: Path) -> None:
    ours, theirs = pool(tmp_path / "a"), pool(tmp_path / "b")
    error = told(lease(client(theirs)), node(ours))
    assert "another authority" in error.message
    assert "CERTIFICATE_VERIFY_FAILED" in error.message


def test_a_client_that_has_run_out_is_not_let_in(tmp_path: Path) -> None:
    then = now() - dt.timedelta(days=3)
    base = pool(tmp_path / "p", then)
    authority.issue(base, Kind.CLIENT, "old", hosts=[], now=then, days=1)
    error = told(lease(client(base, "old", then)), node(base))
    assert "ended the handshake" in error.message
    assert "has not run out" in error.hint


def test_a_node_that_has_run_out_is_not_believed(tmp_path: Path) -> None:
    then = now() - dt.timedelta(days=3)
    base = pool(tmp_path / "p", then)
    authority.issue(base, Kind.NODE, "old", hosts=["127.0.0.1"], now=then, days=1)
    error = told(lease(client(base)), load(base / "node-old", Kind.NODE, then))
    assert "has run out" in error.message
    assert "--renew" in error.hint


def test_a_node_of_another_name_is_not_believed(tmp_path: Path) -> None:
    base = pool(tmp_path / "p")
    authority.issue(base, Kind.NODE, "else", hosts=["gpu7.example.org"], now=now())
    error = told(lease(client(base)), node(base, "else"))
    assert "does not hold for that name" in error.message


def test_a_node_cannot_call_as_a_client(tmp_path: Path) -> None:
    base = pool(tmp_path / "p")
    assert "ended the handshake" in told(lease(node(base)), node(base)).message


def test_no_certificate_ends_the_handshake(tmp_path: Path) -> None:
    base = pool(tmp_path / "p")
    error = told(lease(None, client(base).authority_pem), node(base))
    assert "ended the handshake" in error.message


def test_neither_certificate_nor_token_is_refused_with_a_sentence(tmp_path: Path) -> None:
    base = pool(tmp_path / "p")
    error = told(lease(None, client(base).authority_pem), node(base), Callers.TOKEN)
    assert isinstance(error, Unauthenticated)
    assert "neither a client certificate nor a lease token" in error.message
    assert "harp remote init --client" in error.hint


def test_a_token_is_good_for_its_lease_and_no_longer(tmp_path: Path) -> None:
    base = pool(tmp_path / "p")
    pem = client(base).authority_pem

    async def ask(world: World) -> None:
        # Taken in plaintext's stead by hand: the port for tokens gives out none.
        reply = await world.service._lease(
            pb.LeaseRequest(share_ppm=1000, ttl_s=0.3), Caller("ann")
        )
        stub, token = world.stub(None, pem), bearer(reply.token)
        renew = pb.RenewRequest(lease_id=reply.lease_id)
        assert (await stub.Renew(renew, metadata=token, timeout=10)).ttl_s == pytest.approx(0.3)
        for metadata, request in ((bearer("x.y"), renew), (bearer(reply.token + "x"), renew)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Renew(request, metadata=metadata, timeout=10)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Lease(LEASE, metadata=token, timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "takes no other" in str(refused.value.details())
        world.let_pass(0.31)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Renew(renew, metadata=token, timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED

    took(ask, node(base), Callers.TOKEN)


def test_only_an_administrator_drains(tmp_path: Path) -> None:
    base = pool(tmp_path / "p")

    async def main() -> None:
        async with serving(node(base), administrators=frozenset({"root"})) as world:
            with pytest.raises(grpc.RpcError) as refused:
                await world.stub(client(base)).Drain(pb.DrainRequest(), timeout=10)
            assert isinstance(explain(refused.value, "n1:1"), NotOwner)
            reply = await world.stub(client(base, "root")).Drain(pb.DrainRequest(), timeout=10)
            assert reply.state == pb.NODE_STATE_DRAINING

    asyncio.run(main())


def test_plaintext_is_for_loopback_and_only_if_asked_for() -> None:
    async def ask(world: World) -> None:
        await world.stub(insecure=True).Lease(LEASE, timeout=10)
        for endpoint in ("10.0.0.7:1", "0.0.0.0:1", "[::]:1", "gpu1:1", "localhost.evil.org:1"):
            with pytest.raises(ConfigError, match="not loopback") as refused:
                channel(endpoint, insecure=True)
            assert "harp remote init" in refused.value.hint
            with pytest.raises(ConfigError, match="not loopback"):
                listen(grpc.aio.server(), endpoint, None, insecure=True)
        for endpoint in ("127.0.0.1:1", "localhost:1", "[::1]:1", "10.0.0.7:1"):
            with pytest.raises(ConfigError, match="no certificate") as refused:
                channel(endpoint)
            assert "--insecure" in refused.value.hint

    took(ask, None)


@pytest.mark.parametrize(
    "address", ["", "host", ":1", "host:", "host:x", "::1:1", "h:65536", "h:-1", "h:१"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        channel(address, insecure=True)


def test_plaintext_to_a_node_with_tls_says_so(tmp_path: Path) -> None:
    base = pool(tmp_path / "p")
    error = told(lambda w: w.stub(insecure=True).Lease(LEASE, timeout=10), node(base))
    assert isinstance(error, NodeUnreachable)


def test_tls_to_a_node_without_says_so(tmp_path: Path) -> None:
    error = told(lease(client(pool(tmp_path / "p"))), None)
    assert "does not speak TLS" in error.message


def test_nobody_there_is_said_so(tmp_path: Path) -> None:
    async def main() -> HarpError:
        made = channel("127.0.0.1:1", client(pool(tmp_path / "p")))
        try:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await made.unary_unary("/harp.api.v1.Remote/Lease")(b"", timeout=10)
            return explain(refused.value, "127.0.0.1:1")
        finally:
            await made.close()

    assert "nobody listens there" in asyncio.run(main()).message


@pytest.mark.parametrize(
    ("version", "taken"), [(b"TLSv1.2", False), (b"TLSv1.3", True), (None, True)]
)
def test_an_older_tls_is_refused_where_grpcio_says_it(version: bytes | None, taken: bool) -> None:
    peer = {"transport_security_type": [b"ssl"], "x509_common_name": [b"ann"]}
    if version:
        peer["ssl_tls_version"] = [version]
    if taken:
        assert caller(peer, (), Caller, insecure=False) == Caller("ann")
    else:
        with pytest.raises(Unauthenticated, match=r"TLSv1\.2"):
            caller(peer, (), Caller, insecure=False)


def test_plaintext_is_refused_where_tls_was_meant() -> None:
    for insecure in (False, True):
        if insecure:
            assert caller({}, (), Caller, insecure=True) == Caller(LOOPBACK)
        else:
            with pytest.raises(Unauthenticated, match="not encrypted"):
                caller({}, (), Caller, insecure=False)


_SERVE = """
import os, sys, pathlib, ssl, socket, datetime
from harp.remote.floor import CIPHERS, tls13_only
if sys.argv[2] == "floor":
    tls13_only(os.environ, sys.modules.keys())
import grpc
os.environ.setdefault(*CIPHERS)  # too late for grpcio, unless it is there
from concurrent import futures
from harp.remote.certificate import Kind
from harp.remote.trust import Callers, listen, load
base = pathlib.Path(sys.argv[1])
identity = load(base / "node-n1", Kind.NODE, datetime.datetime.now(datetime.timezone.utc))
server = grpc.server(futures.ThreadPoolExecutor(1))
port = listen(server, "127.0.0.1:0", identity, Callers.TOKEN)
server.start()
for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    context = ssl.create_default_context(cafile=base / "node-n1" / "ca.crt")
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    try:
        with socket.create_connection(("127.0.0.1", port), 20) as plain:
            with context.wrap_socket(plain, server_hostname="localhost") as tls:
                print(tls.version())
    except OSError:
        print("refused")
server.stop(None)
"""


@pytest.mark.parametrize(("floor", "first"), [("floor", "refused"), ("none", "TLSv1.2")])
def test_tls_1_2_finds_no_cipher(tmp_path: Path, floor: str, first: str) -> None:
    base = pool(tmp_path / "p")
    env = {k: v for k, v in os.environ.items() if k != CIPHERS[0]}
    done = subprocess.run(
        [sys.executable, "-c", _SERVE, str(base), floor],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # Without the floor grpcio would take 1.2: that is what the floor is for.
    assert done.stdout.split() == [first, "TLSv1.3"], done.stderr


def test_the_floor_comes_before_grpcio_or_says_so() -> None:
    env: dict[str, str] = {}
    tls13_only(env, set())
    assert env == dict([CIPHERS])
    tls13_only(env, {"grpc"})
    with pytest.raises(ConfigError, match="imported before"):
        tls13_only({}, {"grpc"})


def test_a_node_does_not_listen_without_the_floor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CIPHERS[0])
    with pytest.raises(ConfigError, match=r"TLS 1\.2"):
        took(lease(None), node(pool(tmp_path / "p")))


def test_a_key_is_in_no_text(tmp_path: Path) -> None:
    identity = client(pool(tmp_path / "p"))
    assert "PRIVATE" not in f"{identity!r} {identity}"
