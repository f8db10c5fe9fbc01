# SPDX-License-Identifier: Apache-2.0
"""A lease on a part of a GPU's memory: what a node makes of it, and a client of an older node."""

from __future__ import annotations

import grpc
import pytest
from remote_world import GIB, TABLE, World, device, on, refused

from harp.api.v1 import remote_pb2 as pb
from harp.errors import ConfigError, NoDevice, TableMismatch
from harp.model import Limits
from harp.remote.room import Place, part
from harp.remote.taking import Taker, Taking

MIB = 1 << 20


def place(number: int, gib: int, context_mib: int = 500) -> Place:
    return Place(f"GPU-{number}", f"gpu {number}", False, gib * GIB, 0, 0, 0.0, context_mib * MIB)


ONE = [place(0, 80)]
MIXED = [place(0, 80), place(1, 24), place(2, 48)]


@pytest.mark.parametrize(
    ("ppm", "asked", "gpu", "places", "mib"),
    [
        (250_000, 0, "", ONE, 20 * 1024 - 500),
        (1_000_000, 0, "", ONE, 80 * 1024 - 500),
        (250_000, 18 * GIB, "", ONE, 18 * 1024),  # less than the part
        (250_000, 30 * GIB, "", ONE, 20 * 1024 - 500),  # never more
        (250_000, 0, "", MIXED, 6 * 1024 - 500),  # whichever it will be
        (250_000, 0, "0,2", MIXED, 12 * 1024 - 500),
        (250_000, 0, "GPU-0", MIXED, 20 * 1024 - 500),
        (250_000, 0, "GPU-0, GPU-1x", MIXED, 6 * 1024 - 500),  # one of them is not known
        (10_000, 0, "", [place(0, 80, 819)], 0),
    ],
)
def test_the_part_of_the_smallest_that_is_meant(
    ppm: int, asked: int, gpu: str, places: list[Place], mib: int
) -> None:
    limits = Limits(mem_bytes=asked, share_ppm=7)
    if not mib:
        with pytest.raises(ConfigError, match="a context alone takes"):
            part(limits, ppm, gpu, places)
        return
    found = part(limits, ppm, gpu, places)
    assert found == Limits(mem_bytes=mib * MIB, share_ppm=7, context_bytes=500 * MIB)


def test_the_part_and_its_first_context_are_whole_granules() -> None:
    found = part(Limits(), 250_000, "", [place(0, 80, 501)])
    assert (found.mem_bytes, found.context_bytes) == ((20 * 1024 - 502) * MIB, 502 * MIB)


def test_without_a_part_nothing_is_changed() -> None:
    assert part(Limits(share_ppm=5), 0, "", []) == Limits(share_ppm=5)
    with pytest.raises(ConfigError, match="above 100%"):
        part(Limits(), 1_000_001, "", ONE)
    with pytest.raises(NoDevice):
        part(Limits(), 1, "", [])


def test_a_node_grants_the_part_and_refuses_what_is_none() -> None:
    async def ask(world: World) -> None:
        stub = world.stub(insecure=True)
        lease = await stub.Lease(pb.LeaseRequest(mem_ppm=250_000, ttl_s=60), timeout=10)
        assert [d.mem_limit_bytes for d in lease.devices] == [2 * GIB]
        error, code = await refused(stub.Lease(pb.LeaseRequest(mem_ppm=1_000_001), timeout=10))
        assert isinstance(error, ConfigError)
        assert code is grpc.StatusCode.INVALID_ARGUMENT

    on(ask, devices=(device(memory_bytes=8 * GIB),))


@pytest.mark.parametrize(("ppm", "limit", "fits"), [(0, 0, True), (1, 0, False), (1, 5, True)])
def test_a_node_that_knows_no_parts_sets_no_limit_and_is_not_taken(
    ppm: int, limit: int, fits: bool
) -> None:
    taker = Taker(pb.LeaseRequest(mem_ppm=ppm), ["n:1"], lambda _: pytest.fail("not asked"))
    devices = [pb.LeasedDevice(mem_limit_bytes=limit)]
    taking = Taking("n", "n:1", pb.LeaseReply(table=taker._table, devices=devices))
    found = taker._another_version(taking)
    assert (found is None) is fits
    if found is not None:
        assert isinstance(found, TableMismatch)
        assert "knows no parts" in found.message
    other = Taking("n", "n:1", pb.LeaseReply(table=TABLE, devices=devices))
    other.lease.table.hash = b"x" * 32
    assert taker._another_version(other) is not None
