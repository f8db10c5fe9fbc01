# SPDX-License-Identifier: Apache-2.0
"""The remote API as its callers see it, over real gRPC on loopback: leases and sessions."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import grpc
import grpc.aio
import pytest
from remote_world import GIB, TABLE, World, client, device, node, on, pool, refused, until

from harp.api.v1 import remote_pb2 as pb
from harp.errors import (
    ConfigError,
    DaemonError,
    HarpError,
    NoDevice,
    QuotaExceeded,
    TableMismatch,
    UnknownLease,
)
from harp.remote.callers import LOOPBACK
from harp.remote.seats import Seats
from harp.remote.trust import explain


def test_a_lease_its_session_and_their_end() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        lease = await stub.Lease(
            pb.LeaseRequest(mem_limit_bytes=GIB + 5, share_ppm=250_000, ttl_s=60), timeout=10
        )
        assert [(d.mem_limit_bytes, d.share_ppm) for d in lease.devices] == [(GIB, 250_000)]
        assert lease.ttl_s == 60
        attach = pb.AttachRequest(lease_id=lease.lease_id, table=TABLE, program="train.py")
        session = await stub.Attach(attach, timeout=10)
        assert world.sessions.running == {session.session_id}
        assert (session.endpoint, session.bulk_streams) == ("node:7", 4)
        assert (session.table, session.resume_s) == (TABLE, 10.0)
        assert session.token.startswith(f"{session.session_id}.")
        renewed = await stub.Renew(pb.RenewRequest(lease_id=lease.lease_id), timeout=10)
        assert (renewed.state, renewed.drain_s) == (pb.NODE_STATE_READY, 0)
        detach = pb.DetachRequest(session_id=session.session_id)
        assert (await stub.Detach(detach, timeout=10)).freed_bytes == GIB
        assert (await stub.Detach(detach, timeout=10)).freed_bytes == 0
        await stub.Attach(attach, timeout=10)
        await stub.Attach(attach, timeout=10)
        release = pb.ReleaseRequest(lease_id=lease.lease_id)
        done = await stub.Release(release, timeout=10)
        assert (done.sessions, done.freed_bytes) == (2, 2 * GIB)
        assert world.sessions.running == set()
        error, code = await refused(stub.Release(release, timeout=10))
        assert isinstance(error, UnknownLease)
        assert code is grpc.StatusCode.NOT_FOUND
        assert error.hint

    on(ask)


def test_what_is_refused_and_how() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        for request, kind, code in (
            (pb.LeaseRequest(gpu="7"), NoDevice, grpc.StatusCode.NOT_FOUND),
            (
                pb.LeaseRequest(mem_limit_bytes=9 * GIB),
                QuotaExceeded,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
            ),
            (pb.LeaseRequest(mem_limit_bytes=5), ConfigError, grpc.StatusCode.INVALID_ARGUMENT),
            (
                pb.LeaseRequest(share_ppm=1_000_001),
                ConfigError,
                grpc.StatusCode.INVALID_ARGUMENT,
            ),
            (
                pb.LeaseRequest(share_ppm=600_000, limit_ppm=500_000),
                QuotaExceeded,
                grpc.StatusCode.RESOURCE_EXHAUSTED,
            ),
            (pb.LeaseRequest(ttl_s=61), ConfigError, grpc.StatusCode.INVALID_ARGUMENT),
            (pb.LeaseRequest(lease_class=9), ConfigError, grpc.StatusCode.INVALID_ARGUMENT),
            (pb.LeaseRequest(name="a" * 65), ConfigError, grpc.StatusCode.INVALID_ARGUMENT),
            (pb.LeaseRequest(name="\x1b[2J"), ConfigError, grpc.StatusCode.INVALID_ARGUMENT),
        ):
            error, found = await refused(stub.Lease(request, timeout=10))
            assert (type(error), found) == (kind, code), request
            assert error.hint
            assert world.service._state.leases == {}
            assert world.room.promises(world.room.devices[0].uuid) == ()

    on(ask)


def test_a_share_goes_to_others_only_when_it_is_given_back() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        big = pb.LeaseRequest(mem_limit_bytes=6 * GIB, share_ppm=700_000, ttl_s=60)
        lease = await stub.Lease(big, timeout=10)
        error, _ = await refused(stub.Lease(big, timeout=10))
        assert isinstance(error, QuotaExceeded)
        await stub.Release(pb.ReleaseRequest(lease_id=lease.lease_id), timeout=10)
        await stub.Lease(big, timeout=10)

    on(ask)


def test_what_nobody_renews_ends_by_itself() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        lease = await stub.Lease(pb.LeaseRequest(ttl_s=0.3, share_ppm=900_000), timeout=10)
        await stub.Attach(pb.AttachRequest(lease_id=lease.lease_id, table=TABLE), timeout=10)
        world.let_pass(0.31)
        await until(lambda: not world.sessions.running)
        await until(lambda: not world.room.promises(world.room.devices[0].uuid))
        error, _ = await refused(stub.Renew(pb.RenewRequest(lease_id=lease.lease_id), timeout=10))
        assert isinstance(error, UnknownLease)

    on(ask)


def test_renewals_keep_a_lease() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        lease = await stub.Lease(pb.LeaseRequest(ttl_s=1), timeout=10)
        await stub.Attach(pb.AttachRequest(lease_id=lease.lease_id, table=TABLE), timeout=10)
        for _ in range(15):
            world.let_pass(0.99)
            await stub.Renew(pb.RenewRequest(lease_id=lease.lease_id), timeout=10)
        assert len(world.sessions.running) == 1

    on(ask)


@pytest.mark.parametrize(
    ("theirs", "named"),
    [
        (pb.TableId(format=2, cuda=13000, hash=TABLE.hash, version="0.2.0"), "0.2.0 (format 2"),
        (pb.TableId(format=1, cuda=12080, hash=b"x" * 32, version="0.1.1"), "CUDA 12.8"),
        (pb.TableId(), "of unknown version"),
    ],
)
def test_tables_that_differ_name_both_versions(theirs: pb.TableId, named: str) -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        lease = await stub.Lease(pb.LeaseRequest(ttl_s=60), timeout=10)
        request = pb.AttachRequest(lease_id=lease.lease_id, table=theirs)
        error, code = await refused(stub.Attach(request, timeout=10))
        assert isinstance(error, TableMismatch)
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert named in error.message
        assert "HARP 0.1.0 (format 1, CUDA 13.0, table 00010203)" in error.message
        assert world.sessions.said == []

    on(ask)


def test_the_same_table_of_another_version_will_do() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        lease = await stub.Lease(pb.LeaseRequest(ttl_s=60), timeout=10)
        theirs = pb.TableId(format=1, cuda=13000, hash=TABLE.hash, version="9.9.9")
        await stub.Attach(pb.AttachRequest(lease_id=lease.lease_id, table=theirs), timeout=10)

    on(ask)


def test_sessions_beyond_those_asked_for_are_refused() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        lease = await stub.Lease(pb.LeaseRequest(ttl_s=60, max_sessions=1), timeout=10)
        request = pb.AttachRequest(lease_id=lease.lease_id, table=TABLE)
        await stub.Attach(request, timeout=10)
        error, code = await refused(stub.Attach(request, timeout=10))
        assert isinstance(error, QuotaExceeded)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED

    on(ask)


@pytest.mark.parametrize(
    ("broken", "kind", "said"),
    [
        (QuotaExceeded("no room for a context", "wait"), QuotaExceeded, "no room"),
        (ValueError("oops"), DaemonError, "ValueError: oops"),
    ],
)
def test_a_worker_that_does_not_start_leaves_no_session(
    broken: Exception, kind: type[HarpError], said: str
) -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        lease = await stub.Lease(pb.LeaseRequest(ttl_s=60), timeout=10)
        request = pb.AttachRequest(lease_id=lease.lease_id, table=TABLE)
        world.sessions.start_error = broken
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await stub.Attach(request, timeout=10)
        assert said in str(error.value.details())
        if kind is QuotaExceeded:
            assert isinstance(explain(error.value, "n"), QuotaExceeded)
        assert [what for what, _ in world.sessions.said] == ["start"]
        assert list(world.service._state.sessions()) == []
        world.sessions.start_error = None
        await stub.Attach(request, timeout=10)

    on(ask)


def test_who_hangs_up_while_a_worker_starts_leaves_none() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        lease = await stub.Lease(pb.LeaseRequest(ttl_s=60), timeout=10)
        world.sessions.go.clear()
        call = stub.Attach(pb.AttachRequest(lease_id=lease.lease_id, table=TABLE), timeout=10)
        await world.sessions.started.wait()
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        await until(lambda: not list(world.service._state.sessions()))
        assert world.sessions.running == set()
        world.sessions.go.set()
        await until(lambda: len(world.sessions.said) == 2)
        assert [what for what, _ in world.sessions.said] == ["start", "end"]
        assert world.sessions.running == set()

    on(ask)


def test_a_lease_that_runs_out_while_a_worker_starts_takes_it_along() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        lease = await stub.Lease(pb.LeaseRequest(ttl_s=0.3), timeout=10)
        world.sessions.go.clear()
        call = asyncio.create_task(
            refused(stub.Attach(pb.AttachRequest(lease_id=lease.lease_id, table=TABLE), timeout=10))
        )
        await world.sessions.started.wait()
        world.let_pass(0.31)
        await until(lambda: not world.service._state.leases)
        world.sessions.go.set()
        error, _ = await call
        assert isinstance(error, UnknownLease)
        await until(lambda: [what for what, _ in world.sessions.said] == ["start", "end"])

    on(ask)


def test_a_worker_that_does_not_end_keeps_its_room() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        lease = await stub.Lease(pb.LeaseRequest(ttl_s=60, share_ppm=900_000), timeout=10)
        await stub.Attach(pb.AttachRequest(lease_id=lease.lease_id, table=TABLE), timeout=10)
        world.sessions.end_error = OSError("stuck")
        done = await stub.Release(pb.ReleaseRequest(lease_id=lease.lease_id), timeout=10)
        assert (done.sessions, done.freed_bytes) == (1, 0)
        error, _ = await refused(stub.Lease(pb.LeaseRequest(share_ppm=900_000), timeout=10))
        assert isinstance(error, QuotaExceeded)
        assert world.room.given_back == []
        # It is ended again until it has ended, and then its room is free.
        world.sessions.end_error = None
        await until(lambda: world.room.given_back == [lease.lease_id])
        assert world.sessions.running == set()
        await stub.Lease(pb.LeaseRequest(share_ppm=900_000, ttl_s=60), timeout=10)

    on(ask)


def test_room_is_kept_for_a_worker_that_did_not_end_before_its_lease() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        lease = await stub.Lease(pb.LeaseRequest(ttl_s=60), timeout=10)
        request = pb.AttachRequest(lease_id=lease.lease_id, table=TABLE)
        session = await stub.Attach(request, timeout=10)
        world.sessions.end_error = OSError("stuck")
        await stub.Detach(pb.DetachRequest(session_id=session.session_id), timeout=10)
        await stub.Release(pb.ReleaseRequest(lease_id=lease.lease_id), timeout=10)
        assert world.room.given_back == []
        world.sessions.end_error = None
        await until(lambda: world.room.given_back == [lease.lease_id])

    on(ask)


def test_an_attach_that_finds_its_lease_released_says_so() -> None:
    async def main() -> None:
        seats = Seats(None, None)  # type: ignore[arg-type]
        assert isinstance(await seats.worker("gone"), UnknownLease)

    asyncio.run(main())


def test_a_worker_that_ends_by_itself_is_no_session_any_more() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        lease = await stub.Lease(pb.LeaseRequest(ttl_s=60, max_sessions=1), timeout=10)
        request = pb.AttachRequest(lease_id=lease.lease_id, table=TABLE)
        session = await stub.Attach(request, timeout=10)
        world.service.worker_ended(session.session_id)
        await until(lambda: not world.sessions.running)
        await stub.Attach(request, timeout=10)

    on(ask)


def test_a_lease_runs_from_when_there_is_something_to_have() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        world.room.go.clear()
        call = stub.Lease(pb.LeaseRequest(ttl_s=0.5), timeout=10)
        await until(lambda: len(world.room.asked) == 1)
        world.let_pass(1)
        world.room.go.set()
        assert (await call).lease_id == world.room.asked[0].lease_id

    on(ask)


def test_leases_are_shown_to_whom_they_belong_and_to_administrators(tmp_path: Path) -> None:
    base = pool(tmp_path / "p")

    async def ask(world: World) -> None:
        ann, bob = world.stub(client(base)), world.stub(client(base, "bob"))
        lease = await ann.Lease(
            pb.LeaseRequest(ttl_s=60, mem_limit_bytes=GIB, max_sessions=3), timeout=10
        )
        attach = pb.AttachRequest(lease_id=lease.lease_id, table=TABLE, program="a\x1bb.py")
        session = await ann.Attach(attach, timeout=10)
        (seen,) = (await ann.Leases(pb.LeasesRequest(), timeout=10)).leases
        assert (seen.lease_id, seen.owner, seen.max_sessions) == (lease.lease_id, "ann", 3)
        assert seen.tenant == f"t-{lease.lease_id}"
        assert [d.mem_limit_bytes for d in seen.devices] == [GIB]
        assert seen.expires_s == 60
        assert [(s.session_id, s.program, s.held_bytes) for s in seen.sessions] == [
            (session.session_id, "ab.py", GIB)
        ]
        assert not (await bob.Leases(pb.LeasesRequest(), timeout=10)).leases
        root = world.stub(client(base, "root"))
        assert len((await root.Leases(pb.LeasesRequest(), timeout=10)).leases) == 1

    on(ask, identity=node(base), administrators=frozenset({"root"}))


def test_a_token_shows_its_own_lease_and_attaches_without_a_certificate() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        first = await stub.Lease(pb.LeaseRequest(ttl_s=60), timeout=10)
        await stub.Lease(pb.LeaseRequest(ttl_s=60), timeout=10)
        bearer = (("authorization", f"Bearer {first.token}"),)
        (seen,) = (await stub.Leases(pb.LeasesRequest(), timeout=10, metadata=bearer)).leases
        assert seen.lease_id == first.lease_id
        attach = pb.AttachRequest(lease_id=first.lease_id, table=TABLE)
        await stub.Attach(attach, timeout=10, metadata=bearer)
        await stub.Attach(attach, timeout=10)
        assert [s.by_token for s in world.service._state.sessions()] == [True, False]

    on(ask, administrators=frozenset({LOOPBACK}))


def test_a_lease_is_its_owners_across_connections(tmp_path: Path) -> None:
    base = pool(tmp_path / "p")

    async def ask(world: World) -> None:
        lease = await world.stub(client(base)).Lease(pb.LeaseRequest(ttl_s=60), timeout=10)
        renew = pb.RenewRequest(lease_id=lease.lease_id)
        await world.stub(client(base)).Renew(renew, timeout=10)
        bob = world.stub(client(base, "bob"))
        error, code = await refused(bob.Renew(renew, timeout=10))
        assert isinstance(error, UnknownLease)
        assert code is grpc.StatusCode.NOT_FOUND
        error, _ = await refused(
            bob.Attach(pb.AttachRequest(lease_id=lease.lease_id, table=TABLE), timeout=10)
        )
        assert isinstance(error, UnknownLease)

    on(ask, identity=node(base))


def test_several_devices_are_taken_all_or_none() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        await stub.Lease(pb.LeaseRequest(gpu="1", share_ppm=800_000, ttl_s=60), timeout=10)
        error, _ = await refused(
            stub.Lease(pb.LeaseRequest(gpu="0,1", share_ppm=300_000), timeout=10)
        )
        assert isinstance(error, QuotaExceeded)
        assert world.room.promises(world.room.devices[0].uuid) == ()
        lease = await stub.Lease(pb.LeaseRequest(gpu="1,0", share_ppm=100_000, ttl_s=60))
        assert [d.uuid for d in lease.devices] == [device(1).uuid, device(0).uuid]
        lease = await stub.Lease(pb.LeaseRequest(share_ppm=500_000, ttl_s=60))
        assert [d.uuid for d in lease.devices] == [device(0).uuid]

    on(ask, devices=(device(0), device(1)))
